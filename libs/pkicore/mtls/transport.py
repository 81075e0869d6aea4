"""The transport that uvicorn's HTTP protocol writes to: encrypts, and passes everything else to the socket's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from pkicore.errors import HandshakeError
from pkicore.mtls.engine import TlsEngine

_GATHERED = 64 * 1024
"""Plain bytes that may wait for the end of the loop's turn."""


class TlsTransport(asyncio.Transport):
    """An asyncio transport of plain bytes over an engine and a raw transport.

    What is written in one turn of the loop, as head and body of an answer are, goes out as one record and one packet.
    Flow control is the raw transport's: its limits and its pause and resume calls are the only ones.
    """

    def __init__(self, raw: asyncio.Transport, engine: TlsEngine, on_close: Callable[[], None]) -> None:
        super().__init__()
        self._raw = raw
        self._engine = engine
        self._on_close = on_close
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._gathered: list[bytes] = []
        self._gathered_size = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 (asyncio's signature)
        """As the raw transport's; `sslcontext` is true, by which uvicorn knows the scheme."""
        return True if name == "sslcontext" else self._raw.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send, at the latest at the end of the loop's turn; nothing happens once closing."""
        if not data or self.is_closing():
            return
        if not self._gathered:
            self._loop.call_soon(self._send)
        self._gathered.append(bytes(data))
        self._gathered_size += len(data)
        if self._gathered_size > _GATHERED:
            self._send()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Encrypt and send, as one write."""
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        """Whether `close` or `abort` was called on this end or the socket's."""
        return self._closing or self._raw.is_closing()

    def close(self) -> None:
        """Send what is buffered and a close_notify, then close."""
        if self.is_closing():
            return
        self._send()
        self._closing = True
        if self._raw.is_closing():
            return
        self._engine.close()
        self._raw.write(self._engine.outgoing())
        self._raw.close()
        self._on_close()

    def abort(self) -> None:
        """Close at once; what is buffered is lost."""
        self._closing = True
        self._gathered.clear()
        self._raw.abort()

    def pause_reading(self) -> None:
        """Stop reading from the socket."""
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Read from the socket again."""
        if not self.is_closing():
            self._raw.resume_reading()

    def is_reading(self) -> bool:
        """Whether the socket is read."""
        return self._raw.is_reading()

    def can_write_eof(self) -> bool:
        """TLS has close_notify instead, which `close` sends."""
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The raw transport's limits, in encrypted bytes."""
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Bytes that the socket has not taken yet."""
        return self._gathered_size + self._raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The raw transport's limits, in encrypted bytes."""
        return self._raw.get_write_buffer_limits()

    def _send(self) -> None:
        plain, self._gathered_size = b"".join(self._gathered), 0
        self._gathered.clear()
        if not plain or self._raw.is_closing():
            return
        try:
            self._engine.send(plain)
        except HandshakeError:  # the connection has failed before, and whoever reads it has said so
            self.abort()
        else:
            self._raw.write(self._engine.outgoing())
