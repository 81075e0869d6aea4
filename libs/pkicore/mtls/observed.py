"""One handshake with a server that nobody believes, ended as soon as it is done: what the server showed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import cast

from OpenSSL import SSL

from pkicore.errors import HandshakeError
from pkicore.mtls.context import Verification
from pkicore.mtls.engine import TlsEngine


@dataclass(frozen=True, slots=True)
class Observed:
    """What a server showed: the protocol it chose (ALPN, b"" for none) and its certificate as DER, None for none."""

    protocol: bytes
    certificate: bytes | None


class Observation(asyncio.Protocol):
    """Made by `loop.create_connection`; no application data is sent, and what comes after the handshake is not read.

    Args:
        context: an `observing_context`.
        server_name: what goes into the server name extension.
        max_bytes: of all that the server may send until the handshake is done.

    Attributes:
        outcome: what was observed, or a HandshakeError.
    """

    def __init__(self, context: SSL.Context, server_name: str, max_bytes: int) -> None:
        self.outcome: asyncio.Future[Observed] = asyncio.get_running_loop().create_future()
        self._engine = TlsEngine(context, Verification(), server_name=server_name)
        self._server_name = server_name
        self._left = max_bytes
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the ClientHello."""
        self._transport = cast("asyncio.Transport", transport)
        self._go_on()

    def data_received(self, data: bytes) -> None:
        """Go on with the handshake, as long as there is one."""
        if self.outcome.done():
            return
        self._left -= len(data)
        if self._left < 0:
            self._fail("more bytes than a handshake has")
            return
        self._engine.receive(data)
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- how it was lost tells nothing more
        """What was not done by now will not be."""
        if not self.outcome.done():
            self._fail("connection closed during the handshake")

    def _go_on(self) -> None:
        try:
            done = self._engine.handshake()
        except HandshakeError as error:
            self._transport.write(self._engine.outgoing())  # the alert
            self._fail(error.reason)
            return
        if done:
            self.outcome.set_result(Observed(self._engine.application_protocol, self._engine.presented_certificate()))
            self._engine.close()
        self._transport.write(self._engine.outgoing())

    def _fail(self, reason: str) -> None:
        self.outcome.set_exception(HandshakeError(reason, self._server_name))
        self.outcome.exception()  # whoever waited may have gone, and no exception is lost
