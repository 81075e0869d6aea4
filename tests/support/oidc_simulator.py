"""An OIDC issuer with device logins (RFC 8628), and the token endpoint of a GitHub runner, simulated over real TLS.

It speaks as much HTTP/1.1 as one request needs, on loopback, with a certificate of a CA of the test's own. Its ID
tokens have a signature that is none, unless it is given a key: whoever only carries a token does not look at it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl, urlsplit

from anyio.from_thread import start_blocking_portal
from cryptography.hazmat.primitives import serialization
from jwcrypto import jwt as oracle_jwt  # type: ignore[import-untyped] # the oracle has no types

from pkicore.encoding import base64url_encode
from tests.support.tls_pki import TlsPki, write_credentials

CLIENT: Final = "pqcsign"
DEVICE_CODE: Final = "device-code-of-the-simulator"
USER_CODE: Final = "WDJB-MJHT"
RUNNER_SECRET: Final = "runner-secret"
Answer = tuple[int, Any]
"""Status and JSON; octets are sent as they are."""

_NOT_FOUND: Final[Answer] = (404, {"error": "not_found"})


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, list[str]]
    form: dict[str, str]
    headers: dict[str, str]


@dataclass
class OidcSimulator:
    """The issuer, and what it has been asked.

    Attributes:
        ca_file: the roots that its certificate is of.
        tls: its side of TLS.
        port: where it listens.
        now: its time, Unix seconds.
        token_answers: what the token endpoint says, one after the other; then that nobody has logged in yet.
        discovery: members of its discovery document that are other than usual; None leaves one out.
        invitation: likewise, of the answer to a device.
        runner_answer: what the GitHub runner says to whoever has its secret.
        key: that signs its ID tokens, and is published; None: their signature is none.
        asked: every request.
        dropped: how many requests to the token endpoint are still to be hung up on.
        delay: seconds before it answers.
    """

    ca_file: Path
    tls: ssl.SSLContext
    port: int = 0
    now: int = 1_893_456_000
    token_answers: list[Answer] = field(default_factory=list)
    discovery: dict[str, Any] = field(default_factory=dict)
    invitation: dict[str, Any] = field(default_factory=dict)
    runner_answer: Answer = (200, {"value": "runner.token.x"})
    key: Any = None  # the oracle has no types
    asked: list[Asked] = field(default_factory=list)
    dropped: int = 0
    delay: float = 0.0

    @property
    def issuer(self) -> str:
        """Its name."""
        return f"https://localhost:{self.port}"

    @property
    def runner_environment(self) -> dict[str, str]:
        """What a job's environment has of the runner."""
        return {
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.issuer}/runner?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": RUNNER_SECRET,
        }

    def id_token(self, **changes: Any) -> str:  # noqa: ANN401 - claims are of any type
        """An ID token, good for five minutes."""
        claims = {"iss": self.issuer, "aud": CLIENT, "sub": "alice", "iat": self.now, "exp": self.now + 300} | changes
        if self.key is not None:
            token = oracle_jwt.JWT(header={"alg": "RS256", "kid": self.key["kid"], "typ": "JWT"}, claims=claims)
            token.make_signed_token(self.key)
            return str(token.serialize())
        parts = ({"alg": "ES256", "typ": "JWT"}, claims)
        return ".".join([*(base64url_encode(json.dumps(part).encode()) for part in parts), "c2lnbmF0dXJl"])

    def tokens(self, **changes: Any) -> Answer:  # noqa: ANN401 - as `id_token`
        """The answer to a login that has happened."""
        id_token = self.id_token(**changes)
        return 200, {"access_token": "access", "token_type": "Bearer", "id_token": id_token, "refresh_token": "again"}

    def asked_for_tokens(self) -> list[dict[str, str]]:
        """The forms that the token endpoint got."""
        return [asked.form for asked in self.asked if asked.path == "/token"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request, one answer, closed."""
        try:
            asked = await _read(reader)
            self.asked.append(asked)
            if asked.path == "/token" and self.dropped:
                self.dropped -= 1
                return
            route = self._routes().get((asked.method, asked.path))
            status, document = _NOT_FOUND if route is None else route(asked)
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            fields = f"content-length: {len(body)}\r\nconnection: close\r\nlocation: /elsewhere\r\n"
            await asyncio.sleep(self.delay)
            writer.write(f"HTTP/1.1 {status} X\r\n{fields}\r\n".encode() + body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError) as error:
            self.asked.append(Asked("(gone)", str(error), {}, {}, {}))
        finally:
            writer.close()

    def _routes(self) -> dict[tuple[str, str], Callable[[Asked], Answer]]:
        return {
            ("GET", "/.well-known/openid-configuration"): lambda _: self._discovery(),
            ("GET", "/jwks"): lambda _: (200, {"keys": [self.key.export_public(as_dict=True)] if self.key else []}),
            ("POST", "/device"): self._device,
            ("POST", "/token"): self._token,
            ("GET", "/runner"): self._runner,
        }

    def _discovery(self) -> Answer:
        usual = {
            "issuer": self.issuer,
            "device_authorization_endpoint": f"{self.issuer}/device",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
        }
        return 200, _changed(usual, self.discovery)

    def _device(self, asked: Asked) -> Answer:
        if asked.form.get("client_id") != CLIENT:
            return 401, {"error": "invalid_client"}
        usual = {
            "device_code": DEVICE_CODE,
            "user_code": USER_CODE,
            "verification_uri": f"{self.issuer}/activate",
            "verification_uri_complete": f"{self.issuer}/activate?code={USER_CODE}",
            "expires_in": 600,
            "interval": 5,
        }
        return 200, _changed(usual, self.invitation)

    def _token(self, asked: Asked) -> Answer:
        known = {("device_code", DEVICE_CODE), ("refresh_token", "again")}
        if not known & set(asked.form.items()) or asked.form.get("client_id") != CLIENT:
            return 400, {"error": "invalid_grant"}
        return self.token_answers.pop(0) if self.token_answers else (400, {"error": "authorization_pending"})

    def _runner(self, asked: Asked) -> Answer:
        right = asked.headers.get("authorization") == f"Bearer {RUNNER_SECRET}"
        return self.runner_answer if right else (401, {"error": "unauthorized"})


def _changed(usual: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (usual | changes).items() if value is not None}


async def _read(reader: asyncio.StreamReader) -> Asked:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = lines[0].split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
    body = (await reader.readexactly(int(headers.get("content-length", "0")))).decode()
    url = urlsplit(target)
    return Asked(method, url.path, parse_qs(url.query), dict(parse_qsl(body)), headers)


@asynccontextmanager
async def oidc_simulator(directory: Path) -> AsyncIterator[OidcSimulator]:
    """A running issuer; its files are below the directory."""
    pki = TlsPki.make("ecdsa")
    home = directory / "oidc"
    home.mkdir()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_credentials(pki.issuing.issue(family="ecdsa"), home))
    simulator = OidcSimulator(home / "roots.pem", context)
    simulator.ca_file.write_bytes(pki.root.certificate.public_bytes(serialization.Encoding.PEM))
    listener = await asyncio.start_server(simulator.serve, "127.0.0.1", 0, ssl=context)
    simulator.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield simulator


@contextmanager
def oidc_simulator_in_thread(directory: Path) -> Iterator[OidcSimulator]:
    """A running issuer, for tests that have no event loop."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(oidc_simulator(directory)) as simulator:
        yield simulator
