"""The way to signer-hsm: a pooled mTLS client whose every answer comes in time, or not at all.

The service starts without signer-hsm, and answers 503 to whoever wants signatures until it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pkicore.algorithms import Payload
from pkicore.clock import Clock
from pkicore.errors import KeyUnavailableError
from pkicore.identity import SpiffeId
from pkicore.keys.remote import RemotePublicKey, RemoteSigner
from pkicore.mtls import INTERNAL, Http1Client, TlsClient
from services.ca.client.way import WayToCa
from services.signer_hsm.client import SignerClient
from services.signing.settings import SigningSettings

SIGNER: Final = "signer-hsm"

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class TimedSigner:
    """A signer whose every answer comes within so many seconds: the caller has a deadline, too."""

    signer: RemoteSigner = field(repr=False)
    seconds: float

    async def public_key(self, key_id: str, version: int | None) -> RemotePublicKey:
        """As the signer.

        Raises:
            KeyUnavailableError: no answer in time.
            KeyAccessError: as the signer.
        """
        return await self._in_time(self.signer.public_key(key_id, version))

    async def sign(self, key_id: str, version: int, kind: Payload, payload: bytes, scheme: str) -> bytes:
        """As the signer.

        Raises:
            KeyUnavailableError: no answer in time.
            KeyAccessError: as the signer.
        """
        return await self._in_time(self.signer.sign(key_id, version, kind, payload, scheme))

    async def _in_time(self, answer: Awaitable[_Answer]) -> _Answer:
        try:
            async with asyncio.timeout(self.seconds):
                return await answer
        except TimeoutError as error:
            raise KeyUnavailableError(f"{SIGNER} gave no answer within {self.seconds:g} s") from error


def http_to_signer(settings: SigningSettings, ca: WayToCa, clock: Clock) -> Http1Client:
    """The client's connections; nothing is sent yet."""
    tls = TlsClient(
        credentials=ca.credentials,
        rules=INTERNAL,
        trust=ca.trust.roots,
        crls=ca.crls,
        clock=clock,
        require_staple=True,
        handshake_timeout=settings.signer_timeout_seconds,
    )
    return tls.http1(SpiffeId.service(settings.trust_domain, SIGNER), settings.signer_url)


def signer_over(http: Http1Client, seconds: float) -> TimedSigner:
    """What signs over these connections."""
    return TimedSigner(SignerClient(http), seconds)
