"""`pqcsign` as a terminal runs it, against the whole service in memory: log, time-stamps, webhooks, evidence, holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import httpx
import orjson
from click.testing import CliRunner, Result
from cryptography import x509
from prometheus_client import CollectorRegistry

from pkicore.algorithms import known_public_key
from pkicore.dsse import key_id as dsse_key_id
from services.chassis.asgi import AsgiApp
from services.chassis.observability import HttpMetrics
from services.signing.aftercare import Aftercare, AftercareRules, Signed, build_aftercare
from services.signing.app import public_application
from services.signing.cli.connection import Surroundings, Way
from services.signing.cli.credentials import Credential
from services.signing.cli.main import main
from services.signing.jobs import Profile
from services.signing.retention import RetentionRule
from services.signing.trusted_root import Period, TrustedAuthority, TrustedLog, TrustedRoot
from services.signing.webhooks.settings import WebhookSettings
from services.signing.wire import FORMATS
from tests.support.signing_pki import CODE_SIGNING, SigningPki
from tests.support.signing_world import OPERATOR, POLICIES, VERIFIER, SigningWorld
from tests.support.webhook_world import LOOPBACK

URL: Final = "https://signing.acme.test"
HOLDING: Final = '@id("holds") permit (principal in Tenant::"acme", action == Action::"hold_signatures", resource);'
BOTH: Final = ("acme.artefact-es256", "acme.artefact-mldsa65")
ATTESTING: Final = ("acme.attestation-es256", "acme.attestation-mldsa65")
OFFLINE: Final = ("verify", "policy test", "evidence verify")


class OtherLoop(httpx.AsyncBaseTransport):
    """Carries requests from a command's event loop to the one in which the service lives."""

    def __init__(
        self, http: httpx.AsyncClient, home: asyncio.AbstractEventLoop, forge: Callable[[bytes], bytes]
    ) -> None:
        self._http = http
        self._home = home
        self._forge = forge

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx has it."""
        body, headers = await request.aread(), list(request.headers.raw)
        sent = self._http.request(request.method, request.url, content=body, headers=headers)
        answer = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(sent, self._home))
        return httpx.Response(
            answer.status_code, headers=answer.headers, stream=httpx.ByteStream(self._forge(answer.content))
        )


@dataclass
class PqcsignWorld:
    """The service, as the operator of acme meets it unless a command finds a bearer's credential.

    Attributes:
        world: the service.
        aftercare: what comes after signatures.
        trusted_root: its log and time-stamping authority.
    """

    world: SigningWorld
    aftercare: Aftercare
    trusted_root: TrustedRoot

    @classmethod
    @asynccontextmanager
    async def opened(cls, directory: Path) -> AsyncIterator[PqcsignWorld]:
        """A running one whose state is below the directory; profile `all` makes every format, by all keys of acme."""
        chains: dict[str, tuple[x509.Certificate, ...]] = {}
        world = await SigningWorld.open(
            directory,
            witnesses=True,
            policies={**POLICIES, "third.cedar": HOLDING},
            more_profiles={("acme", "all"): Profile(BOTH, ATTESTING, FORMATS, timestamp=True, log=True, chains=chains)},
        )
        chains |= await _certified(world)
        passphrase = directory / "passphrase"
        passphrase.write_text("correct horse")
        passphrase.chmod(0o600)
        always = Period(datetime(2000, 1, 1, tzinfo=UTC))
        root = TrustedRoot(
            logs=(TrustedLog(VERIFIER, await world.public_key("signing.log"), always),),
            timestamp_authorities=(TrustedAuthority(VERIFIER, world.timestamp_chain, always),),
        )
        core = world.core
        signed = Signed(
            store=core.store,
            outbox=core.outbox,
            objects=core.objects,
            quotas=core.quotas,
            decisions=core.decisions,
            signatures=core.signatures,
            signer=world.signer,
            trusted_root=root.to_json,
        )
        rules = AftercareRules(
            webhooks=WebhookSettings(allowed_networks=LOOPBACK, plain_http=True, resolver="127.0.0.1:1", per_tenant=2),
            retention=[RetentionRule(tenant="acme", keep="10y")],
            passphrase_file=passphrase,
            directory=directory,
        )
        aftercare = await build_aftercare(
            world.database, signed, rules, clock=world.clock, registry=CollectorRegistry()
        )
        yield cls(world, aftercare, root)
        await world.close()

    @cached_property
    def application(self) -> AsgiApp:
        """The TLS listener's."""
        return public_application(self.world.core, HttpMetrics(CollectorRegistry()), (), self.aftercare)

    def http(self, credential: Credential | None) -> httpx.AsyncClient:
        """The TLS listener's application, called by the operator where a certificate is shown."""
        app = self.application
        is_operator = credential is not None and credential.certificate is not None
        peer = SimpleNamespace(spiffe_id=OPERATOR, serial=1) if is_operator else None

        async def with_peer(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 -- ASGI's own types
            await app({**scope, "state": {"peer": peer}}, receive, send)

        return httpx.AsyncClient(transport=httpx.ASGITransport(with_peer), base_url=URL, timeout=60)


@dataclass
class Cli:
    """Runs commands of one user, with an artefact in the user's home.

    Attributes:
        service: that they call.
        home: of the user, with the artefact app.bin.
        environment: of the commands.
        forge: changes the service's answers on their way.
    """

    service: PqcsignWorld
    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    forge: Callable[[bytes], bytes] = bytes

    @property
    def world(self) -> SigningWorld:
        """The service's own."""
        return self.service.world

    @property
    def app(self) -> Path:
        """The artefact."""
        return self.home / "app.bin"

    @property
    def root(self) -> tuple[str, Path]:
        """The option that names the trusted root."""
        path = self.home / "trusted_root.json"
        path.write_bytes(self.service.trusted_root.to_json())
        return "--trusted-root", path

    async def run(self, *words: object, as_operator: bool = True) -> Result:
        """A command as it runs at a terminal, but for its way to the service."""
        loop = asyncio.get_running_loop()

        @asynccontextmanager
        async def connect(_way: Way, credential: Credential | None) -> AsyncIterator[httpx.AsyncClient]:
            transport = OtherLoop(self.service.http(credential), loop, self.forge)
            async with httpx.AsyncClient(transport=transport, base_url=URL) as http:
                yield http

        around = Surroundings({"HOME": str(self.home), **self.environment}, self.world.clock, asyncio.sleep, connect)
        identity = ["--cert", self.home / "cert.pem", "--key-file", self.home / "key.pem"] if as_operator else []
        arguments = [str(word) for word in words]
        if not " ".join(arguments).startswith(OFFLINE):
            arguments += map(str, ["--url", URL, "--ca", self.home / "ca.pem", *identity])
        return await asyncio.to_thread(CliRunner().invoke, main, arguments, obj=around)

    async def read(self, *words: object, as_operator: bool = True) -> dict[str, Any]:
        """What a command that goes well answers with --json."""
        result = await self.run(*words, "--json", as_operator=as_operator)
        assert result.exit_code == 0, f"{result.output}{result.exception!r}"
        answer: dict[str, Any] = orjson.loads(result.stdout)
        return answer

    async def key(self, name: str) -> Path:
        """A key's public half in a file, as anybody gets it."""
        answer = await self.world.fetch(f"/v1/keys/{name}/public-key")
        path = self.home / f"{name}.pem"
        path.write_bytes(answer.content)
        return path

    async def keys(self, *names: str) -> list[object]:
        """Options that name keys of acme."""
        whole = [name if "-" in name else f"artefact-{name}" for name in names]
        return [word for name in whole for word in ("--key", await self.key(f"acme.{name}"))]

    def names(self, directory: Path | None = None) -> set[str]:
        """The files that stand beside the artefact, or in a directory."""
        found = (directory or self.home).iterdir()
        return {path.name for path in found if path.name.startswith(("app.", "multiple."))}


async def _certified(world: SigningWorld) -> dict[str, tuple[x509.Certificate, ...]]:
    """Certificates of the artefact keys, which CMS needs."""
    pki, held = SigningPki.make("ecdsa-p256", world.clock.now()), world.signer_world.device.keys.values()
    public = {key_id: dsse_key_id(await world.public_key(key_id)) for key_id in BOTH}
    by_id = {dsse_key_id(known_public_key(key.public_key())): key for key in held}
    return {
        key_id: (pki.certify(by_id[found], CODE_SIGNING).certificate, pki.root.certificate)
        for key_id, found in public.items()
    }


def user(service: PqcsignWorld, directory: Path) -> Cli:
    """A user with a new home, whose artefact is like no other's."""
    home = directory / "home"
    home.mkdir()
    (home / "app.bin").write_bytes(f"an artefact of {directory}\n".encode() * 10_000)
    service.world.signer.fault = None
    service.world.signer.asked = 0
    return Cli(service, home)
