"""What the service hands out: bytes around signatures that are made elsewhere. Pure: no I/O, no clock, no key.

Each module is one format, in two steps: `to_sign` says what a key must sign, and with what comes back as a `SignedWith`
the format makes its `Output`s. Which key that is, and whether it may sign at all, are the caller's questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography import x509

from pkicore.algorithms import Algorithm, PublicKey
from services.signing.formats.log_entry import LogEntry

__all__ = ["LogEntry", "Output", "SignedWith", "ToSign", "short_name"]


class ToSign(NamedTuple):
    """What a key is asked to sign; either a message or a digest.

    Attributes:
        key_id: of the key, as the signer names it.
        message: the whole message; None where only its digest is known.
        digest: one member, by the name of the hash ("sha256") or "mu" for the 64 octets of ML-DSA (FIPS 204 §6.2).
    """

    key_id: str
    message: bytes | None = None
    digest: Mapping[str, bytes] | None = None


@dataclass(frozen=True, slots=True)
class SignedWith:
    """One signature and what makes it believed; the caller has verified the signature.

    Attributes:
        key_id: of the key, as the signer names it.
        algorithm: of the key.
        public_key: its public half.
        signature: ECDSA as DER, the rest raw.
        certificate_chain: the key's certificate and those above it; empty where the key is known by itself.
        timestamp: TimeStampResp in DER over the signature's octets; None where there is none.
        log_entry: of the transparency log; None where there is none.
    """

    key_id: str
    algorithm: Algorithm
    public_key: PublicKey = field(repr=False)
    signature: bytes = field(repr=False)
    certificate_chain: tuple[x509.Certificate, ...] = field(default=(), repr=False)
    timestamp: bytes | None = field(default=None, repr=False)
    log_entry: LogEntry | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Output:
    """A file to be served.

    Attributes:
        name: of the file, unique in a record.
        media_type: what it is served as.
        content: its exact octets.
    """

    name: str
    media_type: str
    content: bytes = field(repr=False)


def short_name(algorithm: Algorithm) -> str:
    """An algorithm in the name of a file: es256, rs256, eddsa, ml-dsa-65."""
    return algorithm.jws.lower()
