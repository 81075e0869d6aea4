"""What the service makes, before verifiers that share no code with it: sigstore-python, and cosign where it is there.

Offline, against the exported trusted root, without any flag that is called insecure. cosign is taken from PATH, or from
where PQCPKI_COSIGN says; `go install github.com/sigstore/cosign/v3/cmd/cosign@latest` puts it there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sigstore.errors import VerificationError
from sigstore.models import Bundle, TrustedRoot
from sigstore.verify import Verifier
from sigstore.verify.policy import AllOf, Identity, OIDCIssuerV2, OIDCSourceRepositoryURI
from sigstore_models.trustroot import v1

from pkicore.algorithms import sign_with
from pkicore.dsse import IN_TOTO_PAYLOAD, pae
from services.signing.formats import bundle
from services.signing.statements import Subject, statement
from services.signing.trusted_root import client_trust_config, signing_config
from tests.support.pki import MemoryKey
from tests.support.sigstore_world import GITHUB, WORKFLOW, SigstoreWorld

ARTEFACT = b"release 1.0\n" * 100
DIGEST = hashlib.sha256(ARTEFACT).digest()
PROVENANCE = b'{"buildDefinition":{"buildType":"https://acme.test/build","externalParameters":{}},"runDetails":{}}'
STATEMENT = statement([Subject("app.tar.gz", {"sha256": DIGEST.hex()})], "https://slsa.dev/provenance/v1", PROVENANCE)
COSIGN = os.environ.get("PQCPKI_COSIGN") or shutil.which("cosign")
needs_cosign = pytest.mark.skipif(COSIGN is None, reason="cosign is not on PATH, and PQCPKI_COSIGN does not say where")
IDENTITY = ("--certificate-identity", WORKFLOW, "--certificate-oidc-issuer", GITHUB)


@dataclass(frozen=True)
class Files:
    """What a relying party has.

    Attributes:
        directory: artefact, other, trusted_root.json, key.pem, and the bundles by mode and content.
    """

    directory: Path

    def read(self, name: str) -> bytes:
        """One of them."""
        return (self.directory / name).read_bytes()

    def cosign(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run cosign here, with a home of its own, so that it finds no other trusted root."""
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        return subprocess.run(
            [str(COSIGN), command, "--trusted-root", "trusted_root.json", *arguments],
            cwd=self.directory,
            env={"HOME": str(home), "PATH": os.defpath},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
async def files(tmp_path: Path) -> Files:
    """Bundles in both modes and with both contents, and what they are verified by."""
    world, key = SigstoreWorld(), MemoryKey.generate("ecdsa-p256")
    message = pae(IN_TOTO_PAYLOAD, STATEMENT)
    signed = await world.finish(key, sign_with(key.private_key, ARTEFACT), DIGEST)
    attested = await world.finish(key, sign_with(key.private_key, message), hashlib.sha256(message).digest())
    contents = {
        "artefact": ARTEFACT,
        "other": b"another artefact",
        "trusted_root.json": world.trusted_root.to_json(),
        "key.pem": key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "certificate-message": bundle.message_bundle(await world.sign_message(ARTEFACT), DIGEST),
        "certificate-dsse": bundle.dsse_output("x", await world.sign_statement(STATEMENT), STATEMENT).content,
        "key-message": bundle.message_bundle(signed, DIGEST),
        "key-dsse": bundle.dsse_output("x", attested, STATEMENT).content,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return Files(tmp_path)


def verifier(files: Files) -> Verifier:
    """sigstore-python with our trusted root, and nothing else."""
    return Verifier(trusted_root=TrustedRoot(v1.TrustedRoot.from_json(files.read("trusted_root.json"))))


POLICY = AllOf(
    [
        Identity(identity=WORKFLOW, issuer=GITHUB),
        OIDCIssuerV2(GITHUB),
        OIDCSourceRepositoryURI("https://github.com/acme/app"),
    ]
)


def test_sigstore_python_believes_a_signed_artefact(files: Files) -> None:
    """Certificate, SCT, time-stamp, log entry, checkpoint and signature hold, for the artefact and no other."""
    found = Bundle.from_json(files.read("certificate-message"))
    verifier(files).verify_artifact(ARTEFACT, found, POLICY)
    with pytest.raises(VerificationError):
        verifier(files).verify_artifact(b"another artefact", found, POLICY)


def test_sigstore_python_believes_an_attestation(files: Files) -> None:
    """Likewise for a Statement in an envelope, which comes back to the octet."""
    found = Bundle.from_json(files.read("certificate-dsse"))
    assert verifier(files).verify_dsse(found, POLICY) == (IN_TOTO_PAYLOAD, STATEMENT)


@pytest.mark.parametrize(("artefact", "identity", "status"), [
    ("artefact", WORKFLOW, 0), ("other", WORKFLOW, 1), ("artefact", f"{WORKFLOW}x", 1),
])  # fmt: skip
def test_sigstore_at_a_terminal_takes_our_trust_config(files: Files, artefact: str, identity: str, status: int) -> None:
    """`pqcsign trusted-root --client-trust-config` writes what --trust-config reads; nobody is asked."""
    config = client_trust_config(files.read("trusted_root.json"), signing_config("acme"))
    (files.directory / "trust.json").write_bytes(config)
    command = [sys.executable, "-m", "sigstore", "--trust-config", "trust.json", "verify", "identity", "--offline"]
    whose = ["--cert-identity", identity, "--cert-oidc-issuer", GITHUB]
    done = subprocess.run(
        [*command, "--bundle", "certificate-message", *whose, artefact],
        cwd=files.directory,
        env={"HOME": str(files.directory), "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert ("OK: artefact" in done.stderr) == (status == 0)


@pytest.mark.parametrize(
    "policy", [Identity(identity=f"{WORKFLOW}x", issuer=GITHUB), OIDCIssuerV2("https://gitlab.com")]
)
def test_sigstore_python_refuses_another_identity(files: Files, policy: Identity | OIDCIssuerV2) -> None:
    """Name and issuer are where foreign policies look for them."""
    with pytest.raises(VerificationError):
        verifier(files).verify_artifact(ARTEFACT, Bundle.from_json(files.read("certificate-message")), policy)


STAMPS, PROVENANCE_TYPE = "--use-signed-timestamps", ("--type", "slsaprovenance1")
COMMANDS = [
    ("verify-blob", "certificate-message", (*IDENTITY, STAMPS)),
    ("verify-blob", "certificate-message", IDENTITY),
    (
        "verify-blob-attestation",
        "certificate-dsse",
        (*IDENTITY, STAMPS, *PROVENANCE_TYPE),
    ),
    ("verify-blob", "key-message", ("--key", "key.pem", STAMPS)),
    ("verify-blob", "key-message", ("--key", "key.pem")),
    (
        "verify-blob-attestation",
        "key-dsse",
        ("--key", "key.pem", STAMPS, *PROVENANCE_TYPE),
    ),
]


@needs_cosign
@pytest.mark.parametrize(("command", "name", "arguments"), COMMANDS)
def test_cosign_believes_the_artefact_and_no_other(
    files: Files, command: str, name: str, arguments: tuple[str, ...]
) -> None:
    """Key mode and certificate mode, message and attestation, with our log in the trusted root."""
    verified = files.cosign(command, "--bundle", name, *arguments, "artefact")
    assert (verified.returncode, verified.stderr.strip()) == (0, "Verified OK")
    assert files.cosign(command, "--bundle", name, *arguments, "other").returncode == 1


@needs_cosign
def test_cosign_refuses_another_identity(files: Files) -> None:
    """Another workflow's name or issuer is not believed."""
    for wrong in ((WORKFLOW + "x", GITHUB), (WORKFLOW, "https://gitlab.com")):
        arguments = ("--certificate-identity", wrong[0], "--certificate-oidc-issuer", wrong[1])
        assert files.cosign("verify-blob", "--bundle", "certificate-message", *arguments, "artefact").returncode == 1
