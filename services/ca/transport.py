"""How the CA stands in the network: its identity, the certificates it believes, its mTLS listener, its own address.

It asks nobody: CRLs come from its ledger, staples are made in process.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import structlog
from cryptography import x509

from pkicore.clock import Clock
from pkicore.errors import StaleStatusError
from pkicore.mtls import INTERNAL, CredentialsSource, CrlCache, StapleCache, TlsListener
from pkicore.x509.certificate import crl_urls
from services.ca.client.trust import Believe
from services.ca.hierarchy import read_issuers, trusted_issuers, trusted_roots
from services.ca.publication import CrlPublisher
from services.ca.settings import CaSettings
from services.ca.store import CaStore
from services.chassis.observability import TlsMetrics
from services.chassis.runner import BackgroundTask

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_CRL_REFRESH: Final = 60.0  # seconds between looks of the listener at the CRLs, beside being told of new ones
_STAPLE_CHECK: Final = 30.0
_CREDENTIALS_CHECK: Final = 5.0

_log = structlog.get_logger(__name__)


class OwnStatus(Protocol):
    """What the CA's domain says of its own certificates."""

    @property
    def publisher(self) -> CrlPublisher:
        """Tells of each new CRL."""
        ...

    async def staple(self, certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
        """An OCSP response about one of our own certificates."""
        ...


@dataclass
class Standing:
    """Who the CA is to others, and which certificates it believes: it asks nobody but its own ledger.

    Attributes:
        credentials: its own identity.
        certificates: of the issuing CAs and roots that it believes, by the name of their CRL.
        crls: their CRLs.
        roots: the trust anchors.
        clock: the time.
        lists: where `crls` come from.
    """

    credentials: CredentialsSource
    certificates: dict[str, x509.Certificate]
    crls: CrlCache
    roots: tuple[x509.Certificate, ...]
    clock: Clock
    lists: "LedgerLists"
    _believers: list[Believe] = field(default_factory=list, init=False)

    @classmethod
    def of(cls, settings: CaSettings, store: CaStore, clock: Clock) -> "Standing":
        """Read credentials and certificates.

        Raises:
            KeyAccessError, MalformedError: a file is missing or does not parse.
        """
        credentials = CredentialsSource(
            settings.tls_certificate,
            settings.tls_key,
            lambda error: _log.error("credentials not reloaded", error=str(error)),
        )
        roots = read_issuers(trusted_roots(settings))
        certificates = read_issuers(trusted_issuers(settings)) | roots
        lists = LedgerLists(store)
        staleness, is_sharded = (
            settings.crl_max_staleness_seconds,
            any(item.crl_shards > 1 for item in settings.issuers),
        )
        crls = ledger_crls(certificates, lists, None, clock, staleness, by_certificate=is_sharded)
        return cls(credentials, certificates, crls, tuple(roots.values()), clock, lists)

    def subscribe(self, believe: Believe) -> None:
        """Have `believe` called with the roots whenever they change."""
        self._believers.append(believe)

    async def follow(self, settings: CaSettings) -> None:
        """Believe as the settings say now; what comes anew counts once its CRL is in the ledger.

        Raises:
            KeyAccessError, MalformedError: a file is missing or does not parse.
        """
        roots = read_issuers(trusted_roots(settings))
        wanted = read_issuers(trusted_issuers(settings)) | roots
        self.certificates.update(wanted)
        if not await self.crls.follow(tuple(wanted.values())):
            raise StaleStatusError("a new issuing CA, or a new root, has no CRL yet")
        self.roots = tuple(roots.values())
        for believe in self._believers:
            believe(self.roots)


class LedgerLists:
    """The newest CRLs, from the publisher's memory once there is one, which spares a look at every revocation."""

    def __init__(self, store: CaStore, publisher: CrlPublisher | None = None) -> None:
        self._store = store
        self.publisher = publisher

    async def newest(self, name: str) -> bytes:
        """The DER of an issuer's.

        Raises:
            StaleStatusError: it has none.
        """
        found = None if self.publisher is None else self.publisher.newest(name)
        found = found or await self._store.crl(name)
        if found is None:
            raise StaleStatusError(f"there is no CRL of {name}")
        return found.der


def ledger_crls(
    certificates: Mapping[str, x509.Certificate],
    lists: LedgerLists,
    directory: Path | None,
    clock: Clock,
    max_staleness_seconds: int,
    on_error: Callable[[x509.Certificate, Exception], None] | None = None,
    *,
    by_certificate: bool = False,
) -> CrlCache:
    """The newest CRL of each issuer, from the ledger; kept in a directory for others, where one is given.

    `by_certificate` is for large ones: then of issuing CAs those lists are read that the certificates of peers name.
    """

    async def fetch(issuer: x509.Certificate, shard: int = 0) -> bytes:
        name = next(name for name, certificate in certificates.items() if certificate == issuer)
        return await lists.newest(f"{name}/{shard}" if shard else name)

    return CrlCache(
        list(certificates.values()),
        fetch,
        directory,
        clock,
        timedelta(seconds=max_staleness_seconds),
        on_error=on_error or _crl_not_taken,
        fetch_shard=fetch if by_certificate else None,
    )


def _crl_not_taken(issuer: x509.Certificate, error: Exception) -> None:
    _log.error("CRL not taken", issuer=issuer.subject.rfc4514_string(), error=str(error))


@dataclass(frozen=True)
class Transport:
    """The mTLS listener and what feeds it: credentials, CRLs and staples, all in process."""

    listener: TlsListener
    credentials: CredentialsSource
    crls: CrlCache
    staples: StapleCache
    published: asyncio.Event

    @classmethod
    def of(cls, standing: Standing, core: OwnStatus, metrics: TlsMetrics, clock: Clock) -> "Transport":
        """Build it; `open` it before the listener is used."""
        credentials, crls = standing.credentials, standing.crls
        credentials.reload()
        staples = StapleCache(
            core.staple, None, clock, on_error=lambda _, error: _log.error("staple not made", error=str(error))
        )
        listener = TlsListener(
            name="internal",
            credentials=credentials,
            rules=INTERNAL,
            trust=standing.roots,
            crls=crls,
            staples=staples,
            observer=metrics,
            clock=clock,
        )
        standing.subscribe(listener.believe)
        leaf = credentials.current().certificate
        metrics.certificate("internal", leaf.not_valid_before_utc, leaf.not_valid_after_utc)
        standing.lists.publisher = core.publisher
        published = asyncio.Event()
        core.publisher.subscribe(lambda _crl: published.set())
        return cls(listener, credentials, crls, staples, published)

    async def open(self) -> None:
        """CRLs and the staple are there before the first connection.

        Raises:
            StaleStatusError: they cannot be had.
        """
        await self.crls.refresh()
        try:
            self.crls.current()
        except StaleStatusError as error:
            raise StaleStatusError(f"{error} that holds now; the log says why. Is the clock right?") from error
        await self.listener.open()

    def background(self) -> list[BackgroundTask]:
        """What keeps them fresh."""
        return [
            BackgroundTask("own-crls", self._follow_crls),
            BackgroundTask("own-staple", lambda: self.staples.run(_STAPLE_CHECK)),
            BackgroundTask("own-credentials", lambda: self.credentials.run(_CREDENTIALS_CHECK)),
        ]

    async def _follow_crls(self) -> None:
        """Take each new CRL as it is published; a revoked peer's connection is closed then."""
        while True:
            try:
                async with asyncio.timeout(_CRL_REFRESH):
                    await self.published.wait()
            except TimeoutError:
                pass
            self.published.clear()
            await self.crls.refresh()
            await self.staples.refresh()


def advertised_url(recorded: str, address: tuple[str, int]) -> str:
    """The URL that certificates carry: the recorded one, unless that names a loopback port which we did not get."""
    host, port = address[:2]
    actual = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    parts = urlsplit(recorded)
    if not recorded or (parts.hostname in _LOOPBACK and parts.port != port):
        return actual
    return recorded


def ceremony_base_url(issuing: x509.Certificate) -> str:
    """The status URL at the time of the ceremony, as an issuing CA's distribution point has it."""
    return next(iter(crl_urls(issuing)), "").partition("/crl/")[0]
