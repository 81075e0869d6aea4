"""Signatures in files of their own: by a key, by a short-lived certificate, with what stands beside them; forgeries."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

import orjson
import pytest

from pkicore.algorithms import ALGORITHMS, PublicKey, generate_private_key, known_public_key, sign_with
from pkicore.cms import all_digests
from pkicore.errors import BadCertificateError, MalformedError, PkiError, UnsupportedError
from pkicore.tsp import token_of
from services.signing.certificates import certified_key
from services.signing.formats import SignedWith, cms, jws
from services.signing.formats.unverified_bundle import MAX_LOG_ENTRY, UnverifiedLogEntry
from services.signing.statements import VSA_TYPE, Subject, statement
from services.signing.verification import (
    Identity,
    NoLogEntryError,
    NoTimestampError,
    VerificationError,
    WrongArtefactError,
    WrongIdentityError,
)
from services.signing.verification.detached import (
    Beside,
    Claim,
    believe_certificate,
    believe_key,
    cms_claims,
    is_cms,
    is_jws,
    jws_claim,
    raw_claim,
)
from tests.support.sigstore_world import GITHUB, IDENTITY, WORKFLOW, SigstoreWorld

CONTENT: Final = b"an artefact"
DIGESTS: Final = all_digests(CONTENT)
OTHER: Final = all_digests(b"another artefact")
EXPECTED: Final = Identity(WORKFLOW, GITHUB)
STATEMENT: Final = statement([Subject("app", {"sha256": DIGESTS["sha256"].hex()})], VSA_TYPE, b"{}")


@dataclass(frozen=True)
class Made:
    """A signature in certificate mode, and what is written beside it.

    Attributes:
        claim: of the file.
        signed: what the format was made of.
        world: that stamped and logged it.
    """

    claim: Claim
    signed: SignedWith
    world: SigstoreWorld

    def beside(self, *, timestamp: bool = True, entry: bool = True, certificate: bool = True) -> Beside:
        """The files."""
        signed = self.signed
        assert signed.timestamp is not None
        assert signed.log_entry is not None
        members = orjson.dumps(signed.log_entry.members())
        return Beside(
            {"app.tsr": signed.timestamp} if timestamp else {},
            {"app.log-entry.json": UnverifiedLogEntry.parse(members)} if entry else {},
            signed.certificate_chain[0] if certificate else None,
        )


async def raw_signature() -> Made:
    """Over the artefact."""
    world = SigstoreWorld()
    signed = await world.sign_message(CONTENT)
    return Made(raw_claim(signed.signature, DIGESTS, {}), signed, world)


async def jws_signature() -> Made:
    """Over a Statement about it."""
    world = SigstoreWorld()
    async with certified_key(IDENTITY, world, world.trusted_root, world.clock) as key:
        message = jws.to_sign("key", key.public_key, STATEMENT).message or b""
        signed = await world.finish(key, await key.sign(message), hashlib.sha256(message).digest())
    return Made(jws_claim(jws.output(signed).content, STATEMENT, DIGESTS), signed, world)


async def cms_signature() -> Made:
    """Over the artefact; the certificate and the time-stamp are in it."""
    world = SigstoreWorld()
    async with certified_key(IDENTITY, world, world.trusted_root, world.clock) as key:
        signer = cms.prepare("key", key.chain, DIGESTS, world.clock.now())
        message = signer.to_sign.message or b""
        signed = await world.finish(key, await key.sign(message), hashlib.sha256(message).digest())
    content = cms.outputs([signer], [signed])[0].content
    assert is_cms(content)
    (claim,) = cms_claims(content, DIGESTS)
    return Made(claim, signed, world)


FORMS: Final = pytest.mark.parametrize("make", [raw_signature, jws_signature, cms_signature])


@FORMS
async def test_an_identity_is_believed_with_time_and_log_entry(make: Callable[[], Awaitable[Made]]) -> None:
    """Of each form, in certificate mode; and by the certificate's key, where that is known."""
    made = await make()
    beside = made.beside()
    verified = believe_certificate(made.claim, EXPECTED, made.world.trusted_root, beside)
    beside.check_all_used()
    assert verified.log_index == made.signed.log_entry.index  # type: ignore[union-attr]  # it was logged
    assert verified.signed_before == made.world.clock.now()
    assert believe_key(made.claim, made.signed.public_key, None, made.beside()).log_index is None


@FORMS
async def test_another_identity_is_refused(make: Callable[[], Awaitable[Made]]) -> None:
    """By name, by issuer, by a root that does not know the CA."""
    made = await make()
    for identity in (Identity(f"{WORKFLOW}x", GITHUB), Identity(WORKFLOW, "https://gitlab.com")):
        with pytest.raises(WrongIdentityError):
            believe_certificate(made.claim, identity, made.world.trusted_root, made.beside())
    with pytest.raises((PkiError, VerificationError)):
        believe_certificate(made.claim, EXPECTED, SigstoreWorld().trusted_root, made.beside())
    without = replace(made.world.trusted_root, authorities=())
    with pytest.raises(BadCertificateError):
        believe_certificate(made.claim, EXPECTED, without, made.beside())


async def test_what_a_certificate_needs_must_be_there() -> None:
    """The certificate itself, and a time-stamp: whoever has neither proves nothing."""
    made = await raw_signature()
    root = made.world.trusted_root
    with pytest.raises(WrongIdentityError, match="brings no certificate"):
        believe_certificate(made.claim, EXPECTED, root, made.beside(certificate=False))
    with pytest.raises(NoTimestampError):
        believe_certificate(made.claim, EXPECTED, root, made.beside(timestamp=False))
    assert believe_certificate(made.claim, EXPECTED, root, made.beside(entry=False)).log_index is None


async def test_a_signature_about_something_else_is_refused() -> None:
    """Another artefact, another Statement, a Statement about another artefact."""
    world = SigstoreWorld()
    signed = await world.sign_message(CONTENT)
    key = signed.public_key
    with pytest.raises(PkiError):
        believe_key(raw_claim(signed.signature, OTHER, {}), key, None, Beside({}, {}))
    made = await jws_signature()
    content = jws.output(made.signed).content
    with pytest.raises(WrongArtefactError):
        believe_key(jws_claim(content, STATEMENT, OTHER), made.signed.public_key, None, Beside({}, {}))
    with pytest.raises(PkiError):
        believe_key(jws_claim(content, STATEMENT + b" ", DIGESTS), made.signed.public_key, None, Beside({}, {}))
    with pytest.raises(PkiError):
        believe_key(made.claim, key, None, Beside({}, {}))


async def test_a_forged_log_entry_or_timestamp_is_not_believed() -> None:
    """An entry that says it is this one, and is in no trusted log; a stamp by another authority."""
    made, stranger = await raw_signature(), SigstoreWorld()
    key: PublicKey = made.signed.public_key
    elsewhere = replace(made.world.trusted_root, logs=stranger.trusted_root.logs)
    with pytest.raises(NoLogEntryError):
        believe_certificate(made.claim, EXPECTED, elsewhere, made.beside())
    entry = UnverifiedLogEntry.parse(orjson.dumps(made.signed.log_entry.members()))  # type: ignore[union-attr]  # it was logged
    assert made.signed.timestamp is not None
    moved = {"entry": replace(entry, index=entry.index - 1)}
    beside = Beside({"app.tsr": made.signed.timestamp}, moved, made.signed.certificate_chain[0])
    with pytest.raises(PkiError):
        believe_certificate(made.claim, EXPECTED, made.world.trusted_root, beside)
    stamp = await stranger.timestamps.timestamp(made.signed.signature)
    with pytest.raises(NoTimestampError):
        believe_key(made.claim, key, made.world.trusted_root, Beside({"app.tsr": stamp}, {}))


async def test_what_is_about_nothing_is_left_over() -> None:
    """And named."""
    made, other = await raw_signature(), await raw_signature()
    assert other.signed.timestamp is not None
    beside = Beside({"other.tsr": other.signed.timestamp}, {})
    believe_key(made.claim, made.signed.public_key, made.world.trusted_root, beside)
    with pytest.raises(VerificationError, match=r"other\.tsr is about none"):
        beside.check_all_used()


async def test_files_that_are_none_are_refused() -> None:
    """A time-stamp that is none, or a lone token; a log entry that is none, or too long."""
    made = await raw_signature()
    assert made.signed.timestamp is not None
    for wrong in (b"", b"\x30\x00", token_of(made.signed.timestamp)):
        with pytest.raises(PkiError):
            Beside({"app.tsr": wrong}, {})
    for wrong in (b"", b"[]", b"{}", b" " * (MAX_LOG_ENTRY + 1)):
        with pytest.raises(MalformedError):
            UnverifiedLogEntry.parse(wrong)
    with pytest.raises(PkiError):
        cms_claims(b"\x30\x00", DIGESTS)


async def test_the_forms_are_told_apart_by_their_octets() -> None:
    """A raw signature is neither of the others."""
    made = await jws_signature()
    content = jws.output(made.signed).content
    assert (is_jws(content), is_cms(content)) == (True, False)
    assert (is_jws(made.signed.signature), is_cms(made.signed.signature)) == (False, False)


async def test_quantum_safe_signatures_of_a_file_need_the_file() -> None:
    """ML-DSA signs mu, which no digest gives."""
    key = generate_private_key(ALGORITHMS["ml-dsa-44"])
    claim = raw_claim(sign_with(key, CONTENT), DIGESTS, {})
    with pytest.raises(UnsupportedError, match="over the file"):
        believe_key(claim, known_public_key(key.public_key()), None, Beside({}, {}))
