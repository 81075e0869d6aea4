"""Believe envelopes of keys that are known beforehand: a hybrid by each of its keys, a composite by both halves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pkicore.algorithms import PublicKey
from pkicore.composite import CompositePublicKey
from pkicore.dsse import MAX_ENVELOPE_BYTES, Envelope, verify_all
from services.signing.formats import composite
from services.signing.verification.statements import check_statement


def verify_hybrid(
    data: bytes,
    keys: Sequence[PublicKey],
    digests: Mapping[str, bytes] | None = None,
    *,
    max_bytes: int = MAX_ENVELOPE_BYTES,
) -> Envelope:
    """The envelope that every one of these keys has signed.

    Args:
        data: a DSSE envelope.
        keys: the policy; of a hybrid one both.
        digests: of the artefact that its Statement must name, by the name of the hash; None for any.
        max_bytes: of the envelope.

    Raises:
        MalformedError: it does not parse.
        BadSignatureError: a key has not signed it.
        WrongArtefactError: it is about another artefact.
    """
    envelope = Envelope.parse(data, max_bytes=max_bytes)
    verify_all(envelope, keys)
    return _about(envelope, digests)


def verify_composite(
    data: bytes,
    keys: CompositePublicKey,
    digests: Mapping[str, bytes] | None = None,
    *,
    max_bytes: int = MAX_ENVELOPE_BYTES,
) -> Envelope:
    """The envelope that both halves of a composite key have signed (draft -19).

    Args:
        data: a DSSE envelope.
        keys: both halves.
        digests: as for `verify_hybrid`.
        max_bytes: of the envelope.

    Raises:
        MalformedError: it does not parse.
        BadSignatureError: the key has not signed it.
        WrongArtefactError: it is about another artefact.
    """
    envelope = Envelope.parse(data, max_bytes=max_bytes)
    composite.verify_envelope(envelope, keys)
    return _about(envelope, digests)


def _about(envelope: Envelope, digests: Mapping[str, bytes] | None) -> Envelope:
    if digests is not None:
        check_statement(envelope.payload_type, envelope.payload, digests)
    return envelope
