from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import orjson
import pytest

from pkicore.algorithms import ALGORITHMS, PublicKey, generate_private_key, sign_with
from pkicore.dsse import IN_TOTO_PAYLOAD, pae
from pkicore.errors import BadCertificateError, BadSignatureError, ProofError, UnsupportedError
from services.signing.formats import SignedWith, bundle
from services.signing.formats.log_entry import entry_digest_name, hashed_rekord
from services.signing.statements import Subject, statement
from services.signing.trusted_root import Period, TrustedRoot
from services.signing.verification import (
    Identity,
    NoLogEntryError,
    NoTimestampError,
    Verified,
    WrongArtefactError,
    WrongIdentityError,
    verify_leaf,
    verify_with_certificate,
    verify_with_key,
)
from tests.support.pki import MemoryKey
from tests.support.sigstore_world import GITHUB, IDENTITY, WORKFLOW, SigstoreWorld

ARTEFACT = b"release\n"
DIGESTS = {name: hashlib.new(name, ARTEFACT).digest() for name in ("sha256", "sha384", "sha512")}
OTHER = {name: hashlib.new(name, b"other").digest() for name in ("sha256", "sha384", "sha512")}
STATEMENT = statement([Subject("app", {"sha256": DIGESTS["sha256"].hex()})], "https://cyclonedx.org/bom", b"{}")
WHO = Identity(WORKFLOW, GITHUB)
Members = dict[str, Any]


@dataclass(frozen=True)
class Given:
    """A world, and what was signed in it in certificate mode, one after the other."""

    world: SigstoreWorld
    signed: SignedWith
    attested: SignedWith

    @property
    def message(self) -> bytes:
        """The bundle about the artefact."""
        return bundle.message_bundle(self.signed, DIGESTS["sha256"])

    @property
    def attestation(self) -> bytes:
        """The bundle with the Statement."""
        return bundle.dsse_output("sbom", self.attested, STATEMENT).content

    def verify(self, data: bytes, *, root: TrustedRoot | None = None, who: Identity = WHO) -> Verified:
        """As a relying party that has the artefact."""
        return verify_with_certificate(data, who, root or self.world.trusted_root, DIGESTS)


@pytest.fixture(scope="module")
def given() -> Given:
    """Made once: nothing here changes it."""

    async def make() -> Given:
        world = SigstoreWorld()
        return Given(world, await world.sign_message(ARTEFACT), await world.sign_statement(STATEMENT))

    return asyncio.run(make())


def changed(data: bytes, change: Callable[[Members], object]) -> bytes:
    """The bundle with one change."""
    members = orjson.loads(data)
    change(members)
    return orjson.dumps(members)


def material(members: Members) -> Members:
    """The verification material of a bundle."""
    found: Members = members["verificationMaterial"]
    return found


def proof(members: Members) -> Members:
    """The inclusion proof of its log entry."""
    found: Members = material(members)["tlogEntries"][0]["inclusionProof"]
    return found


def set_index(members: Members, index: str) -> None:
    """Claim another place in the log."""
    material(members)["tlogEntries"][0]["logIndex"] = proof(members)["logIndex"] = index


async def with_key(world: SigstoreWorld, name: str = "ecdsa-p256") -> tuple[bytes, PublicKey]:
    """A bundle about the artefact by a long-lived key, stamped and logged."""
    key = MemoryKey.generate(name)
    digest = DIGESTS[entry_digest_name(key.algorithm)]
    signed = await world.finish(key, sign_with(key.private_key, ARTEFACT), digest)
    return bundle.message_bundle(signed, digest), key.public_key


async def attested_with_key(world: SigstoreWorld, name: str = "ecdsa-p256") -> tuple[bytes, PublicKey]:
    """A bundle with the Statement, likewise."""
    key = MemoryKey.generate(name)
    message = pae(IN_TOTO_PAYLOAD, STATEMENT)
    digest = hashlib.new(entry_digest_name(key.algorithm), message).digest()
    signed = await world.finish(key, sign_with(key.private_key, message), digest)
    return bundle.dsse_output("sbom", signed, STATEMENT).content, key.public_key


def test_both_kinds_of_bundle_are_believed(given: Given) -> None:
    """What the service makes is believed by what it exports, with time, log index and payload."""
    found = given.verify(given.message)
    assert (found.signed_before, found.log_index, found.payload) == (given.world.clock.now(), 3, None)
    found = given.verify(given.attestation)
    assert (found.log_index, found.payload_type, found.payload) == (4, IN_TOTO_PAYLOAD, STATEMENT)


@pytest.mark.parametrize("which", ["message", "attestation"])
def test_another_artefact_is_not_believed(given: Given, which: str) -> None:
    """A bundle is about its own artefact, whether it names it or a Statement does."""
    with pytest.raises(WrongArtefactError):
        verify_with_certificate(getattr(given, which), WHO, given.world.trusted_root, OTHER)


@pytest.mark.parametrize(
    "who",
    [Identity(f"{WORKFLOW}x", GITHUB), Identity(WORKFLOW.upper(), GITHUB), Identity(WORKFLOW, f"{GITHUB}/")],
)
def test_another_identity_is_not_believed(given: Given, who: Identity) -> None:
    """Name and issuer are compared to the letter: no prefix, no pattern, no case."""
    with pytest.raises(WrongIdentityError):
        given.verify(given.message, who=who)


CHANGES: list[tuple[str, Callable[[Members], object], type[Exception]]] = [
    ("no time-stamp", lambda m: material(m).pop("timestampVerificationData"), NoTimestampError),
    ("an empty list of time-stamps", lambda m: material(m).update(timestampVerificationData={}), NoTimestampError),
    ("no log entry", lambda m: material(m).update(tlogEntries=[]), NoLogEntryError),
    ("another log", lambda m: material(m)["tlogEntries"][0]["logId"].update(keyId="A" * 43 + "="), NoLogEntryError),
    ("another place in the log", lambda m: set_index(m, "2"), ProofError),
    ("a place beyond the log", lambda m: set_index(m, "9"), ProofError),
    ("a shorter proof", lambda m: proof(m)["hashes"].pop(), ProofError),
    ("a longer proof", lambda m: proof(m)["hashes"].append("A" * 43 + "="), ProofError),
    ("a hash of another size", lambda m: proof(m).update(hashes=["AAAA"]), ProofError),
    ("a checkpoint that nobody signed", lambda m: swap(proof(m), "\n4\n", "\n5\n"), BadSignatureError),
    ("a checkpoint of another name", lambda m: swap(proof(m), "log.", "lug."), ProofError),
    ("another entry", lambda m: material(m)["tlogEntries"][0].update(canonicalizedBody="e30="), NoLogEntryError),
]


def swap(found: Members, old: str, new: str) -> None:
    """Change the text of a proof's checkpoint."""
    text = found["checkpoint"]["envelope"]
    assert old in text
    found["checkpoint"]["envelope"] = text.replace(old, new)


@pytest.mark.parametrize(("change", "error"), [one[1:] for one in CHANGES], ids=[one[0] for one in CHANGES])
def test_evidence_that_is_missing_or_altered_is_noticed(
    given: Given, change: Callable[[Members], object], error: type[Exception]
) -> None:
    """Each piece of evidence is demanded, and proves what it claims or nothing."""
    given.verify(given.message)
    with pytest.raises(error):
        given.verify(changed(given.message, change))


def take(other: Members, name: str, members: Members) -> None:
    """Take a piece of evidence from another bundle."""
    material(members)[name] = material(other)[name]


def test_evidence_of_another_signature_proves_nothing(given: Given) -> None:
    """Log entry, time-stamp and leaf of one bundle do not speak for the other."""
    other = orjson.loads(given.attestation)
    for name, error in (
        ("tlogEntries", NoLogEntryError),
        ("timestampVerificationData", NoTimestampError),
        ("certificate", NoLogEntryError),
    ):
        mixed = changed(given.message, partial(take, other, name))
        with pytest.raises(error):
            given.verify(mixed)


async def test_a_signature_by_another_key_is_not_believed(given: Given) -> None:
    """A stranger's signature under a trusted leaf fails, even with time-stamp and an entry of a log that looks away."""
    key = MemoryKey(generate_private_key(ALGORITHMS["ecdsa-p256"]))
    signature, chain = sign_with(key.private_key, ARTEFACT), given.signed.certificate_chain
    forged = replace(await given.world.finish(key, signature, DIGESTS["sha256"]), certificate_chain=chain)
    with pytest.raises(NoLogEntryError):
        given.verify(bundle.message_bundle(forged, DIGESTS["sha256"]))
    entry = hashed_rekord(given.signed.public_key, signature, "sha256", DIGESTS["sha256"], chain[0])
    forged = replace(forged, log_entry=given.world.log.add(entry))
    with pytest.raises(BadSignatureError):
        given.verify(bundle.message_bundle(forged, DIGESTS["sha256"]))


def roots(given: Given) -> dict[str, TrustedRoot]:
    """Trusted roots that lack something, or trust somebody else instead."""
    own, other = given.world.trusted_root, SigstoreWorld().trusted_root
    past = Period(given.world.clock.now() - timedelta(days=2), given.world.clock.now() - timedelta(days=1))
    return {
        "no time": replace(own, timestamp_authorities=()),
        "other time": replace(own, timestamp_authorities=other.timestamp_authorities),
        "past time": replace(own, timestamp_authorities=(replace(own.timestamp_authorities[0], period=past),)),
        "no ca": replace(own, authorities=()),
        "other ca": replace(own, authorities=other.authorities),
        "past ca": replace(own, authorities=(replace(own.authorities[0], period=past),)),
        "no ct": replace(own, ct_logs=()),
        "other ct": replace(own, ct_logs=other.ct_logs),
        "past ct": replace(own, ct_logs=(replace(own.ct_logs[0], period=past),)),
        "no log": replace(own, logs=()),
        "other log": replace(own, logs=other.logs),
        "past log": replace(own, logs=(replace(own.logs[0], period=past),)),
        "log elsewhere": replace(own, logs=(replace(own.logs[0], base_url="https://other.test"),)),
    }


@pytest.mark.parametrize(
    ("name", "error"),
    [
        *((f"{when} time", NoTimestampError) for when in ("no", "other", "past")),
        *((f"{when} ca", BadCertificateError) for when in ("no", "other", "past")),
        *((f"{when} ct", ProofError) for when in ("no", "other", "past")),
        *((f"{when} log", NoLogEntryError) for when in ("no", "other", "past")),
        ("log elsewhere", ProofError),
    ],
)
def test_what_is_not_in_the_trusted_root_counts_for_nothing(given: Given, name: str, error: type[Exception]) -> None:
    """Each authority and log must be trusted, and must have been at the time in question."""
    with pytest.raises(error):
        given.verify(given.message, root=roots(given)[name])


def test_one_of_several_authorities_is_enough(given: Given) -> None:
    """A trusted root that names others besides ours, as after a change of keys, believes what ours made."""
    own, other = given.world.trusted_root, SigstoreWorld().trusted_root
    both = TrustedRoot(
        logs=other.logs + own.logs,
        authorities=other.authorities + own.authorities,
        ct_logs=other.ct_logs + own.ct_logs,
        timestamp_authorities=other.timestamp_authorities + own.timestamp_authorities,
    )
    assert given.verify(given.message, root=both).log_index == 3


async def test_a_signature_after_the_certificate_s_end_is_not_believed() -> None:
    """A short-lived certificate speaks for what existed while it lived, and for nothing later."""
    world = SigstoreWorld()
    signed = await world.sign_message(ARTEFACT)
    world.clock.advance(timedelta(minutes=11))
    late = replace(signed, timestamp=await world.timestamps.timestamp(signed.signature))
    with pytest.raises(BadCertificateError):
        verify_with_certificate(bundle.message_bundle(late, DIGESTS["sha256"]), WHO, world.trusted_root, DIGESTS)


async def test_a_certificate_may_have_ended_since() -> None:
    """The time of the signature counts, not the present."""
    world = SigstoreWorld()
    data = bundle.message_bundle(await world.sign_message(ARTEFACT), DIGESTS["sha256"])
    world.clock.advance(timedelta(days=700))
    assert verify_with_certificate(data, WHO, world.trusted_root, DIGESTS).log_index == 3


async def test_the_leaf_of_another_purpose_is_not_believed() -> None:
    """A certificate of the same CA that is not for code signing signs nothing here."""
    world = SigstoreWorld()
    with pytest.raises(BadCertificateError, match="code-signing"):
        verify_leaf(world.tsa.certificate, world.trusted_root, world.clock.now())


@pytest.mark.parametrize("name", ["ecdsa-p256", "ecdsa-p384", "rsa-2048"])
async def test_a_known_key_is_believed_with_and_without_evidence(name: str) -> None:
    """In key mode the key decides; a trusted root adds time and log, and demands the latter."""
    world = SigstoreWorld()
    data, key = await with_key(world, name)
    assert verify_with_key(data, key, DIGESTS).log_index is None
    found = verify_with_key(data, key, DIGESTS, root=world.trusted_root)
    assert (found.signed_before, found.log_index) == (world.clock.now(), 3)
    bare = changed(data, lambda m: material(m).update(tlogEntries=[]))
    verify_with_key(bare, key, DIGESTS)
    with pytest.raises(NoLogEntryError):
        verify_with_key(bare, key, DIGESTS, root=world.trusted_root)


async def test_a_quantum_safe_bundle_is_believed_with_its_log_entry() -> None:
    """A bundle by ML-DSA-65, which other verifiers do not know yet, verifies here in full."""
    world = SigstoreWorld()
    data, key = await attested_with_key(world, "ml-dsa-65")
    assert verify_with_key(data, key, DIGESTS, root=world.trusted_root).log_index == 3


async def test_a_hint_never_decides() -> None:
    """A bundle that hints at the expected key but was signed by another is refused; a wrong hint does no harm."""
    world = SigstoreWorld()
    data, key = await with_key(world)
    other, stranger = await with_key(world)
    hint = material(orjson.loads(data))["publicKey"]
    forged = changed(other, lambda m: material(m).update(publicKey=hint))
    with pytest.raises(BadSignatureError):
        verify_with_key(forged, key, DIGESTS)
    verify_with_key(forged, stranger, DIGESTS)


async def test_the_time_stamps_of_a_key_s_bundle_are_not_ignored() -> None:
    """Where a trusted root is given, a time-stamp that is there must be one of its authorities'."""
    world = SigstoreWorld()
    data, key = await with_key(world)
    root = replace(world.trusted_root, timestamp_authorities=SigstoreWorld().trusted_root.timestamp_authorities)
    with pytest.raises(NoTimestampError):
        verify_with_key(data, key, DIGESTS, root=root)


async def test_modes_are_not_mixed_up(given: Given) -> None:
    """A certificate's bundle is not believed for its key alone, nor a key's where an identity is expected."""
    with pytest.raises(WrongIdentityError, match="of a certificate"):
        verify_with_key(given.message, given.signed.public_key, DIGESTS)
    data, _ = await with_key(given.world)
    with pytest.raises(WrongIdentityError, match="of a key"):
        given.verify(data)


def test_a_message_without_its_artefact_is_not_believed(given: Given) -> None:
    """A signature over an artefact says nothing to whoever has not the artefact; a Statement does."""
    with pytest.raises(WrongArtefactError, match="give the artefact"):
        verify_with_certificate(given.message, WHO, given.world.trusted_root)
    assert verify_with_certificate(given.attestation, WHO, given.world.trusted_root).payload == STATEMENT


async def test_a_missing_digest_is_named() -> None:
    """The refusal says which digest of the artefact is needed."""
    data, key = await with_key(SigstoreWorld(), "ecdsa-p384")
    bare = changed(data, lambda m: m["messageSignature"].pop("messageDigest"))
    with pytest.raises(UnsupportedError, match="sha384"):
        verify_with_key(bare, key, {"sha256": DIGESTS["sha256"]})
    data, key = await attested_with_key(SigstoreWorld())
    with pytest.raises(UnsupportedError, match="sha256"):
        verify_with_key(data, key, {"sha512": DIGESTS["sha512"]})


def test_the_identity_of_the_tests_is_the_one_of_the_world() -> None:
    """What is expected here is what the world's CA was asked for."""
    assert (IDENTITY.san_uri, IDENTITY.issuer) == (WHO.name, WHO.issuer)
