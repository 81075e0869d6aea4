"""The CA's way to signer-hsm, where its keys are `signer-hsm:` URIs: a pooled mTLS client, and what waits for it.

The CA is the source of CRLs itself, so it checks signer-hsm's certificate against its own ledger. It starts without
signer-hsm, too: what it has signed before (CRLs, OCSP answers) is served, requests to issue get 503, and everything
goes on as soon as signer-hsm answers. Only a key that is not the certificate's keeps the CA from starting.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from cryptography import x509
from prometheus_client import CollectorRegistry, Counter

from pkicore.clock import Clock
from pkicore.errors import KeyAccessError, KeyNotFoundError
from pkicore.identity import SpiffeId
from pkicore.keys.remote import RemoteKey, RemoteSigner
from pkicore.keys.timed import TimedSigner
from pkicore.mtls import INTERNAL, Credentials, CredentialsSource, CrlCache, Http1Client, TlsClient
from pkicore.mtls.pool import CountEvent
from services.ca.client.trust import Believe
from services.ca.settings import CaSettings
from services.chassis.ops import Readiness

SERVICE: Final = "signer-hsm"
CONDITION: Final = "signer-hsm"
_RETRY: Final = 1.0  # seconds between two questions to a signer that did not answer

_log = structlog.get_logger(__name__)


def traffic(registry: CollectorRegistry) -> CountEvent:
    """Counts requests to signer-hsm, and the connections made for them."""
    count = Counter(
        "ca_signer_traffic", "Requests to signer-hsm, and connections made for them.", ["what"], registry=registry
    )
    return lambda what: count.labels(what).inc()


@dataclass(frozen=True)
class WayToSigner:
    """The client, and its connections."""

    http: Http1Client
    signer: RemoteSigner

    @classmethod
    def build(
        cls,
        settings: CaSettings,
        credentials: CredentialsSource | Credentials,
        roots: Sequence[x509.Certificate],
        crls: CrlCache,
        registry: CollectorRegistry,
        clock: Clock,
        subscribe: Callable[[Believe], None] = lambda _believe: None,
    ) -> "WayToSigner":
        """Build it; nothing is sent yet. `subscribe` is told who wants to hear of other roots."""
        from services.signer_hsm.client import SignerClient

        tls = TlsClient(
            credentials=credentials,
            rules=INTERNAL,
            trust=tuple(roots),
            crls=crls,
            clock=clock,
            require_staple=True,
            handshake_timeout=settings.signer_timeout_seconds,
            count=traffic(registry),
        )
        subscribe(tls.believe)
        http = tls.http1(SpiffeId.service(settings.trust_domain, SERVICE), settings.signer_url)
        return cls(http, TimedSigner(SignerClient(http), settings.signer_timeout_seconds))


class RemoteKeys:
    """The keys of this process that signer-hsm holds, and whether it was seen to hold them."""

    def __init__(self, keys: Sequence[RemoteKey], readiness: Readiness) -> None:
        self._keys = keys
        self._readiness = readiness

    async def meet(self, seconds: float) -> None:
        """Have signer-hsm confirm every key, for so long at most; after that the CA starts without it.

        Raises:
            KeyNotFoundError: it holds another key than a certificate needs, or none.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._until(self._confirmed)
        except TimeoutError:
            reason = f"signer-hsm has not answered in {seconds:g} s; nothing can be signed before it does"
            self._readiness.unmet(CONDITION, reason)
            _log.error("started without signer-hsm", reason=reason)

    async def wait(self, then: Callable[[], Awaitable[None]]) -> None:
        """Wait until every key is confirmed, do what was left undone, and be ready."""
        if CONDITION not in self._readiness.reasons:
            return
        await self._until(self._patiently)
        await then()
        self._readiness.met(CONDITION)
        _log.info("signer-hsm holds the keys")

    @staticmethod
    async def _until(question: Callable[[], Awaitable[bool]]) -> None:
        answer = await question()
        while not answer:
            await asyncio.sleep(_RETRY)
            answer = await question()

    async def _patiently(self) -> bool:
        try:
            return await self._confirmed()
        except KeyNotFoundError as error:
            _log.error("signer-hsm does not hold a key of this CA", error=str(error))
            return False

    async def _confirmed(self) -> bool:
        try:
            for key in self._keys:
                await key.confirm()
        except KeyNotFoundError:
            raise
        except KeyAccessError as error:
            _log.warning("waiting for signer-hsm", error=str(error), retry_seconds=_RETRY)
            return False
        return True
