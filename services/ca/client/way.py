"""How a service stands beside the CA: whom it trusts, the CA's status on disk and by HTTP, the client, the feed.

At start CRLs and staples come from disk or from the CA's status listener. What is on disk and still good serves without
the CA; whether a service waits for the CA otherwise is its own affair (`ready`, `patiently`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

import httpx
import structlog
from cryptography import x509

from pkicore.clock import Clock
from pkicore.errors import PkiError, StaleStatusError
from pkicore.identity import SpiffeId
from pkicore.mtls import (
    INTERNAL,
    CredentialsSource,
    CrlCache,
    Http1Client,
    StapleCache,
    TlsClient,
    TlsListener,
    TlsRules,
)
from pkicore.ocsp import build_request
from services.ca.client import CaClient, CaError
from services.ca.client.settings import WayToCaSettings
from services.ca.client.trust import FollowedTrust, Trust
from services.chassis.identity import IdentityFiles
from services.chassis.observability import TlsMetrics
from services.chassis.public_http import public_client
from services.chassis.runner import BackgroundTask

CRL_REFRESH_SECONDS: Final = 30.0  # where the feed fails, a revoked peer is still refused within a minute
STAPLE_CHECK_SECONDS: Final = 30.0
CREDENTIALS_CHECK_SECONDS: Final = 5.0
_STATUS_TIMEOUT_SECONDS: Final = 10.0
_PAUSE_SECONDS: Final = 2.0  # between attempts to reach the CA at start
_FEED_RETRY_SECONDS: Final = 5.0
_PUBLICATION_SECONDS: Final = 1.5  # the CRL that names a revocation follows the feed within this time

_Answer = TypeVar("_Answer")
_log = structlog.get_logger("ca.client")


class StatusSource:
    """CRLs and OCSP responses from the CA's plain HTTP listener; what comes is verified by whoever asked."""

    def __init__(self, http: httpx.AsyncClient, trust: FollowedTrust) -> None:
        self._http = http
        self._trust = trust
        self._known: dict[str, tuple[str, bytes]] = {}  # by path, entity tag and list

    async def crl(self, issuer: x509.Certificate) -> bytes:
        """The DER of an issuer's CRL.

        Raises:
            httpx.HTTPError: there is no answer, or not 200.
        """
        return await self._list(self._trust.crl_path(issuer))

    async def shard(self, issuer: x509.Certificate, shard: int) -> bytes:
        """The DER of a shard, likewise."""
        return await self._list(f"{self._trust.crl_path(issuer)}/{shard}")

    async def _list(self, path: str) -> bytes:
        """A list is sent only where it is another than the one before (RFC 9110 §13.1.2)."""
        tag, before = self._known.get(path, ("", b""))
        answer = await self._http.get(path, headers={"if-none-match": tag} if tag else {})
        if tag and answer.status_code == httpx.codes.NOT_MODIFIED:
            return before
        der = answer.raise_for_status().content
        if "etag" in answer.headers:
            self._known[path] = answer.headers["etag"], der
        return der

    async def staple(self, certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
        """The DER of an OCSP response.

        Raises:
            httpx.HTTPError: there is no answer, or not 200.
        """
        answer = await self._http.post(
            "/ocsp",
            content=build_request(certificate, issuer),
            headers={"content-type": "application/ocsp-request"},
        )
        return answer.raise_for_status().content


@dataclass(frozen=True)
class WayToCa:
    """The mTLS client for the CA and the status it checks with."""

    followed: FollowedTrust
    credentials: CredentialsSource
    crls: CrlCache
    staples: StapleCache
    http: Http1Client
    client: CaClient

    @property
    def trust(self) -> Trust:
        """Whom the service believes now."""
        return self.followed.current

    def is_superseded(self, certificate: x509.Certificate) -> bool:
        """Whether another has taken the place of its issuer, as the files say now."""
        return self.trust.is_superseded(certificate)

    @classmethod
    def build(
        cls, settings: WayToCaSettings, status_http: httpx.AsyncClient, clock: Clock, max_staleness: timedelta
    ) -> WayToCa:
        """Build it; nothing is sent yet.

        Args:
            settings: where everything is.
            status_http: reaches the CA's status listener.
            clock: the time.
            max_staleness: without news of the CRLs for so long, no certificate is believed.

        Raises:
            SettingsError, KeyAccessError, PkiError: files are missing or make no sense.
        """
        followed = FollowedTrust(settings)
        trust = followed.current
        source = StatusSource(status_http, followed)
        directory = settings.state_dir / "status"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        credentials = CredentialsSource(settings.tls_certificate, settings.tls_key, _credentials_error)
        issuers = tuple(trust.crl_paths)
        crls = CrlCache(
            issuers,
            source.crl,
            directory,
            clock,
            max_staleness,
            on_error=_crl_error,
            fetch_shard=source.shard if settings.crls_by_certificate else None,
        )
        tls = TlsClient(
            credentials=credentials,
            rules=INTERNAL,
            trust=trust.roots,
            crls=crls,
            clock=clock,
            require_staple=True,
        )
        followed.subscribe(tls.believe)
        http = tls.http1(SpiffeId.service(settings.trust_domain, "ca"), settings.ca_url)
        staples = StapleCache(source.staple, directory, clock, on_error=_staple_error)
        return cls(followed, credentials, crls, staples, http, CaClient(http))

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: WayToCaSettings, clock: Clock, max_staleness: timedelta) -> AsyncIterator[WayToCa]:
        """As `build`, over the CA's status listener, and with CRLs at hand: from disk while good, else waited for."""
        status = public_client(settings.ca_status_url, _STATUS_TIMEOUT_SECONDS)
        async with status:
            way = cls.build(settings, status, clock, max_staleness)
            async with way.http:
                await way.ready()
                yield way

    async def ready(self) -> None:
        """Return once there are CRLs to check the CA with."""
        await self.crls.refresh()
        await patiently("CRLs", self._fresh_crls)

    async def _fresh_crls(self) -> None:
        try:
            self.crls.current()
        except StaleStatusError:
            await self.crls.refresh()
            self.crls.current()

    async def follow_revocations(self) -> None:
        """React to each revocation as soon as the CA tells of it; the periodic refresh is the fall-back."""
        after = 0
        while True:
            try:
                newest = await self.client.newest_revocation(after)
            except CaError as error:
                _log.warning("revocation feed not followed", error=str(error), retry_seconds=_FEED_RETRY_SECONDS)
                await asyncio.sleep(_FEED_RETRY_SECONDS)
                continue
            if newest > after:
                after = newest
                await asyncio.sleep(_PUBLICATION_SECONDS)
                await asyncio.gather(self.crls.refresh(), self.staples.refresh())

    def background(self) -> list[BackgroundTask]:
        """What keeps it fresh."""
        return [
            BackgroundTask("revocation-feed", self.follow_revocations),
            BackgroundTask("crls", lambda: self.crls.run(CRL_REFRESH_SECONDS)),
            BackgroundTask("trust", lambda: self.followed.run(self.crls)),
            BackgroundTask("staples", lambda: self.staples.run(STAPLE_CHECK_SECONDS)),
            BackgroundTask("internal-credentials", lambda: self.credentials.run(CREDENTIALS_CHECK_SECONDS)),
        ]

    def listener(
        self, name: str, rules: TlsRules, credentials: CredentialsSource, metrics: TlsMetrics, clock: Clock
    ) -> TlsListener:
        """A listener that believes whom this service believes; `open` it before it is used."""
        leaf = credentials.current().certificate
        metrics.certificate(name, leaf.not_valid_before_utc, leaf.not_valid_after_utc)
        listener = TlsListener(
            name=name,
            credentials=credentials,
            rules=rules,
            trust=self.trust.roots,
            crls=self.crls,
            staples=self.staples,
            observer=metrics,
            clock=clock,
        )
        self.followed.subscribe(listener.believe)
        return listener


async def patiently(what: str, attempt: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Repeat until the CA can be reached; one log line per failure says what is waited for."""
    while True:
        try:
            return await attempt()
        except (CaError, PkiError, httpx.HTTPError) as error:
            _log.warning("waiting for the CA", wanted=what, error=str(error), retry_seconds=_PAUSE_SECONDS)
            await asyncio.sleep(_PAUSE_SECONDS)


def credentials_source(files: IdentityFiles) -> CredentialsSource:
    """The pair in force, followed as it is renewed.

    Raises:
        PkiError: it is not there, or cannot be used.
    """
    return CredentialsSource(files.certificate_file, files.key_file, _credentials_error)


def _credentials_error(error: PkiError) -> None:
    _log.error("credentials not reloaded", error=str(error))


def _crl_error(issuer: x509.Certificate, error: Exception) -> None:
    _log.warning("CRL not taken", issuer=issuer.subject.rfc4514_string(), error=str(error) or type(error).__name__)


def _staple_error(certificate: x509.Certificate, error: Exception) -> None:
    _log.warning("staple not taken", serial=f"{certificate.serial_number:x}", error=str(error) or type(error).__name__)
