"""Anti-replay nonces (RFC 8555 §6.5): cheap to issue, used once, bounded in memory, gone with the process.

A nonce is a counter and a MAC over it, so none needs to be remembered until it is used; one bit per counter value
remembers the use. Whoever floods newNonce moves the window, and older nonces then count as bad: clients simply retry.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final

from pkicore.encoding import base64url_decode, base64url_encode
from pkicore.errors import MalformedError
from services.acme.errors import AcmeError

WINDOW: Final = 1 << 20  # nonces that may be outstanding: 128 KiB of bits
_COUNTER: Final = 8  # octets
_MAC: Final = 16  # octets


class Nonces:
    """Issues nonces and redeems each at most once.

    Args:
        window: how many of the newest nonces are redeemable; a multiple of 8.
        key: 32 random octets; fresh for each process unless replicas share it.
    """

    def __init__(self, window: int = WINDOW, key: bytes | None = None) -> None:
        self._key = secrets.token_bytes(32) if key is None else key
        self._window = window
        self._used = bytearray(window // 8)
        self._issued = 0

    def issue(self) -> str:
        """A fresh nonce."""
        counter = self._issued
        self._issued += 1
        slot = counter % self._window
        self._used[slot >> 3] &= ~(1 << (slot & 7))
        octets = counter.to_bytes(_COUNTER, "big")
        return base64url_encode(octets + self._mac(octets))

    def redeem(self, nonce: str | None) -> None:
        """Use up a nonce; call only once the request that carries it has proved its signature.

        Raises:
            AcmeError: badNonce: absent, not ours, too old or used before.
        """
        counter = self._open(nonce)
        if not self._issued - self._window <= counter < self._issued:
            raise AcmeError("badNonce", "this nonce is too old")
        slot = counter % self._window
        bit = 1 << (slot & 7)
        if self._used[slot >> 3] & bit:
            raise AcmeError("badNonce", "this nonce was used before")
        self._used[slot >> 3] |= bit

    def _open(self, nonce: str | None) -> int:
        try:
            octets = base64url_decode(nonce or "")
        except MalformedError:
            octets = b""
        counter, mac = octets[:_COUNTER], octets[_COUNTER:]
        if not hmac.compare_digest(mac, self._mac(counter)):
            raise AcmeError("badNonce", "this nonce was not issued by this server, or before its last start")
        return int.from_bytes(counter, "big")

    def _mac(self, counter: bytes) -> bytes:
        return hashlib.blake2b(counter, key=self._key, digest_size=_MAC).digest()
