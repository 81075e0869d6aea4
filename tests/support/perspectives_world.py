"""An ACME server's validation and remote perspectives on loopback, over real mutual TLS, each with a DNS of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from pkicore.identity import SpiffeId
from pkicore.mtls import Credentials
from services.acme.perspectives.corroboration import Answers, Corroborated
from services.acme.perspectives.endpoint import perspective_application
from services.acme.perspectives.remote import RemotePerspective, perspective_http
from services.acme.validation import Validator
from services.chassis.observability import HttpMetrics
from services.chassis.peer import CallerPolicy
from tests.support.clock import ManualClock
from tests.support.dns_server import DnsSimulator
from tests.support.tls_pki import TRUST_DOMAIN
from tests.support.tls_server import serve
from tests.support.tls_world import World
from tests.support.validation_settings import validation_settings

POLICY = f"""[[allow]]
caller = "spiffe://{TRUST_DOMAIN}/service/acme"
service = "perspective"
endpoints = ["POST /v1/validations"]
"""

Asgi = Callable[[MutableMapping[str, Any], Callable[..., Any], Callable[..., Any]], Awaitable[None]]


@dataclass
class Perspectives:
    """What is there.

    Attributes:
        world: the PKI of all of them.
        directory: for settings.
        stack: ends what was started.
        dns: what each place sees, by its name; the server itself is "primary".
    """

    world: World
    directory: Path
    stack: AsyncExitStack
    dns: dict[str, DnsSimulator]

    @classmethod
    @asynccontextmanager
    async def open(cls, directory: Path) -> AsyncIterator[Perspectives]:
        """Nobody yet but the server."""
        async with AsyncExitStack() as stack:
            found = cls(await World.make(), directory, stack, {})
            await found.see("primary")
            yield found

    async def see(self, name: str) -> None:
        """A DNS of this place's own."""
        self.dns[name] = await self.stack.enter_async_context(DnsSimulator())

    def validator(self, name: str, **changed: object) -> Validator:
        """The validation of a place."""
        told = {"resolver": self.dns[name].address, "validation_timeout_seconds": 2.0} | changed
        return Validator.build(validation_settings(self.directory, **told), ManualClock())

    async def listen(self, name: str, **changed: object) -> str:
        """A real perspective of this name; where it answers."""
        await self.see(name)
        policy, metrics = CallerPolicy.load(POLICY), HttpMetrics(CollectorRegistry())
        return await self.serve(name, perspective_application(self.validator(name, **changed), policy, metrics))

    async def serve(self, identity: str, application: Asgi) -> str:
        """Whatever application behind the identity of this perspective; where it answers."""
        listener = self.world.listener(credentials=self.world.pki.service(f"perspective-{identity}"))
        return f"https://localhost:{await self.stack.enter_async_context(serve(listener, application))}"

    async def remote(
        self, name: str, url: str, *, credentials: Credentials | None = None, seconds: float = 5.0
    ) -> RemotePerspective:
        """The perspective of this name as the ACME server, or whoever has these credentials, asks it."""
        tls = self.world.client(**({} if credentials is None else {"credentials": credentials}))
        identity = SpiffeId.service(TRUST_DOMAIN, f"perspective-{name}")
        http = await self.stack.enter_async_context(perspective_http(tls, url, identity))
        return RemotePerspective(name, http, seconds)

    def corroborated(self, remote: list[RemotePerspective], quorum: int) -> Corroborated:
        """The server's validation with these behind it."""
        return Corroborated(self.validator("primary"), remote, quorum, Answers(CollectorRegistry()))
