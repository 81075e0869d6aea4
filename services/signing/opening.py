"""The log and the time-stamping authority, opened for `services.signing.app`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pkicore.algorithms import known_public_key
from pkicore.clock import Clock
from pkicore.keys import SigningKey
from pkicore.keys.remote import RemoteKey, RemoteSigner, open_remote_key
from services.ca.client.way import WayToCa, patiently
from services.chassis.asgi import Request, Response, Route
from services.chassis.database import Database
from services.chassis.errors import SettingsError
from services.chassis.tlog import RenamedLogError
from services.signing.key_certificates import CertifiedKey
from services.signing.log import SigningLog, signing_log_routes
from services.signing.metrics import SigningMetrics
from services.signing.published_trust import (
    IssuingCas,
    PublishedTrust,
    log_url,
    read_chain,
    read_public_key,
    trusted_log,
)
from services.signing.quotas import Bucket
from services.signing.renewal import Means, Renewal
from services.signing.settings import SigningSettings
from services.signing.store import Numbers, SigningStore
from services.signing.store.certificates import CertificateStore
from services.signing.timestamps import Serials, TimestampAuthority, TimestampPolicy
from services.signing.timestamps import routes as timestamp_routes
from services.signing.trusted_root import TrustedRoot
from services.signing.witnesses import Witnesses

TIMESTAMP_PROFILE: Final = "timestamping"
ARTEFACT_PROFILE: Final = "artefact-signing"
"""The CA's profiles of certificates for keys that stay."""
_BURST: Final = 2  # seconds' worth of time-stamps at once


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What the parts of one process stand on."""

    settings: SigningSettings
    base_url: str
    ca: WayToCa
    signer: RemoteSigner
    database: Database
    store: SigningStore
    stack: AsyncExitStack
    pool: Executor
    clock: Clock
    monotonic: Callable[[], float]


@dataclass(frozen=True)
class Trusted:
    """Who witnesses, and what verifiers are told of it."""

    witnesses: Witnesses
    published: PublishedTrust
    routes: Sequence[Route]


async def open_witnesses(ground: Ground, renewal: Renewal) -> Trusted:
    """Open those that the settings name.

    Raises:
        SettingsError, PkiError, ChassisError: they make no sense, or cannot be opened.
    """
    settings, base_url, ca = ground.settings, ground.base_url, ground.ca
    since = min(issuer.not_valid_before_utc for issuer in ca.trust.crl_paths)
    log = authority = None
    root, routes = TrustedRoot(), []
    if settings.ct_log_public_key is not None:
        public_key = read_public_key(settings.ct_log_public_key, "ct_log_public_key")
        root = replace(root, ct_logs=(trusted_log(f"{settings.ca_status_url}/ct", public_key, since),))
    if settings.log_key is not None:
        key = await _log_key(settings.log_key, settings.log_public_key, ground.signer, ground.pool)
        log = await open_log(ground, key)
        routes += signing_log_routes(log)
        root = replace(root, logs=(trusted_log(log_url(base_url, log.origin), key.public_key, since),))
    published = PublishedTrust(
        root,
        base_url,
        settings.trust_domain,
        [issuer.issuer for issuer in settings.oidc_issuers],
        issuing=IssuingCas(lambda: ca.trust, settings.ca_url),
    )
    if (stamping := timestamp_key(renewal)) is not None:
        authority = _open_authority(ground, stamping)
        follow_authority(stamping, renewal, authority, published)
        bucket = Bucket(
            settings.timestamps_per_second, int(_BURST * settings.timestamps_per_second) + 1, ground.monotonic
        )
        routes += [limited(route, bucket) for route in timestamp_routes(authority)]
    return Trusted(Witnesses(authority, log), published, [*routes, *published.routes()])


async def open_log(ground: Ground, key: SigningKey) -> SigningLog:
    """The log, under the name of the settings, or that of the host of this service.

    Raises:
        SettingsError: the stored log has another name; the sentence says which setting is to have which value.
        ForkedLogError, DatabaseError: as `TileLog.open`.
    """
    origin = ground.settings.log_origin or urlsplit(ground.base_url).hostname or ""
    kept = ground.settings.state_dir / "log-checkpoint"
    try:
        log = await SigningLog.open(ground.database, key=key, origin=origin, kept=kept)
    except RenamedLogError as error:
        raise SettingsError(
            f'log_origin: {error}: set log_origin = "{error.stored}", or external_url to what it was'
        ) from error
    ground.stack.push_async_callback(log.close)
    return log


def _open_authority(ground: Ground, key: CertifiedKey) -> TimestampAuthority:
    public_key = known_public_key(key.configured[0].public_key())
    return TimestampAuthority(
        RemoteKey(key.uri, public_key, ground.signer, ground.pool),
        key.in_use,
        policy=TimestampPolicy(ground.settings.timestamp_policy),
        serials=Serials(Numbers(ground.store, "timestamps")),
        clock=ground.clock,
    )


async def open_renewal(ground: Ground, metrics: SigningMetrics) -> Renewal:
    """The keys that the settings give certificates for, each with the one in use; what follows in the background.

    Where that of the time-stamping authority has run out while the service was off, the next one is waited for.

    Raises:
        SettingsError: a file holds no certificates.
        PkiError, DatabaseError: what is stored cannot be read or used.
    """
    settings = ground.settings
    early = timedelta(days=settings.certificate_renewal_days)
    configured = {
        key_id: (f"signer-hsm:{key_id}", ARTEFACT_PROFILE, read_chain(path, f"profiles.certificates of {key_id}"))
        for profile in settings.profiles
        for key_id, path in profile.certificates.items()
    }
    if settings.timestamp_key is not None and settings.timestamp_certificate is not None:
        chain = read_chain(settings.timestamp_certificate, "timestamp_certificate")
        key_id = settings.timestamp_key.partition("/")[0]
        configured[key_id] = (_pinned(settings.timestamp_key), TIMESTAMP_PROFILE, chain)
    keys = [CertifiedKey(key_id, *about, early=early) for key_id, about in configured.items()]
    means = Means(
        store=CertificateStore(ground.database),
        authority=ground.ca.client,
        signer=ground.signer,
        pool=ground.pool,
        roots=lambda: ground.ca.trust.roots,
    )
    renewal = Renewal(keys, means, metrics, ground.clock)
    await renewal.open()
    stamping = timestamp_key(renewal)
    if stamping is not None and stamping.in_use[0].not_valid_after_utc <= ground.clock.now():
        await patiently("certificate of the time-stamping authority", lambda: renewal.renew(stamping))
    return renewal


def timestamp_key(renewal: Renewal) -> CertifiedKey | None:
    """That of the time-stamping authority."""
    return next((key for key in renewal.keys if key.profile == TIMESTAMP_PROFILE), None)


def follow_authority(
    key: CertifiedKey, renewal: Renewal, authority: TimestampAuthority, published: PublishedTrust
) -> None:
    """Have the authority use, and verifiers know, each certificate from now on."""

    def publish() -> None:
        published.timestamp_chains(key.every)

    key.taken = authority.take
    renewal.changed = publish
    publish()


def limited(route: Route, bucket: Bucket) -> Route:
    """A route for anybody, of which all together have so many requests: the key behind it is the log's neighbour."""

    async def handler(request: Request) -> Response:
        bucket.take()
        return await route.handler(request)

    return replace(route, handler=handler)


async def _log_key(name: str, public_key: Path | None, signer: RemoteSigner, pool: Executor) -> RemoteKey:
    if public_key is not None:
        return RemoteKey(_pinned(name), read_public_key(public_key, "log_public_key"), signer, pool)
    return await patiently("key of the log", lambda: open_remote_key(_pinned(name), signer, pool))


def _pinned(name: str) -> str:
    return f"signer-hsm:{name}" if "/" in name else f"signer-hsm:{name}/1"
