"""`pqcsign verify`: by keys, by identities, hybrids; and what forgers and careless users try."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import ALGORITHMS, PrivateKey, algorithm_of, generate_private_key, known_public_key, sign_with
from pkicore.dsse import IN_TOTO_PAYLOAD, Envelope, Signature, key_id, pae
from services.signing.cli.main import main
from services.signing.formats import SignedWith
from services.signing.formats.bundle import dsse_output, message_output
from services.signing.formats.log_entry import hashed_rekord
from services.signing.statements import VSA_TYPE, Subject, statement
from tests.support.sigstore_world import GITHUB, WORKFLOW, SigstoreWorld

CONTENT: Final = b"an artefact\n" * 1000
POLICY: Final = "c" * 64
SBOM_TYPE: Final = "https://cyclonedx.org/bom"
CLASSICAL: Final = generate_private_key(ALGORITHMS["ecdsa-p256"])
QUANTUM_SAFE: Final = generate_private_key(ALGORITHMS["ml-dsa-65"])
STRANGER: Final = generate_private_key(ALGORITHMS["ecdsa-p256"])


def verify(*words: object) -> Result:
    """The command as a terminal runs it."""
    return CliRunner().invoke(main, ["verify", *map(str, words)])


def about(content: bytes, predicate_type: str = VSA_TYPE, **predicate: Any) -> bytes:  # noqa: ANN401 - JSON
    """A Statement about an artefact."""
    subject = Subject("app.bin", {"sha256": hashlib.sha256(content).hexdigest()})
    return statement([subject], predicate_type, orjson.dumps(predicate))


VSA: Final = about(CONTENT, verificationResult="PASSED", policy={"uri": "x:y", "digest": {"sha256": POLICY}})
SBOM: Final = about(CONTENT, SBOM_TYPE, bomFormat="CycloneDX")


def envelope(payload: bytes, *keys: PrivateKey) -> bytes:
    """An envelope that these keys have signed."""
    message = pae(IN_TOTO_PAYLOAD, payload)
    made = tuple(Signature(key_id(key.public_key()), sign_with(key, message)) for key in keys)
    return Envelope(IN_TOTO_PAYLOAD, payload, made).to_json()


def bundle(payload: bytes | None, key: PrivateKey) -> bytes:
    """A bundle of a key about a Statement, or about the artefact."""
    public_key = known_public_key(key.public_key())
    message = CONTENT if payload is None else pae(IN_TOTO_PAYLOAD, payload)
    signed = SignedWith("acme.key", algorithm_of(public_key), public_key, sign_with(key, message))
    if payload is None:
        return message_output(signed, hashlib.sha256(CONTENT).digest()).content
    return dsse_output("vsa", signed, payload).content


@dataclass(frozen=True)
class Files:
    """An artefact, public keys, and whatever a test puts beside them."""

    home: Path
    app: Path

    def put(self, name: str, *lines: bytes) -> Path:
        """A file of these lines."""
        path = self.home / name
        path.write_bytes(b"\n".join(lines))
        return path

    def key(self, key: PrivateKey) -> tuple[str, Path]:
        """The option that names it."""
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return "--key", self.put(f"{key_id(key.public_key())[:8]}.pem", pem)

    @property
    def both(self) -> Sequence[object]:
        """The keys of the hybrid."""
        return (*self.key(CLASSICAL), *self.key(QUANTUM_SAFE))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """An artefact."""
    (tmp_path / "app.bin").write_bytes(CONTENT)
    return Files(tmp_path, tmp_path / "app.bin")


def test_a_bundle_beside_the_file_is_found(files: Files) -> None:
    """FILE.sigstore.json, by the key that is expected; the answer is JSON where that is asked for."""
    files.put("app.bin.sigstore.json", bundle(None, CLASSICAL))
    result = verify(files.app, *files.key(CLASSICAL), "--json")
    assert result.exit_code == 0, result.output
    ((only,),) = [one["signatures"] for one in orjson.loads(result.stdout)["verified"]]
    assert (only["algorithm"], only["key_sha256"]) == ("ecdsa-p256", key_id(CLASSICAL.public_key()))


@pytest.mark.parametrize("key", [CLASSICAL, QUANTUM_SAFE])
def test_a_raw_signature_verifies_over_the_file(files: Files, key: PrivateKey) -> None:
    """ECDSA over its digest, ML-DSA over mu; not over another file."""
    signature = files.put("app.bin.sig", sign_with(key, CONTENT))
    assert verify(files.app, "--signature", signature, *files.key(key)).exit_code == 0
    files.app.write_bytes(CONTENT + b"!")
    assert verify(files.app, "--signature", signature, *files.key(key)).exit_code == 1


def test_a_hybrid_needs_both_keys(files: Files) -> None:
    """In one envelope, in two raw signatures, in two bundles; one of the two is not enough."""
    whole = files.put(
        "whole.intoto.jsonl", envelope(VSA, CLASSICAL, QUANTUM_SAFE), envelope(SBOM, QUANTUM_SAFE, CLASSICAL)
    )
    assert verify(files.app, "--bundle", whole, *files.both).exit_code == 0
    one, other = (files.put(f"{n}.sig", sign_with(key, CONTENT)) for n, key in enumerate((CLASSICAL, QUANTUM_SAFE)))
    assert verify(files.app, "--signature", one, "--signature", other, *files.both).exit_code == 0
    pair = files.put("pair.sigstore.jsonl", bundle(VSA, CLASSICAL), bundle(VSA, QUANTUM_SAFE))
    assert verify(files.app, "--bundle", pair, *files.both).exit_code == 0
    half = files.put("half.json", envelope(VSA, CLASSICAL))
    for words in (("--bundle", half), ("--signature", one), ("--bundle", files.put("b.json", bundle(VSA, CLASSICAL)))):
        result = verify(files.app, *words, *files.both)
        assert (result.exit_code, "has not signed" in result.stderr) == (1, True), result.output


def test_what_one_key_signed_is_not_believed_for_what_the_other_signed(files: Files) -> None:
    """A forger with the classical key adds an SBOM to what both have signed: that is noticed."""
    genuine, forged = envelope(VSA, CLASSICAL, QUANTUM_SAFE), bundle(SBOM, CLASSICAL)
    mixed = files.put("mixed.jsonl", genuine, forged)
    result = verify(files.app, "--bundle", mixed, *files.both)
    assert (result.exit_code, "an attestation in the bundle" in result.stderr) == (1, True)
    signature = files.put("app.sig", sign_with(CLASSICAL, CONTENT))
    pair = files.put("pair.jsonl", genuine)
    assert verify(files.app, "--bundle", pair, "--signature", signature, *files.both).exit_code == 1


def test_a_strangers_line_is_not_passed_over(files: Files) -> None:
    """Everything in a file must be signed by who is expected."""
    mixed = files.put("mixed.jsonl", bundle(VSA, CLASSICAL), bundle(SBOM, STRANGER))
    result = verify(files.app, "--bundle", mixed, *files.key(CLASSICAL))
    assert (result.exit_code, "nobody who is expected" in result.stderr) == (1, True)


def test_attestations_about_other_files_prove_nothing(files: Files) -> None:
    """However well they are signed."""
    other = files.put("other.json", envelope(about(b"another"), CLASSICAL))
    result = verify(files.app, "--bundle", other, *files.key(CLASSICAL))
    assert (result.exit_code, "other artefacts" in result.stderr) == (1, True)


def test_attestations_of_large_sboms_are_read(files: Files) -> None:
    """An SBOM of 4 MiB, in an envelope and in a bundle."""
    large = about(CONTENT, SBOM_TYPE, bomFormat="CycloneDX", components=["x" * 1000] * 4000)
    both = files.put("large.jsonl", envelope(large, CLASSICAL), bundle(large, CLASSICAL))
    assert verify(files.app, "--bundle", both, *files.key(CLASSICAL)).exit_code == 0


def test_the_same_key_twice_is_no_hybrid(files: Files) -> None:
    """Whoever gives a copy of a key is told."""
    copy = files.put("copy.pem", files.key(CLASSICAL)[1].read_bytes())
    result = verify(files.app, *files.key(CLASSICAL), "--key", copy)
    assert (result.exit_code, "given twice" in result.stderr) == (2, True)


def test_demands_are_met_by_what_was_verified(files: Files) -> None:
    """An attestation of a type, a summary that passed under a policy; neither is believed to be there otherwise."""
    both = files.put("both.jsonl", bundle(VSA, CLASSICAL), bundle(SBOM, CLASSICAL))
    words = (files.app, "--bundle", both, *files.key(CLASSICAL))
    assert verify(*words, "--predicate-type", SBOM_TYPE, "--policy-sha256", POLICY.upper()).exit_code == 0
    assert verify(*words, "--predicate-type", "https://slsa.dev/provenance/v1").exit_code == 1
    assert verify(*words, "--policy-sha256", "d" * 64).exit_code == 1
    failed = about(CONTENT, verificationResult="FAILED", policy={"uri": "x:y", "digest": {"sha256": POLICY}})
    words = (files.app, "--bundle", files.put("failed.json", bundle(failed, CLASSICAL)), *files.key(CLASSICAL))
    assert verify(*words, "--policy-sha256", POLICY).exit_code == 1


async def test_an_identity_is_verified_with_a_trusted_root(files: Files) -> None:
    """Name and issuer to the letter; a log entry and a time-stamp are in the answer."""
    world = SigstoreWorld()
    signed = await world.sign_message(CONTENT)
    files.put("app.bin.sigstore.json", message_output(signed, hashlib.sha256(CONTENT).digest()).content)
    root = files.put("trusted_root.json", world.trusted_root.to_json())
    by = ("--trusted-root", root, "--certificate-identity", WORKFLOW, "--certificate-oidc-issuer", GITHUB)
    result = verify(files.app, *by)
    assert (result.exit_code, "log entry" in result.stdout) == (0, True), result.output
    other = SigstoreWorld().trusted_root.to_json()
    for wrong in (
        (*by[:2], "--certificate-identity", f"{WORKFLOW}x", *by[4:]),
        (*by[:4], "--certificate-oidc-issuer", "https://gitlab.com"),
        ("--trusted-root", files.put("other.json", other), *by[2:]),
    ):
        assert verify(files.app, *wrong).exit_code == 1


async def test_with_a_trusted_root_a_log_entry_is_demanded_of_keys_too(files: Files) -> None:
    """By one of the keys of a hybrid; what has no entry, or one of another log, is refused."""
    world = SigstoreWorld()
    root = files.put("trusted_root.json", world.trusted_root.to_json())
    public_key = known_public_key(CLASSICAL.public_key())
    signature = sign_with(CLASSICAL, pae(IN_TOTO_PAYLOAD, VSA))
    digest = hashlib.sha256(pae(IN_TOTO_PAYLOAD, VSA)).digest()
    entry = world.log.add(hashed_rekord(public_key, signature, "sha256", digest, None))
    signed = SignedWith("acme.key", algorithm_of(public_key), public_key, signature, log_entry=entry)
    logged = dsse_output("vsa", signed, VSA).content
    hybrid = files.put("hybrid.jsonl", logged, bundle(VSA, QUANTUM_SAFE))
    words = (files.app, "--bundle", hybrid, *files.both)
    assert verify(*words, "--trusted-root", root).exit_code == 0
    other = files.put("other.json", SigstoreWorld().trusted_root.to_json())
    assert verify(*words, "--trusted-root", other).exit_code == 1
    for unlogged in (bundle(VSA, CLASSICAL), envelope(VSA, CLASSICAL)):
        by_one = (files.app, "--bundle", files.put("one.json", unlogged), *files.key(CLASSICAL))
        assert verify(*by_one).exit_code == 0
        result = verify(*by_one, "--trusted-root", root)
        assert (result.exit_code, "no entry in a trusted log" in result.stderr) == (1, True), result.output
    raw = ("--signature", files.put("app.sig", sign_with(CLASSICAL, CONTENT)), *files.key(CLASSICAL))
    assert verify(files.app, *raw, "--trusted-root", root).exit_code == 1


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--certificate-identity", "x"),
        ("--certificate-oidc-issuer", "x"),
        ("--certificate-identity", "x", "--certificate-oidc-issuer", "y"),
    ],
)
def test_without_saying_who_nothing_is_verified(files: Files, words: tuple[str, ...]) -> None:
    """That anybody has signed is not worth knowing."""
    files.put("app.bin.sigstore.json", bundle(None, CLASSICAL))
    assert verify(files.app, *words).exit_code == 2
    assert verify(files.app, *files.key(CLASSICAL), *words).exit_code == (2 if words else 0)


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [("app.bin.sigstore.json", b"{}", 1), ("app.bin.sigstore.json", b"[", 1), ("other", b"", 4)],
)
def test_files_that_are_none_are_named(files: Files, name: str, content: bytes, status: int) -> None:
    """A bundle that is none proves nothing; one that is not there cannot be read."""
    files.put(name, content)
    assert verify(files.app, *files.key(CLASSICAL)).exit_code == status


def test_keys_and_roots_that_are_none_are_named(files: Files) -> None:
    """Before anything is believed."""
    nonsense = files.put("nonsense.pem", b"-----BEGIN nonsense")
    assert verify(files.app, "--key", nonsense).exit_code == 4
    assert verify(files.app, *files.key(CLASSICAL), "--trusted-root", nonsense).exit_code == 1
    assert verify(files.home / "none", *files.key(CLASSICAL)).exit_code == 4
    assert verify(files.app, "--bundle", files.put("empty.jsonl", b"\n"), *files.key(CLASSICAL)).exit_code == 1
