"""Where a client shows its proofs by http-01 (RFC 8555 §8.3): in a web root, or by a web server of its own."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Final, Protocol

from services.acme.acme_client.errors import ServerAnswerError

_WELL_KNOWN: Final = ".well-known/acme-challenge"
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{22,128}")
_SECONDS: Final = 10.0  # for one request


class Responder(Protocol):
    """Shows proofs."""

    def show(self, token: str, key_authorization: str) -> AbstractContextManager[None]:
        """Show one for as long as the context lasts."""
        ...


class WebRoot:
    """A folder that another program serves at port 80."""

    def __init__(self, root: Path) -> None:
        self._folder = root / _WELL_KNOWN

    @contextmanager
    def show(self, token: str, key_authorization: str) -> Iterator[None]:
        """A file for as long as the context lasts.

        Raises:
            ServerAnswerError: the token is none, and might lead elsewhere.
            OSError: the file cannot be written.
        """
        file = self._folder / checked(token)
        self._folder.mkdir(parents=True, exist_ok=True)
        file.write_text(key_authorization)
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


class Standalone:
    """A web server that is there while a proof is shown, and serves nothing else."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)

    @contextmanager
    def show(self, token: str, key_authorization: str) -> Iterator[None]:
        """Serve one for as long as the context lasts.

        Raises:
            ServerAnswerError: the token is none.
            OSError: the port cannot be had.
        """
        path, body = f"/{_WELL_KNOWN}/{checked(token)}", key_authorization.encode()

        class Handler(BaseHTTPRequestHandler):
            timeout = _SECONDS

            def do_GET(self) -> None:
                found = self.path == path
                self.send_response(HTTPStatus.OK if found else HTTPStatus.NOT_FOUND)
                self.send_header("Content-Length", str(len(body) if found else 0))
                self.end_headers()
                self.wfile.write(body if found else b"")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
                """Nobody reads the access log."""

        with _listening(self._address, Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield
            finally:
                server.shutdown()
                thread.join()


class _Server(ThreadingTCPServer):
    daemon_threads = True  # whoever is slow to ask keeps nobody waiting


def _listening(address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> ThreadingTCPServer:
    """A server there; without a host on all addresses of both families, where the machine has both."""
    host, _ = address
    both = not host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in host else socket.AF_INET
    server = _Server(address, handler, bind_and_activate=False)
    server.socket.close()
    server.socket = socket.create_server(address, family=family, dualstack_ipv6=both)
    return server


def checked(token: str) -> str:
    """The token, which becomes the name of a file.

    Raises:
        ServerAnswerError: it has other characters than RFC 8555 §8.3 allows, or another length than tokens have.
    """
    if not _TOKEN.fullmatch(token):
        raise ServerAnswerError("the server gives a token that is none")
    return token
