"""What docs/signing/README.md shows and no console block runs: its policy for CI, its Python for other verifiers."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import sign_with
from pkicore.dsse import IN_TOTO_PAYLOAD, pae
from services.signing.callers import Caller
from services.signing.formats import SignedWith, bundle, dsse
from services.signing.policy import AccessRequest, PolicySchema, PolicySet
from services.signing.statements import Subject, statement
from tests.support.console import ROOT
from tests.support.pki import MemoryKey
from tests.support.sigstore_world import GITHUB, WORKFLOW, SigstoreWorld

PAGE: Final = (ROOT / "docs/signing/README.md").read_text()
ARTEFACT: Final = b"release 1.0\n" * 100
CLAIMS: Final = {
    "provider": "github",
    "repository_id": "74",
    "own_workflow": ".github/workflows/release.yml",
    "event_name": "push",
    "ref_type": "tag",
}


def block(language: str, word: str) -> str:
    """The one block of that language on the page that has the word in it."""
    (found,) = (
        text for text in re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) if word in text
    )
    return str(found)


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({}, True),
        ({"ref_type": "branch", "environment": "release"}, True),
        ({"ref_type": "branch", "environment": "release", "event_name": "workflow_dispatch"}, True),
        ({"ref_type": "branch"}, False),
        ({"ref_type": "branch", "environment": "preview"}, False),
        ({"event_name": "pull_request", "ref_type": "branch"}, False),
        ({"event_name": "pull_request", "environment": "release"}, False),
        ({"event_name": "issue_comment", "environment": "release"}, False),
        ({"event_name": "workflow_run"}, False),
        ({"repository_id": "75"}, False),
        ({"own_workflow": ".github/workflows/test.yml"}, False),
    ],
)
def test_the_policy_for_ci_lets_releases_in_and_no_other_run(changes: dict[str, str], *, allowed: bool) -> None:
    """Whoever copies it has no identity for pull requests, comments, or what follows other runs."""
    policies = PolicySet.of_files({"ci.cedar": block("text", "release-builds")}, PolicySchema())
    caller = Caller("oidc", f"{GITHUB}#repository_id=74", "default", CLAIMS | changes)
    for action in ("sign_certificate", "read"):
        assert policies.decide(AccessRequest(caller, action, "default")).allowed is allowed


def run(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Python as a reader of the page runs it, with nothing of ours on its way."""
    return subprocess.run(
        [sys.executable, "-I", "-c", script],
        cwd=directory,
        env={"HOME": str(directory)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_securesystemslib_takes_our_envelopes_as_the_page_says(tmp_path: Path) -> None:
    """Each line, by the key in the file; another key's file is refused."""
    key, other = MemoryKey.generate("ecdsa-p256"), MemoryKey.generate("ecdsa-p256")
    lines = []
    for number in range(2):
        content = statement([Subject("app.tar", {"sha256": "ab" * 32})], f"https://acme.test/{number}", b"{}")
        signature = sign_with(key.private_key, pae(IN_TOTO_PAYLOAD, content))
        lines.append(dsse.envelope([SignedWith("acme.k", key.algorithm, key.public_key, signature)], content))
    (tmp_path / "app.tar.es256.intoto.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    for shown, refused in ((key, False), (other, True)):
        pem = shown.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / "KEY.pem").write_bytes(pem)
        done = run(block("python", "securesystemslib"), tmp_path)
        assert ("VerificationError" in done.stderr, done.returncode) == (refused, int(refused)), done.stderr


async def test_sigstore_python_takes_our_bundles_as_the_page_says(tmp_path: Path) -> None:
    """For the artefact and the identity, and no other artefact."""
    world = SigstoreWorld()
    signed = await world.sign_message(ARTEFACT)
    (tmp_path / "trusted_root.json").write_bytes(world.trusted_root.to_json())
    (tmp_path / "app.tar.sigstore.json").write_bytes(bundle.message_bundle(signed, hashlib.sha256(ARTEFACT).digest()))
    script = block("python", "sigstore.models")
    script = re.sub(r'(identity)="[^"]*"', rf'\1="{WORKFLOW}"', script)
    for content, status in ((ARTEFACT, 0), (b"another", 1)):
        (tmp_path / "app.tar").write_bytes(content)
        done = run(script, tmp_path)
        assert done.returncode == status, done.stderr
