"""An OIDC issuer simulated: an https server on loopback that answers with a JWK set and other documents, or badly.

It speaks as much HTTP/1.1 as one request needs. Its certificate is of a CA of the test's own.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization

from tests.support.tls_pki import TlsPki


@dataclass
class JwksServer:
    """What the issuer publishes, and how often it was asked.

    Attributes:
        ca_file: the roots that its certificate is of.
        port: where it listens.
        body: what it answers with.
        documents: what it answers with instead, by path.
        status: the status line's rest.
        headers: further ones.
        delay: seconds before it answers.
        requests: the request lines so far.
    """

    ca_file: Path
    port: int = 0
    body: bytes = b""
    documents: dict[str, bytes] = field(default_factory=dict)
    status: str = "200 OK"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    requests: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where the keys are."""
        return f"https://localhost:{self.port}/jwks"

    @property
    def issuer(self) -> str:
        """The issuer's own name, for discovery."""
        return f"https://localhost:{self.port}"

    def publish(self, *jwks: dict[str, Any]) -> None:
        """Answer with these keys from now on."""
        self.body = json.dumps({"keys": jwks}).encode()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request, one answer, closed."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head.split(b"\r\n")[0].decode())
            await asyncio.sleep(self.delay)
            body = self.documents.get(head.split(b" ")[1].decode(), self.body)
            headers = {"content-length": str(len(body)), "connection": "close"} | self.headers
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            writer.write(f"HTTP/1.1 {self.status}\r\n{lines}\r\n".encode() + body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            self.requests.append("(gone)")
        finally:
            writer.close()


@asynccontextmanager
async def jwks_server(directory: Path) -> AsyncIterator[JwksServer]:
    """A running issuer."""
    pki = TlsPki.make("ecdsa")
    credentials = pki.issuing.issue(family="ecdsa")
    chain, key, roots = directory / "jwks-chain.pem", directory / "jwks-key.pem", directory / "jwks-roots.pem"
    pem = serialization.Encoding.PEM
    chain.write_bytes(b"".join(certificate.public_bytes(pem) for certificate in credentials.chain))
    key.write_bytes(
        credentials.private_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    roots.write_bytes(pki.root.certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    server = JwksServer(roots)
    listener = await asyncio.start_server(server.answer, "127.0.0.1", 0, ssl=context)
    server.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield server
