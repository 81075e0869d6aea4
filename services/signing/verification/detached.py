"""Believe a signature that stands in a file of its own: raw, JWS, CMS; with the files that stand beside it, or raise.

The rules are those of `services.signing.verification`, by the same numbers. A bundle carries what speaks for it; here
time-stamps and log entries are files of their own, found by what they are about, and none may be left over: whoever
gives one wants it to count. What they say is believed only after it was verified.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Final

from cryptography import x509

from pkicore import cms
from pkicore.algorithms import PublicKey, algorithm_of, known_public_key
from pkicore.dsse import IN_TOTO_PAYLOAD, key_id
from pkicore.encoding import base64url_encode
from pkicore.errors import BadSignatureError, MalformedError, UnsupportedError
from pkicore.jose.jws import native_signature
from pkicore.jose.strict import strict_base64url
from pkicore.tsp import MessageImprint, TstInfo, token_of
from pkicore.x509 import PARSE_ERRORS
from services.signing.formats import jws, raw
from services.signing.formats.log_entry import entry_digest_name, hashed_rekord
from services.signing.formats.unverified_bundle import UnverifiedLogEntry
from services.signing.trusted_root import TrustedRoot
from services.signing.verification import (
    Identity,
    NoTimestampError,
    VerificationError,
    Verified,
    WrongIdentityError,
    check_identity,
    check_statement,
    verified_index,
    verified_time,
    verify_leaf,
)

_ID_SIGNED_DATA: Final = bytes.fromhex("06092a864886f70d010702")  # OBJECT IDENTIFIER of pkcs7-signedData
_OID_WITHIN: Final = 24  # octets of a ContentInfo that hold its type


@dataclass(frozen=True, slots=True)
class Claim:
    """One signature that is not believed yet.

    Attributes:
        check: believes that the key made it, and answers its octets as the key made them; raises else.
        digest: of what was signed, by the name of the hash, as a log entry has it.
        payload: the Statement that was signed; None: the artefact.
        certificate: of its key; None where it brings none; raises where that is not certain.
        tokens: RFC 3161 tokens that it brings.
    """

    check: Callable[[PublicKey], bytes]
    digest: Callable[[str], bytes]
    payload: bytes | None = field(default=None, repr=False)
    certificate: Callable[[], x509.Certificate | None] = lambda: None
    tokens: tuple[bytes, ...] = ()


def is_jws(content: bytes) -> bool:
    """Whether a signature is a detached JWS: two dots with nothing between, and ASCII around them."""
    return content.isascii() and b".." in content


def is_cms(content: bytes) -> bool:
    """Whether a signature is a ContentInfo with SignedData in DER."""
    return _ID_SIGNED_DATA in content[:_OID_WITHIN]


def raw_claim(signature: bytes, digests: Mapping[str, bytes], mu: Mapping[str, bytes]) -> Claim:
    """A raw signature over an artefact.

    Args:
        signature: its octets.
        digests: of the artefact, by the name of the hash.
        mu: of the artefact, by the hexadecimal SHA-256 of an ML-DSA key's SubjectPublicKeyInfo.
    """

    def check(public_key: PublicKey) -> bytes:
        own = mu.get(key_id(public_key))
        if own is None and algorithm_of(public_key).family == "mldsa":
            raise UnsupportedError("a raw signature by ML-DSA is verified over the file: its digest does not do")
        raw.verify(public_key, signature, digests if own is None else {raw.MU: own})
        return signature

    return Claim(check, partial(_given, digests))


def jws_claim(content: bytes, statement: bytes, digests: Mapping[str, bytes]) -> Claim:
    """A detached JWS over a Statement, which must name the artefact."""
    content = content.strip()

    def check(public_key: PublicKey) -> bytes:
        jws.verify(content, statement, public_key)
        check_statement(IN_TOTO_PAYLOAD, statement, digests)
        signature = strict_base64url(content.decode().rpartition(".")[2], "signature")
        return native_signature(algorithm_of(public_key).jws, signature)

    message = content.partition(b".")[0] + b"." + base64url_encode(statement).encode()
    return Claim(check, partial(_hashed, message), statement)


def cms_claims(content: bytes, digests: Mapping[str, bytes]) -> list[Claim]:
    """The signers of a detached CMS SignedData over an artefact; they are believed together, or not at all.

    Raises:
        MalformedError: it does not parse.
        UnsupportedError: a form that is not offered.
    """
    unverified = cms.UnverifiedSignedData.parse(content)

    @cache
    def verified() -> tuple[cms.VerifiedSigner, ...]:
        return cms.verify_detached(content, digests)

    def check(number: int, public_key: PublicKey) -> bytes:
        signer = verified()[number]
        if key_id(_public_key(signer.certificate)) != key_id(public_key):
            raise BadSignatureError("this signer of the CMS signature has another key")
        return signer.signature

    return [
        Claim(
            partial(check, number),
            partial(_hashed, info.message),
            certificate=partial(_certificate, verified, number),
            tokens=info.timestamp_tokens,
        )
        for number, info in enumerate(unverified.signers)
    ]


class Beside:
    """Time-stamps and log entries that were given as files, by what they are called.

    Args:
        timestamps: TimeStampResp in DER.
        entries: of transparency logs.
        certificate: of raw and JWS signatures in certificate mode.

    Raises:
        MalformedError: a time-stamp that does not parse.
        TimestampRefusedError: one that is a refusal.
    """

    def __init__(
        self,
        timestamps: Mapping[str, bytes],
        entries: Mapping[str, UnverifiedLogEntry],
        certificate: x509.Certificate | None = None,
    ) -> None:
        self._tokens = {name: token_of(response) for name, response in timestamps.items()}
        self._imprints = {name: _imprint(token) for name, token in self._tokens.items()}
        self._entries = dict(entries)
        self._unused = {*timestamps, *entries}
        self.certificate = certificate

    def tokens_of(self, signature: bytes) -> list[bytes]:
        """The tokens that say they are about these octets."""
        found = []
        for name, imprint in self._imprints.items():
            own = MessageImprint.of(imprint.hash_name, hashlib.new(imprint.hash_name, signature).digest())
            if hmac.compare_digest(own.digest, imprint.digest):
                self._unused.discard(name)
                found.append(self._tokens[name])
        return found

    def entries_of(self, leaf: bytes) -> tuple[UnverifiedLogEntry, ...]:
        """The log entry that says it is this one; none, or one."""
        for name, entry in self._entries.items():
            if hmac.compare_digest(entry.body, leaf):
                self._unused.discard(name)
                return (entry,)
        return ()

    def check_all_used(self) -> None:
        """Raises VerificationError where something that was given is about nothing that was believed."""
        if self._unused:
            raise VerificationError(f"{min(self._unused)} is about none of the signatures")


def believe_key(claim: Claim, public_key: PublicKey, root: TrustedRoot | None, beside: Beside) -> Verified:
    """Rule 5 with a key that is known beforehand; 1 and 4 for what speaks for it, where a trusted root is given.

    Raises:
        VerificationError, PkiError: see `services.signing.verification`.
    """
    signature = claim.check(public_key)
    return _witnessed(claim, public_key, signature, None, root, beside)


def believe_certificate(claim: Claim, identity: Identity, root: TrustedRoot, beside: Beside) -> Verified:
    """All rules but 4, which is for what speaks for it: one entry is enough for what several files are about.

    Raises:
        VerificationError, PkiError: see `services.signing.verification`.
    """
    certificate = claim.certificate() or beside.certificate
    if certificate is None:
        raise WrongIdentityError("the signature brings no certificate: give the one that stands beside it")
    public_key = _public_key(certificate)
    signature = claim.check(public_key)
    tokens = [*claim.tokens, *beside.tokens_of(signature)]
    if not tokens:
        raise NoTimestampError("there is no time-stamp of this signature, which certificates need")
    verify_leaf(certificate, root, verified_time(tokens, signature, root.timestamp_authorities))
    check_identity(certificate, identity)
    return _witnessed(claim, public_key, signature, certificate, root, beside)


def _witnessed(
    claim: Claim,
    public_key: PublicKey,
    signature: bytes,
    certificate: x509.Certificate | None,
    root: TrustedRoot | None,
    beside: Beside,
) -> Verified:
    signed_before, index = None, None
    if root is not None:
        if tokens := [*claim.tokens, *beside.tokens_of(signature)]:
            signed_before = verified_time(tokens, signature, root.timestamp_authorities)
        name = entry_digest_name(algorithm_of(public_key))
        leaf = hashed_rekord(public_key, signature, name, claim.digest(name), certificate)
        if entries := beside.entries_of(leaf):
            index = verified_index(entries, leaf, root.logs, signed_before)
    payload_type = None if claim.payload is None else IN_TOTO_PAYLOAD
    return Verified(public_key, signed_before, index, payload_type, claim.payload)


def _imprint(token: bytes) -> MessageImprint:
    """What a token says it is about."""
    content = cms.UnverifiedSignedData.parse(token).content
    if content is None:
        raise MalformedError("a time-stamp holds no TSTInfo")
    return TstInfo.parse(content).imprint


def _certificate(verified: Callable[[], Sequence[cms.VerifiedSigner]], number: int) -> x509.Certificate:
    return verified()[number].certificate


def _given(digests: Mapping[str, bytes], name: str) -> bytes:
    if name not in digests:
        raise UnsupportedError(f"the log entry needs the artefact's {name}")
    return digests[name]


def _hashed(message: bytes, name: str) -> bytes:
    return hashlib.new(name, message).digest()


def _public_key(certificate: x509.Certificate) -> PublicKey:
    try:
        return known_public_key(certificate.public_key())
    except PARSE_ERRORS as error:
        raise UnsupportedError("the key of the certificate is none that is offered") from error
