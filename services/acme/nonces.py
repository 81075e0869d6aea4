"""Anti-replay nonces (RFC 8555 §6.5): cheap to issue, used once, good for an hour, remembered only when used.

A nonce is the time of its issue, what makes it the only one, and a MAC over both. So whoever floods newNonce fills
neither memory nor table: only requests whose signature is good use nonces up. Clients retry with the nonce of the
refusal (badNonce), so a nonce that is refused without need costs one round trip.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final, Protocol

from pkicore.clock import Clock, unix
from pkicore.encoding import base64url_decode, base64url_encode
from pkicore.errors import MalformedError
from services.acme.errors import AcmeError
from services.acme.store.nonces import NonceStore
from services.chassis.database import Database

LIFETIME: Final = 3600  # seconds
WINDOW: Final = 1 << 20  # nonces that may be outstanding in one process: 128 KiB of bits
_TIME: Final = 4  # octets
_UNIQUE: Final = 8  # octets
_MAC: Final = 16  # octets
_KEY: Final = 32  # octets
_SKEW: Final = 600  # seconds that the clocks of replicas may differ: used nonces are kept so much longer


class Nonces(Protocol):
    """Issues nonces and redeems each at most once."""

    def issue(self) -> str:
        """A fresh nonce."""

    async def redeem(self, nonce: str | None) -> None:
        """Use up a nonce; call only once the request that carries it has proved its signature.

        Raises:
            AcmeError: badNonce: absent, not ours, too old or used before.
        """

    async def clean_up(self) -> bool:
        """Forget some nonces that have expired; whether there may be more."""


class _Seal:
    """Writes and opens nonces: time, eight octets, MAC."""

    def __init__(self, key: bytes, clock: Clock) -> None:
        self._key = key
        self._clock = clock

    def close(self, unique: bytes) -> str:
        octets = unix(self._clock.now()).to_bytes(_TIME, "big") + unique
        return base64url_encode(octets + self._mac(octets))

    def open(self, nonce: str | None) -> tuple[int, bytes]:
        """When it expires, and its eight octets.

        Raises:
            AcmeError: badNonce.
        """
        try:
            octets = base64url_decode(nonce or "")
        except MalformedError:
            octets = b""
        sealed, mac = octets[: _TIME + _UNIQUE], octets[_TIME + _UNIQUE :]
        if not hmac.compare_digest(mac, self._mac(sealed)):
            raise AcmeError("badNonce", "this nonce was not issued by this server, or before its last start")
        expires = int.from_bytes(sealed[:_TIME], "big") + LIFETIME
        if expires <= unix(self._clock.now()):
            raise AcmeError("badNonce", "this nonce is too old")
        return expires, sealed[_TIME:]

    def _mac(self, octets: bytes) -> bytes:
        return hashlib.blake2b(octets, key=self._key, digest_size=_MAC).digest()


class OwnNonces:
    """Of one process, gone with it: a counter, and one bit for each of its last values that remembers the use.

    Whoever floods newNonce moves the window, and older nonces then count as bad.

    Args:
        clock: the time.
        window: how many of the newest nonces are redeemable; a multiple of 8.
    """

    def __init__(self, clock: Clock, window: int = WINDOW) -> None:
        self._seal = _Seal(secrets.token_bytes(_KEY), clock)
        self._window = window
        self._used = bytearray(window // 8)
        self._issued = 0

    def issue(self) -> str:
        """As `Nonces.issue`."""
        counter = self._issued
        self._issued += 1
        slot = counter % self._window
        self._used[slot >> 3] &= ~(1 << (slot & 7))
        return self._seal.close(counter.to_bytes(_UNIQUE, "big"))

    async def redeem(self, nonce: str | None) -> None:
        """As `Nonces.redeem`."""
        counter = int.from_bytes(self._seal.open(nonce)[1], "big")
        if not self._issued - self._window <= counter < self._issued:
            raise AcmeError("badNonce", "this nonce is too old")
        slot = counter % self._window
        bit = 1 << (slot & 7)
        if self._used[slot >> 3] & bit:
            raise _used_before()
        self._used[slot >> 3] |= bit

    async def clean_up(self) -> bool:
        """As `Nonces.clean_up`: the window forgets by itself."""
        return False


class SharedNonces:
    """Of all replicas on one database: each takes what any of them issued, and of all only one, once.

    Args:
        store: where used ones are remembered until they expire.
        key: 32 octets that all replicas have.
        clock: the time.
    """

    def __init__(self, store: NonceStore, key: bytes, clock: Clock) -> None:
        self._store = store
        self._seal = _Seal(key, clock)
        self._clock = clock

    def issue(self) -> str:
        """As `Nonces.issue`."""
        return self._seal.close(secrets.token_bytes(_UNIQUE))

    async def redeem(self, nonce: str | None) -> None:
        """As `Nonces.redeem`.

        Raises:
            AcmeError: badNonce.
            UnavailableError: the database does not say.
        """
        expires, unique = self._seal.open(nonce)
        # from the octets: base64url has several texts for one value
        if not await self._store.use(f"{expires:x}.{unique.hex()}", expires):
            raise _used_before()

    async def clean_up(self) -> bool:
        """As `Nonces.clean_up`."""
        return await self._store.delete_expired(unix(self._clock.now()) - _SKEW)


async def open_nonces(database: Database, clock: Clock) -> Nonces:
    """The nonces of this process, or those of all processes on its database.

    Raises:
        DatabaseError: the shared key cannot be read.
    """
    if database.shared is None:
        return OwnNonces(clock)
    store = NonceStore(database, database.shared)
    return SharedNonces(store, await store.key(secrets.token_bytes(_KEY)), clock)


def _used_before() -> AcmeError:
    return AcmeError("badNonce", "this nonce was used before")
