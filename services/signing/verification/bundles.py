"""Believe bundles; the steps are those of the package."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from pkicore.algorithms import PublicKey, algorithm_of, known_public_key, verify_signature
from pkicore.dsse import MAX_ENVELOPE_BYTES, Envelope, pae
from pkicore.errors import PkiError
from pkicore.tsp import token_of
from services.signing.formats import raw
from services.signing.formats.log_entry import entry_digest_name, hashed_rekord
from services.signing.formats.unverified_bundle import MessageSignature, UnverifiedBundle
from services.signing.trusted_root import TrustedAuthority, TrustedLog, TrustedRoot
from services.signing.verification.certificates import Identity, check_identity, verify_leaf
from services.signing.verification.errors import NoLogEntryError, WrongArtefactError, WrongIdentityError
from services.signing.verification.statements import check_statement
from services.signing.verification.witnesses import verified_index, verified_time


@dataclass(frozen=True, slots=True)
class Verified:
    """What may be believed.

    Attributes:
        public_key: that signed.
        signed_before: the signature existed at this time; None where no time was asked for.
        log_index: of the log entry; None where no log was asked for.
        payload_type: of the payload; None for a signature over an artefact.
        payload: what was signed; None for a signature over an artefact.
    """

    public_key: PublicKey = field(repr=False)
    signed_before: datetime | None
    log_index: int | None
    payload_type: str | None
    payload: bytes | None = field(repr=False)


def verify_with_key(
    data: bytes,
    public_key: PublicKey,
    digests: Mapping[str, bytes] | None = None,
    *,
    root: TrustedRoot | None = None,
    max_bytes: int = MAX_ENVELOPE_BYTES,
) -> Verified:
    """Believe a bundle of a key that is known beforehand; the hint in it decides nothing.

    Args:
        data: the bundle.
        public_key: that must have signed.
        digests: of the artefact, by the name of the hash; needed where the bundle carries no envelope.
        root: demands an entry of one of its logs, and verifies the time-stamps that are there.
        max_bytes: of the bundle.

    Raises:
        VerificationError: see the tree above.
        PkiError: likewise.
    """
    bundle = UnverifiedBundle.parse(data, max_bytes=max_bytes)
    if bundle.certificate is not None:
        raise WrongIdentityError("the bundle is of a certificate, not of a key: say whose certificate is expected")
    signed_before, log_index = None, None
    if root is not None:
        if bundle.timestamps:
            signed_before = _time_of(bundle, root.timestamp_authorities)
        log_index = _index_of(bundle, public_key, root.logs, signed_before)
    return _believe(bundle, public_key, digests, signed_before, log_index)


def verify_with_certificate(
    data: bytes,
    identity: Identity,
    root: TrustedRoot,
    digests: Mapping[str, bytes] | None = None,
    *,
    max_bytes: int = MAX_ENVELOPE_BYTES,
) -> Verified:
    """Believe a bundle of a short-lived certificate; the steps are numbered above.

    Args:
        data: the bundle.
        identity: who must have signed.
        root: what is trusted.
        digests: of the artefact, by the name of the hash; needed where the bundle carries no envelope.
        max_bytes: of the bundle.

    Raises:
        VerificationError: see the tree above.
        PkiError: likewise.
    """
    bundle = UnverifiedBundle.parse(data, max_bytes=max_bytes)
    if bundle.certificate is None:
        raise WrongIdentityError("the bundle is of a key, not of a certificate: give the key that is expected")
    signed_before = _time_of(bundle, root.timestamp_authorities)
    verify_leaf(bundle.certificate, root, signed_before)
    check_identity(bundle.certificate, identity)
    public_key = known_public_key(bundle.certificate.public_key())
    log_index = _index_of(bundle, public_key, root.logs, signed_before)
    return _believe(bundle, public_key, digests, signed_before, log_index)


def _time_of(bundle: UnverifiedBundle, authorities: Sequence[TrustedAuthority]) -> datetime:
    tokens = []
    for response in bundle.timestamps:
        with suppress(PkiError):  # what is no response, or a refusal, vouches for nothing
            tokens.append(token_of(response))
    return verified_time(tokens, bundle.signature, authorities)


def _index_of(bundle: UnverifiedBundle, public_key: PublicKey, logs: Sequence[TrustedLog], at: datetime | None) -> int:
    if not bundle.log_entries:
        raise NoLogEntryError("the bundle has no log entry")
    name = entry_digest_name(algorithm_of(public_key))
    leaf = hashed_rekord(public_key, bundle.signature, name, _entry_digest(bundle, name), bundle.certificate)
    return verified_index(bundle.log_entries, leaf, logs, at)


def _entry_digest(bundle: UnverifiedBundle, name: str) -> bytes:
    if isinstance(bundle.content, Envelope):
        return hashlib.new(name, pae(bundle.content.payload_type, bundle.content.payload)).digest()
    if bundle.content.digest_name != name:
        raise NoLogEntryError(f"the bundle does not have the {name} digest that its log entry is about")
    return bundle.content.digest


def _believe(
    bundle: UnverifiedBundle,
    public_key: PublicKey,
    digests: Mapping[str, bytes] | None,
    signed_before: datetime | None,
    log_index: int | None,
) -> Verified:
    """Rule 5."""
    content = bundle.content
    if isinstance(content, MessageSignature):
        _verify_message(content, public_key, digests)
        return Verified(public_key, signed_before, log_index, None, None)
    message = pae(content.payload_type, content.payload)
    verify_signature(public_key, content.signatures[0].signature, message)
    if digests is not None:
        check_statement(content.payload_type, content.payload, digests)
    return Verified(public_key, signed_before, log_index, content.payload_type, content.payload)


def _verify_message(content: MessageSignature, public_key: PublicKey, digests: Mapping[str, bytes] | None) -> None:
    if digests is None:
        raise WrongArtefactError("the bundle is a signature over an artefact: give the artefact, or its digest")
    if content.digest_name is not None:
        own = digests.get(content.digest_name)
        if own is None or not hmac.compare_digest(own, content.digest):
            raise WrongArtefactError("the bundle is about another artefact")
    raw.verify(public_key, content.signature, digests)
