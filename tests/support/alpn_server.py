"""A TLS server of an applicant, simulated on real sockets: one certificate, and the ways to get tls-alpn-01 wrong."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
Handler: TypeAlias = Callable[[Reader, Writer], Coroutine[Any, Any, None]]

ACME_IDENTIFIER = "1.3.6.1.5.5.7.1.31"
DAY = timedelta(days=1)


def proof(key_authorization: str) -> bytes:
    """The value of acmeIdentifier: the digest as an OCTET STRING (RFC 8737 section 3)."""
    return b"\x04\x20" + hashlib.sha256(key_authorization.encode()).digest()


class Certificate:
    """A self-signed certificate and its key, as PEM in one file.

    Args:
        names: of subjectAltName, addresses as addresses; none: no such extension.
        acme_identifier: the DER value of the extension; None: no such extension.
        critical: whether that extension is.
        oid: of that extension.
        start: of its validity, which lasts a day.
        issued_by: who signs it, where it is not itself.
    """

    def __init__(
        self,
        names: Sequence[str],
        acme_identifier: bytes | None,
        *,
        critical: bool = True,
        oid: str = ACME_IDENTIFIER,
        start: datetime | None = None,
        issued_by: Certificate | None = None,
    ) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name.from_rfc4514_string(f"CN={'leaf' if issued_by else 'self'}")
        builder = x509.CertificateBuilder(
            issued_by.name if issued_by else self.name,
            self.name,
            self.key.public_key(),
            x509.random_serial_number(),
            (start or datetime.now(UTC)) - DAY / 2,
            (start or datetime.now(UTC)) + DAY / 2,
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), False)
        if acme_identifier is not None:
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), acme_identifier)
            builder = builder.add_extension(extension, critical)
        self.certificate = builder.sign((issued_by or self).key, hashes.SHA256())

    def pem(self, *further: Certificate) -> bytes:
        """Key and certificate, and certificates that are sent after it."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        chain = [each.certificate.public_bytes(serialization.Encoding.PEM) for each in (self, *further)]
        return b"".join([key, *chain])


class AlpnServer:
    """Serves TLS on a loopback port.

    Args:
        directory: for the certificate's file.
        host: the address to listen at.

    Attributes:
        seen: of each finished handshake the server name, what ALPN agreed on, and application data that came.
        connections: how many were accepted.
    """

    def __init__(self, directory: Path, host: str = "127.0.0.1") -> None:
        self._directory = directory
        self._host = host
        self._server: asyncio.Server | None = None
        self._names: list[str | None] = []
        self.seen: asyncio.Queue[tuple[str | None, str | None, bytes]] = asyncio.Queue()
        self.connections = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def serve(
        self, pem: bytes, *, protocols: Sequence[str] = ("acme-tls/1",), version: ssl.TLSVersion | None = None
    ) -> None:
        """Shake hands with whoever comes, in one TLS version if told so."""
        path = self._directory / "alpn.pem"
        path.write_bytes(pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if version is not None:
            context.minimum_version = context.maximum_version = version
        context.load_cert_chain(path)
        context.set_alpn_protocols(list(protocols))
        context.sni_callback = lambda _socket, name, _context: self._names.append(name)
        await self._start(self._record, context)

    async def behave(self, raw: Handler) -> None:
        """Answer the ClientHello in one's own way."""
        await self._start(raw, None)

    async def _start(self, handler: Handler, context: ssl.SSLContext | None) -> None:
        async def counted(reader: Reader, writer: Writer) -> None:
            self.connections += 1
            try:
                await handler(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
                return  # the client has seen enough, or the test is over
            finally:
                writer.transport.abort()

        self._server = await asyncio.start_server(counted, self._host, 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _record(self, reader: Reader, writer: Writer) -> None:
        protocol = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        self.seen.put_nowait((self._names[-1], protocol, await reader.read(1000)))


def _general(name: str) -> x509.GeneralName:
    if name.startswith("email:"):
        return x509.RFC822Name(name.removeprefix("email:"))
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
