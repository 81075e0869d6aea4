"""The keys that tenants sign with: held by signer-hsm, found by TENANT.NAME, each signature verified here.

A key's current version is believed for some seconds, then asked for again, so that a rotation is followed without a
question for every signature. What signer-hsm says about a key in use (disabled, gone) ends that at once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from cryptography import x509

from pkicore.algorithms import Algorithm, Payload, PublicKey, verify_signature
from pkicore.errors import BadSignatureError, KeyAccessError, KeyNotFoundError, KeyUnavailableError, UnsupportedError
from pkicore.keys.remote import Reduction, RemoteKey, RemoteSigner, open_remote_key
from services.signer_hsm.client import ForbiddenError, RateLimitedError, SignerClientError, WrongStateError
from services.signing.errors import BadSignerAnswerError, SignerDownError, SignerRefusedError, UnknownKeyError
from services.signing.formats import raw

_MAX_KEYS: Final = 10_000  # in memory
_DEFAULT_RETRY: Final = 1.0


class JobKey(Protocol):
    """Whatever signs for a request: a tenant's key at signer-hsm, or the key of a short-lived certificate."""

    @property
    def name(self) -> str:
        """As the record has it: TENANT.NAME/VERSION, or `certificate`."""
        ...

    @property
    def key_id(self) -> str:
        """Without the version."""
        ...

    @property
    def algorithm(self) -> Algorithm:
        """Its row of the table."""
        ...

    @property
    def public_key(self) -> PublicKey:
        """Its public half."""
        ...

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """Its short-lived certificate and those above it; empty where the key is known by itself."""
        ...

    async def sign(self, message: bytes) -> bytes:
        """A verified signature over a message; SignerError where there is none."""
        ...

    async def sign_reduced(self, kind: Payload, payload: bytes) -> bytes:
        """Likewise over a message of which only the digest or mu is at hand."""
        ...

    async def reduction(self) -> Reduction:
        """For a message that is not at hand as a whole; UnsupportedError where the key takes whole messages only."""
        ...


@dataclass(frozen=True, eq=False)
class TenantKey:
    """One version of a tenant's key.

    Attributes:
        key_id: TENANT.NAME.
        name: TENANT.NAME/VERSION.
    """

    key_id: str
    name: str
    remote: RemoteKey = field(repr=False)
    forget: Callable[[], None] = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def algorithm(self) -> Algorithm:
        """Its row of the table."""
        return self.remote.algorithm

    @property
    def public_key(self) -> PublicKey:
        """Its public half."""
        return self.remote.public_key

    async def sign(self, message: bytes) -> bytes:
        """A verified signature over a message.

        Raises:
            SignerError: signer-hsm did not sign.
        """
        try:
            signature = await self.remote.sign(message)
            verify_signature(self.public_key, signature, message)
        except (KeyAccessError, BadSignatureError) as error:
            raise self._fault(error) from error
        return signature

    async def sign_reduced(self, kind: Payload, payload: bytes) -> bytes:
        """A verified signature over a message of which only the digest or mu is at hand.

        Raises:
            SignerError: signer-hsm did not sign.
            UnsupportedError: the key takes another kind of payload.
        """
        try:
            signature = await self.remote.sign_reduced(kind, payload)
            raw.verify_reduced(self.public_key, self.algorithm, signature, payload)
        except (KeyAccessError, BadSignatureError) as error:
            raise self._fault(error) from error
        return signature

    async def reduction(self) -> Reduction:
        """For a message that is not at hand as a whole.

        Raises:
            UnsupportedError: the key takes whole messages only.
            SignerError: signer-hsm does not say.
        """
        try:
            return await self.remote.reduction()
        except KeyAccessError as error:
            raise self._fault(error) from error

    def _fault(self, error: Exception) -> Exception:
        self.forget()
        return fault_of(error)


class _Kept(NamedTuple):
    key: TenantKey
    until: float


class SigningKeys:
    """Finds keys.

    Args:
        signer: holds them.
        pool: where long messages are hashed.
        monotonic: seconds that never go back.
        fresh_seconds: how long a current version is believed.
    """

    def __init__(
        self, signer: RemoteSigner, pool: Executor, monotonic: Callable[[], float], fresh_seconds: float
    ) -> None:
        self._signer = signer
        self._pool = pool
        self._monotonic = monotonic
        self._fresh_seconds = fresh_seconds
        self._kept: dict[str, _Kept] = {}

    async def key(self, key_id: str) -> TenantKey:
        """The current version of a key.

        Raises:
            UnknownKeyError: there is no such key, or none for this service.
            SignerError: signer-hsm does not say.
        """
        kept = self._kept.get(key_id)
        if kept is not None and self._monotonic() < kept.until:
            return kept.key
        try:
            remote = await open_remote_key(f"signer-hsm:{key_id}", self._signer, self._pool)
        except ForbiddenError as error:  # signer-hsm tells nobody which keys there are that he may not use
            raise UnknownKeyError(
                "there is no such key, or signer-hsm's key policy does not let the signing service use it"
            ) from error
        except (KeyAccessError, UnsupportedError) as error:
            raise fault_of(error) from error
        if kept is not None and kept.key.remote.uri == remote.uri and kept.key.public_key == remote.public_key:
            key = kept.key
        else:
            name = remote.uri.partition(":")[2]
            key = TenantKey(key_id, name, remote, lambda: self._forget(key_id))
        if len(self._kept) >= _MAX_KEYS:
            self._kept.clear()
        self._kept[key_id] = _Kept(key, self._monotonic() + self._fresh_seconds)
        return key

    def _forget(self, key_id: str) -> None:
        self._kept.pop(key_id, None)


def fault_of(error: Exception) -> Exception:
    """What a caller learns where signer-hsm did not do what was asked; its own words stay in the log."""
    if isinstance(error, BadSignatureError):
        return BadSignerAnswerError("signer-hsm answered with a signature that does not verify")
    if isinstance(error, WrongStateError):
        return SignerRefusedError("the key is disabled, or destroyed")
    if isinstance(error, KeyNotFoundError):
        return UnknownKeyError("there is no such key")
    if isinstance(error, ForbiddenError):
        return SignerRefusedError("signer-hsm does not let the signing service use this key")
    wait = (error.retry_after if isinstance(error, SignerClientError) else None) or _DEFAULT_RETRY
    if isinstance(error, RateLimitedError | KeyUnavailableError):
        return SignerDownError("signer-hsm cannot sign now", wait)
    return SignerRefusedError("signer-hsm does not sign this")
