"""DSSE envelopes: the hybrid one with all signatures over one PAE, and each signature alone for readers that take one.

A payload may be larger than memory should hold: then `envelope_chunks` reads it in pieces, and what is signed is the
PAE, hashed piece by piece behind `pkicore.dsse.pae_head`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pkicore.dsse import (
    IN_TOTO_PAYLOAD,
    Signature,
    encode_chunks,
    envelope_head,
    envelope_tail,
    key_id,
    pae,
)
from services.signing.formats import Output, SignedWith, ToSign, short_name

MEDIA_TYPE: Final = "application/vnd.dsse.envelope.v1+json"
HYBRID: Final = "hybrid.dsse.json"


def to_sign(key_name: str, payload: bytes, payload_type: str = IN_TOTO_PAYLOAD) -> ToSign:
    """What the key signs: the PAE of the payload."""
    return ToSign(key_name, message=pae(payload_type, payload))


def outputs(
    kind: str, signed: Sequence[SignedWith], payload: bytes, payload_type: str = IN_TOTO_PAYLOAD
) -> list[Output]:
    """The files for a payload that is at hand: `KIND.dsse.json` with all signatures, one file more for each of several.

    `keyid` is the hexadecimal SHA-256 of the key's SubjectPublicKeyInfo.
    """
    found = [Output(f"{kind}.dsse.json", MEDIA_TYPE, envelope(signed, payload, payload_type))]
    if len(signed) > 1:
        found += [
            Output(f"{kind}-{short_name(one.algorithm)}.dsse.json", MEDIA_TYPE, envelope([one], payload, payload_type))
            for one in signed
        ]
    return found


def envelope(signed: Sequence[SignedWith], payload: bytes, payload_type: str = IN_TOTO_PAYLOAD) -> bytes:
    """One envelope around a payload that is at hand."""
    return b"".join(envelope_chunks(signed, [payload], payload_type))


def envelope_chunks(
    signed: Sequence[SignedWith], payload: Iterable[bytes], payload_type: str = IN_TOTO_PAYLOAD, *, named: bool = True
) -> Iterator[bytes]:
    """One envelope in pieces, around a payload that comes in pieces.

    Args:
        signed: at least one, over the PAE of the whole payload.
        payload: pieces of any size.
        payload_type: of the payload.
        named: whether `keyid` says which keys these are; else it is empty.
    """
    signatures = [Signature(key_id(one.public_key) if named else "", one.signature) for one in signed]
    yield envelope_head()
    yield from encode_chunks(payload)
    yield envelope_tail(payload_type, signatures)
