"""The signing service in memory with all that comes after signatures: webhooks, evidence, holds, retention."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from pkicore.identity import SpiffeId
from services.chassis.asgi import AsgiApp
from services.chassis.observability import HttpMetrics
from services.signing.aftercare import Aftercare, AftercareRules, Signed, build_aftercare
from services.signing.app import public_application
from services.signing.retention import RetentionRule
from services.signing.trusted_root import Period, TrustedAuthority, TrustedLog, TrustedRoot
from services.signing.webhooks.settings import WebhookSettings
from tests.support.signing_world import OPERATOR, POLICIES, VERIFIER, SigningWorld
from tests.support.webhook_world import LOOPBACK

HOLDING = '@id("holds") permit (principal in Tenant::"acme", action == Action::"hold_signatures", resource);'


@dataclass
class Service:
    """The service with all that comes after signatures."""

    world: SigningWorld
    aftercare: Aftercare

    @cached_property
    def application(self) -> AsgiApp:
        """The TLS listener's."""
        return public_application(self.world.core, HttpMetrics(CollectorRegistry()), (), self.aftercare)

    def http(self, peer: SpiffeId | None = OPERATOR, api_key: str | None = None) -> httpx.AsyncClient:
        """A caller of it."""
        app = self.application
        shown = None if peer is None or api_key is not None else SimpleNamespace(spiffe_id=peer, serial=1)

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 -- ASGI's own types
            await app({**scope, "state": {"peer": shown}}, receive, send)

        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        return httpx.AsyncClient(transport=httpx.ASGITransport(with_peer), base_url=VERIFIER, headers=headers)

    async def ask(self, method: str, path: str, json: Any = None, peer: SpiffeId = OPERATOR) -> httpx.Response:  # noqa: ANN401 -- any JSON
        """One request."""
        async with self.http(peer) as http:
            return await http.request(method, path, json=json)


async def trusted_root(world: SigningWorld) -> TrustedRoot:
    """The world's log and time-stamping authority, where it has them."""
    if world.log is None:
        return TrustedRoot()
    always = Period(datetime(2000, 1, 1, tzinfo=UTC))
    return TrustedRoot(
        logs=(TrustedLog(VERIFIER, await world.public_key("signing.log"), always),),
        timestamp_authorities=(TrustedAuthority(VERIFIER, world.timestamp_chain, always),),
    )


@asynccontextmanager
async def aftercare_world(directory: Path, *, url: str | None = None, witnesses: bool = True) -> AsyncIterator[Service]:
    """The service; signatures of acme are kept ten years.

    Args:
        directory: for its files.
        url: of its database; SQLite in the directory if not given.
        witnesses: whether there are a log and a time-stamping authority.
    """
    policies = {**POLICIES, "third.cedar": HOLDING}
    world = await SigningWorld.open(directory, url=url, witnesses=witnesses, policies=policies)
    passphrase = directory / "passphrase"
    passphrase.write_text("correct horse")
    passphrase.chmod(0o600)
    core = world.core
    signed = Signed(
        store=core.store,
        outbox=core.outbox,
        objects=core.objects,
        quotas=core.quotas,
        decisions=core.decisions,
        signatures=core.signatures,
        signer=world.signer,
        trusted_root=(await trusted_root(world)).to_json,
    )
    settings = WebhookSettings(allowed_networks=LOOPBACK, plain_http=True, resolver="127.0.0.1:1", per_tenant=2)
    rules = AftercareRules(
        webhooks=settings,
        retention=[RetentionRule(tenant="acme", keep="10y")],
        passphrase_file=passphrase,
        directory=directory,
    )
    aftercare = await build_aftercare(world.database, signed, rules, clock=world.clock, registry=CollectorRegistry())
    yield Service(world, aftercare)
    await world.close()
