"""Keys that a signer far away holds: `signer-hsm:TENANT.NAME/VERSION`. Here is the public half and nothing else.

What is sent is the digest of the message, the 64-byte mu of ML-DSA (FIPS 204 §6.2, computed from the key's own public
half with an empty context), or the message where the key takes only that. What comes back is verified by the caller.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final, Protocol

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import Algorithm, Payload, PublicKey, algorithm_of
from pkicore.errors import KeyNotFoundError, KeyUnavailableError, UnsupportedError

__all__ = [
    "REMOTE_SCHEME",
    "KeyUri",
    "Reduction",
    "RemoteKey",
    "RemotePublicKey",
    "RemoteSigner",
    "open_remote_key",
    "reduce_message",
]

REMOTE_SCHEME: Final = "signer-hsm"
_URI: Final = re.compile(
    r"signer-hsm:(?P<id>[a-z0-9][a-z0-9-]{0,31}\.[a-z0-9][a-z0-9-]{0,62})(?:/(?P<version>[1-9][0-9]{0,8}))?",
    re.ASCII,
)
_INLINE_HASH: Final = 1 << 20  # octets; a longer message (a large CRL) is hashed beside the event loop
_TR_BYTES: Final = 64
_MU_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class KeyUri:
    """The parsed form of a key URI.

    Attributes:
        key_id: tenant and name, as in "ca.issuing-ecdsa".
        version: from 1; None for the one that is current when the key is opened.
    """

    key_id: str
    version: int | None

    @classmethod
    def parse(cls, text: str) -> KeyUri:
        """Read `signer-hsm:TENANT.NAME` or `signer-hsm:TENANT.NAME/VERSION`.

        Raises:
            UnsupportedError: anything else.
        """
        found = _URI.fullmatch(text)
        if found is None:
            raise UnsupportedError(
                f"{text[:128]!r} names no key of signer-hsm; write signer-hsm:TENANT.NAME/VERSION, "
                "as in signer-hsm:ca.issuing-ecdsa/1"
            )
        version = found["version"]
        return cls(found["id"], None if version is None else int(version))

    def __str__(self) -> str:
        version = "" if self.version is None else f"/{self.version}"
        return f"{REMOTE_SCHEME}:{self.key_id}{version}"


@dataclass(frozen=True, slots=True)
class RemotePublicKey:
    """What a signer says of a key version.

    Attributes:
        version: the version that this is.
        public_key: its public half.
        kinds: the payloads that it takes.
    """

    version: int
    public_key: PublicKey
    kinds: frozenset[Payload]


class RemoteSigner(Protocol):
    """Whoever holds the keys."""

    async def public_key(self, key_id: str, version: int | None) -> RemotePublicKey:
        """The public half of a key version; None asks for the current one.

        Raises:
            KeyNotFoundError: no such key.
            KeyAccessError: it cannot be had now, or not by us.
        """
        ...

    async def sign(self, key_id: str, version: int, kind: Payload, payload: bytes, scheme: str) -> bytes:
        """A signature as X.509 wants it: ECDSA as DER, the rest raw.

        Raises:
            KeyAccessError: it cannot be had now, or not by us.
        """
        ...


@dataclass(eq=False)
class RemoteKey:
    """A signing key of which this process has the public half alone.

    It is usable before the signer was ever reached: the first signature asks the signer whose key that is.

    Attributes:
        uri: where the key is, with its version.
        public_key: what the signer's key must be; usually that of a certificate.
        algorithm: its row of the table.
    """

    uri: str
    public_key: PublicKey
    signer: RemoteSigner = field(repr=False)
    pool: Executor = field(repr=False)
    algorithm: Algorithm = field(init=False)
    _key_id: str = field(init=False, repr=False)
    _version: int = field(init=False, repr=False)
    _kind: Payload | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        """Raises UnsupportedError for a URI of another form, or one without a version."""
        parsed = KeyUri.parse(self.uri)
        if parsed.version is None:
            raise UnsupportedError(f"{self.uri} has no version; a key that belongs to a certificate needs one: add /1")
        self._key_id, self._version = parsed.key_id, parsed.version
        self.algorithm = algorithm_of(self.public_key)

    async def confirm(self) -> None:
        """See to it that the signer holds this very key; asked once.

        Raises:
            KeyNotFoundError: it holds another one, or none.
            KeyAccessError: it does not say.
        """
        await self._payload_kind()

    @property
    def payload_kind(self) -> Payload:
        """What is sent to the signer; as a rule of the algorithm until the signer has confirmed the key."""
        return self._kind or self.algorithm.payload

    async def sign(self, message: bytes) -> bytes:
        """An X.509 signature over the message.

        Raises:
            KeyNotFoundError: the signer holds another key than the public half says.
            KeyUnavailableError: the signer does not answer, or what it answers is no signature.
            KeyAccessError: it refuses.
        """
        kind = await self._payload_kind()
        return await self._sign(kind, await self._reduce(kind, message))

    async def reduction(self) -> Reduction:
        """A reduction that `sign_reduced` takes, for a message that is not at hand as a whole.

        Raises:
            UnsupportedError: the key takes whole messages only.
            KeyAccessError: as `sign`.
        """
        return Reduction(self.public_key, await self._payload_kind())

    async def sign_reduced(self, kind: Payload, payload: bytes) -> bytes:
        """An X.509 signature over a message of which only a digest or mu is at hand.

        Raises:
            UnsupportedError: the signer takes another kind of payload for this key.
            KeyNotFoundError, KeyUnavailableError, KeyAccessError: as `sign`.
        """
        if kind != await self._payload_kind():
            raise UnsupportedError(f"{self.uri} takes no payload of the kind {kind}")
        return await self._sign(kind, payload)

    async def _sign(self, kind: Payload, payload: bytes) -> bytes:
        signature: object = await self.signer.sign(self._key_id, self._version, kind, payload, self.algorithm.jws)
        if not isinstance(signature, bytes) or not signature:
            raise KeyUnavailableError(f"the signer of {self.uri} answered something that is no signature")
        return signature

    async def _payload_kind(self) -> Payload:
        if self._kind is None:
            self._kind = self._kind_for(await self.signer.public_key(self._key_id, self._version))
        return self._kind

    def _kind_for(self, found: RemotePublicKey) -> Payload:
        if found.version != self._version or found.public_key != self.public_key:
            raise KeyNotFoundError(f"{self.uri} is another key at the signer than the one that is expected here")
        usual = self.algorithm.payload
        if usual in found.kinds:
            return usual
        if "message" in found.kinds and self.algorithm.signature_hash is None:
            return "message"
        raise KeyUnavailableError(f"{self.uri} takes no payload that a signature of {self.algorithm.name} needs")

    async def _reduce(self, kind: Payload, message: bytes) -> bytes:
        if len(message) <= _INLINE_HASH:
            return reduce_message(self.public_key, kind, message)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, reduce_message, self.public_key, kind, message)


async def open_remote_key(uri: str, signer: RemoteSigner, pool: Executor) -> RemoteKey:
    """The key behind a URI as the signer has it; without a version in the URI, the current one, pinned from now on.

    Raises:
        UnsupportedError: the URI is of another form, or the key of an algorithm that is not offered.
        KeyNotFoundError: no such key, or another version than asked for.
        KeyAccessError: the signer does not answer, or refuses.
    """
    wanted = KeyUri.parse(uri)
    found = await signer.public_key(wanted.key_id, wanted.version)
    if not isinstance(found.public_key, PublicKey):
        raise KeyUnavailableError(f"the signer of {uri} answered something that is no public key")
    pinned = KeyUri(wanted.key_id, wanted.version or found.version)
    key = RemoteKey(str(pinned), found.public_key, signer, pool)
    await key.confirm()
    return key


def reduce_message(public_key: PublicKey, kind: Payload, message: bytes) -> bytes:
    """What stands for a message at the signer.

    Raises:
        UnsupportedError: keys of this algorithm have no payload of that kind.
    """
    if kind == "message" and algorithm_of(public_key).signature_hash is None:
        return message
    reduction = Reduction(public_key, kind)
    reduction.update(message)
    return reduction.payload()


class Reduction:
    """What stands for a message at the signer, from pieces of the message in their order.

    Attributes:
        kind: digest or mu.

    Raises:
        UnsupportedError: keys of this algorithm have no payload of that kind.
    """

    def __init__(self, public_key: PublicKey, kind: Payload) -> None:
        algorithm = algorithm_of(public_key)
        self.kind = kind
        if kind == "digest" and algorithm.signature_hash is not None:
            self._hash = hashlib.new(algorithm.signature_hash.name)
        elif kind == "mu" and algorithm.family == "mldsa":
            # FIPS 204 algorithms 2 and 7: mu = H(H(pk, 64) || 0 || |ctx| || ctx || M, 64), pure ML-DSA, ctx empty.
            raw = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)
            self._shake = hashlib.shake_256(hashlib.shake_256(raw).digest(_TR_BYTES) + b"\x00\x00")
        else:
            raise UnsupportedError(f"keys of {algorithm.name} take no payload of the kind {kind}")

    def update(self, piece: bytes) -> None:
        """Take the next piece."""
        (self._hash if self.kind == "digest" else self._shake).update(piece)

    def payload(self) -> bytes:
        """What is sent to the signer, for the pieces so far."""
        return self._hash.digest() if self.kind == "digest" else self._shake.digest(_MU_BYTES)
