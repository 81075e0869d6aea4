"""The log and the time-stamping authority, opened for `services.signing.app`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pkicore.algorithms import known_public_key
from pkicore.clock import Clock
from pkicore.keys.remote import RemoteKey, RemoteSigner, open_remote_key
from services.ca.client.way import WayToCa, patiently
from services.chassis.asgi import Request, Response, Route
from services.chassis.database import Database
from services.signing.log import SigningLog, signing_log_routes
from services.signing.published_trust import (
    authorities,
    read_chain,
    read_public_key,
    timestamp_authority,
    trust_routes,
    trusted_log,
)
from services.signing.quotas import Bucket
from services.signing.settings import SigningSettings
from services.signing.store import Numbers, SigningStore
from services.signing.timestamps import Serials, TimestampAuthority, TimestampPolicy
from services.signing.timestamps import routes as timestamp_routes
from services.signing.trusted_root import TrustedRoot
from services.signing.witnesses import Witnesses

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
    root: TrustedRoot
    routes: Sequence[Route]


async def open_witnesses(ground: Ground) -> Trusted:
    """Open those that the settings name.

    Raises:
        SettingsError, PkiError, ChassisError: they make no sense, or cannot be opened.
    """
    settings, base_url, ca = ground.settings, ground.base_url, ground.ca
    since = min(issuer.not_valid_before_utc for issuer in ca.trust.crl_paths)
    log = authority = None
    root, routes = TrustedRoot(authorities=authorities(ca.trust, settings.ca_url)), []
    if settings.ct_log_public_key is not None:
        public_key = read_public_key(settings.ct_log_public_key, "ct_log_public_key")
        root = replace(root, ct_logs=(trusted_log(f"{settings.ca_status_url}/ct", public_key, since),))
    if settings.log_key is not None:
        key = await _log_key(settings.log_key, settings.log_public_key, ground.signer, ground.pool)
        origin = settings.log_origin or urlsplit(base_url).hostname or ""
        log = await SigningLog.open(ground.database, key=key, origin=origin)
        ground.stack.push_async_callback(log.close)
        routes += signing_log_routes(log)
        root = replace(root, logs=(trusted_log(base_url, key.public_key, since),))
    if settings.timestamp_key is not None and settings.timestamp_certificate is not None:
        chain = read_chain(settings.timestamp_certificate, "timestamp_certificate")
        leaf_key = known_public_key(chain[0].public_key())
        authority = TimestampAuthority(
            RemoteKey(_pinned(settings.timestamp_key), leaf_key, ground.signer, ground.pool),
            chain,
            policy=TimestampPolicy(settings.timestamp_policy),
            serials=Serials(Numbers(ground.store, "timestamps")),
            clock=ground.clock,
        )
        bucket = Bucket(
            settings.timestamps_per_second, int(_BURST * settings.timestamps_per_second) + 1, ground.monotonic
        )
        routes += [limited(route, bucket) for route in timestamp_routes(authority)]
        root = replace(root, timestamp_authorities=(timestamp_authority(chain, base_url),))
    issuers = [issuer.issuer for issuer in settings.oidc_issuers]
    routes += trust_routes(root, settings.trust_domain, base_url, issuers)
    return Trusted(Witnesses(authority, log), root, routes)


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
