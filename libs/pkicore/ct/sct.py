"""Signed certificate timestamps and lists of them (RFC 6962 §3.2, §3.3), with the extension of C2SP static-ct-api.

A log's key is ECDSA on P-256 or RSA, with SHA-256 (RFC 6962 §2.1.4); there is no other version 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import PublicKey, algorithm_of
from pkicore.encoding import OCTET_STRING, DerReader, octet_string
from pkicore.errors import MalformedError, UnsupportedError

LOG_ID_SIZE: Final = 32
MAX_TIMESTAMP: Final = 2**63 - 1
"""Milliseconds since 1970 at most."""
MAX_LEAF_INDEX: Final = 2**40 - 1
_V1: Final = 0
_LEAF_INDEX: Final = 0
_LEAF_INDEX_SIZE: Final = 5
_MAX_U16: Final = 0xFFFF
_ALGORITHMS: Mapping[str, bytes] = MappingProxyType({"ecdsa": b"\x04\x03", "rsa": b"\x04\x01"})
"""Family of the log's key → SignatureAndHashAlgorithm (RFC 5246 §7.4.1.4.1): sha256(4) with ecdsa(3) or rsa(1)."""
_CURVE: Final = "ecdsa-p256"


def log_id(log_key: PublicKey) -> bytes:
    """The SHA-256 of the log's public key as SubjectPublicKeyInfo (RFC 6962 §3.2)."""
    return hashlib.sha256(log_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def signature_algorithm(log_key: PublicKey) -> bytes:
    """The two octets that name the algorithm of a log's key.

    Raises:
        UnsupportedError: no log of version 1 has such a key.
        BadKeyError: likewise, for RSA.
    """
    row = algorithm_of(log_key)
    if row.family not in _ALGORITHMS or (row.family == "ecdsa" and row.name != _CURVE):
        raise UnsupportedError("a log of RFC 6962 has an ECDSA key on P-256 or an RSA key")
    return _ALGORITHMS[row.family]


@dataclass(frozen=True)
class SignedCertificateTimestamp:
    """A log's promise, version 1; only `verify_sct` says that it is the log's.

    Attributes:
        log_id: SHA-256 of the log's key.
        timestamp: milliseconds since 1970.
        extensions: CtExtensions without their length; opaque to RFC 6962.
        algorithm: SignatureAndHashAlgorithm, two octets.
        signature: as the log's key made it.

    Raises:
        MalformedError: what does not fit its field.
    """

    log_id: bytes
    timestamp: int
    extensions: bytes
    algorithm: bytes
    signature: bytes

    def __post_init__(self) -> None:
        if len(self.log_id) != LOG_ID_SIZE or len(self.algorithm) != len(_ALGORITHMS["ecdsa"]):
            raise MalformedError("the log ID or the algorithm of a timestamp has another size")
        if not 0 <= self.timestamp <= MAX_TIMESTAMP:
            raise MalformedError("a timestamp of a log is not negative and has 63 bits")
        if len(self.extensions) > _MAX_U16 or not 1 <= len(self.signature) <= _MAX_U16:
            raise MalformedError("the extensions or the signature of a timestamp are too long, or it has no signature")

    @classmethod
    def assemble(
        cls, log_key: PublicKey, timestamp: int, extensions: bytes, signature: bytes
    ) -> SignedCertificateTimestamp:
        """Around a signature of the log's key over `PrecertificateEntry.message(timestamp, extensions)`.

        Raises:
            UnsupportedError: no log of version 1 has such a key.
            MalformedError: what does not fit its field.
        """
        return cls(log_id(log_key), timestamp, extensions, signature_algorithm(log_key), signature)

    @classmethod
    def parse(cls, data: bytes) -> SignedCertificateTimestamp:
        """From a SerializedSCT.

        Raises:
            MalformedError: it is none.
            UnsupportedError: it is of another version.
        """
        reader = _TlsReader(data)
        if reader.read_number(1) != _V1:
            raise UnsupportedError("timestamps of version 1 are offered, no others")
        log, timestamp, extensions = reader.read(LOG_ID_SIZE), reader.read_number(8), reader.read_vector(2)
        algorithm, signature = reader.read(2), reader.read_vector(2)
        reader.finish()
        return cls(log, timestamp, extensions, algorithm, signature)

    def to_bytes(self) -> bytes:
        """As a SerializedSCT."""
        head = bytes((_V1,)) + self.log_id + self.timestamp.to_bytes(8, "big")
        return head + vector(self.extensions, 2) + self.algorithm + vector(self.signature, 2)

    @property
    def leaf_index(self) -> int | None:
        """Where in the log the entry stands, if the extensions say so.

        Raises:
            MalformedError: the extensions are not those of static-ct-api.
        """
        reader, found = _TlsReader(self.extensions), dict[int, bytes]()
        while not reader.at_end:
            kind, data = reader.read_number(1), reader.read_vector(2)
            if kind in found:
                raise MalformedError("an extension of a timestamp is doubled")
            found[kind] = data
        index = found.get(_LEAF_INDEX)
        if index is not None and len(index) != _LEAF_INDEX_SIZE:
            raise MalformedError(f"a leaf index has {_LEAF_INDEX_SIZE} octets")
        return None if index is None else int.from_bytes(index, "big")


def encode_leaf_index(index: int) -> bytes:
    """The extensions that say where in the log the entry stands: 8 octets (static-ct-api, SCT Extension).

    Raises:
        MalformedError: the index has more than 40 bits.
    """
    if not 0 <= index <= MAX_LEAF_INDEX:
        raise MalformedError("a leaf index has 40 bits")
    return bytes((_LEAF_INDEX,)) + vector(index.to_bytes(_LEAF_INDEX_SIZE, "big"), 2)


def encode_sct_list(scts: Sequence[SignedCertificateTimestamp]) -> bytes:
    """The value of the X.509 extension: an OCTET STRING with a SignedCertificateTimestampList (RFC 6962 §3.3).

    Raises:
        MalformedError: none, or too many.
    """
    serialized = b"".join(vector(sct.to_bytes(), 2) for sct in scts)
    if not serialized:
        raise MalformedError("a list of timestamps has at least one")
    return octet_string(vector(serialized, 2))


def decode_sct_list(value: bytes) -> tuple[SignedCertificateTimestamp, ...]:
    """From the value of the X.509 extension; every list has one form only.

    Raises:
        MalformedError: it is none.
        UnsupportedError: it has a timestamp of another version.
    """
    outer = DerReader(value)
    whole = _TlsReader(outer.read(OCTET_STRING))
    outer.finish()
    serialized, scts = _TlsReader(whole.read_vector(2)), list[SignedCertificateTimestamp]()
    whole.finish()
    while not serialized.at_end:
        scts.append(SignedCertificateTimestamp.parse(serialized.read_vector(2)))
    if not scts:
        raise MalformedError("a list of timestamps has at least one")
    return tuple(scts)


def vector(data: bytes, length_size: int) -> bytes:
    """A vector of TLS, led by its length in so many octets (RFC 5246 §4.3).

    Raises:
        MalformedError: it is too long.
    """
    try:
        return len(data).to_bytes(length_size, "big") + data
    except OverflowError as error:
        raise MalformedError(f"{len(data)} octets do not fit a vector of TLS with a length of {length_size}") from error


class _TlsReader:
    """Reads the presentation language of TLS (RFC 5246 §4); MalformedError for what does not fit."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)

    def read(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise MalformedError("a timestamp of a log that ends too early")
        data, self._at = self._data[self._at : end], end
        return data

    def read_number(self, size: int) -> int:
        return int.from_bytes(self.read(size), "big")

    def read_vector(self, length_size: int) -> bytes:
        return self.read(self.read_number(length_size))

    def finish(self) -> None:
        if not self.at_end:
            raise MalformedError(f"{len(self._data) - self._at} stray octets after a timestamp of a log")
