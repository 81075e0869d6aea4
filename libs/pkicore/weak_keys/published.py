"""Keys whose private halves are public: of Debian's weak generator, in firmware, in documents, on GitHub.

The list is a file in the form of badkeys (https://badkeys.info): records of 16 bytes in rising order, the first 15 of
the SHA-256 of what is particular to a key and one that names the list. What is particular is the modulus of an RSA key,
the x of an EC point, the bytes of an Ed25519 key (all big-endian without leading zeros), the raw bytes of any other.
`badkeys --update-bl` downloads it: CVE-2008-0166 (Debian) in RSA 1024 to 4096, P-256 and P-384, and many others.
"""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pkicore.algorithms import PublicKey
from pkicore.errors import BadKeyError, MalformedError

RECORD: Final = 16
_HASH: Final = 15
_EVERY: Final = 4096  # the order is looked at in one of so many records: reading all takes seconds at a start


class Octets(Protocol):
    """Bytes, or a file that is mapped into memory."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, part: slice, /) -> bytes:
        """Some of them."""


class PublishedKeys:
    """The keys of such a list; without one, none."""

    def __init__(self, records: Octets = b"") -> None:
        """Take a list.

        Raises:
            MalformedError: it is no list of such records in rising order.
        """
        count, rest = divmod(len(records), RECORD)
        if rest:
            raise MalformedError(
                f"a list of published keys has records of {RECORD} bytes; this one has {rest} too many"
            )
        self._records = records
        self._count = count
        seen = [self._hash_at(index) for index in range(0, count, _EVERY)]
        if seen != sorted(seen):
            raise MalformedError("the records of a list of published keys are in rising order; these are not")

    def __len__(self) -> int:
        return self._count

    def check(self, public_key: PublicKey) -> None:
        """Refuse a key of the list.

        Raises:
            BadKeyError: it is one.
        """
        if self._count and self._has(hashlib.sha256(_particular(public_key)).digest()[:_HASH]):
            raise BadKeyError("the private half of this key has been published: everybody has it")

    def _has(self, wanted: bytes) -> bool:
        low, high = 0, self._count
        while low < high:
            middle = (low + high) // 2
            if self._hash_at(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low < self._count and self._hash_at(low) == wanted

    def _hash_at(self, index: int) -> bytes:
        start = index * RECORD
        return self._records[start : start + _HASH]


def _particular(public_key: PublicKey) -> bytes:
    if isinstance(public_key, rsa.RSAPublicKey):
        return _shortest(public_key.public_numbers().n)
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return _shortest(public_key.public_numbers().x)
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return public_key.public_bytes_raw().lstrip(b"\0")
    return public_key.public_bytes_raw()


def _shortest(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")
