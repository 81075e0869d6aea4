"""Runs a service: all its listeners and background tasks in one event loop, until a signal says stop.

1. every listener accepts; 2. `listeners.json` is written; 3. `on_ready` is called; 4. on SIGTERM or SIGINT the service
turns unready, stops accepting, lets open requests finish for `DRAIN_SECONDS`, and ends its background tasks.
"""

import asyncio
import contextlib
import errno
import gc
import ipaddress
import os
import random
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson
import structlog
import uvicorn
import uvloop

from pkicore.encoding import write_atomically
from services.chassis.asgi import Application
from services.chassis.errors import BindError
from services.chassis.http_protocol import BoundedHttpProtocol
from services.chassis.ops import Readiness
from services.chassis.prepared_http import protocol_class

DRAIN_SECONDS = 10
_KEEP_ALIVE_SECONDS = 75
_BACKLOG = 1024
_CONNECTIONS = 10_000
"""Connections of one listener; more are answered 503."""
_RESTART_FIRST = 1.0
_RESTART_LAST = 60.0
_SWITCH_SECONDS = 0.0005
"""A thread that comes back from a signature or a commit waits at most so long for a busy event loop; the default, 5 ms,
is fifty signatures of a token."""
_SETTLED_SECONDS = 5.0
"""After these, what a start has made (modules, routes, contexts) is left out of every garbage collection: it stays for
good, and to look at it takes 90 ms, in which nobody is answered."""
_STEADY_SECONDS = 300.0
"""A background task that ran this long had recovered: its next crash waits the first back-off again."""


class TlsProtocolFactory(Protocol):
    """What the runner needs of `pkicore.mtls.server.TlsListener`."""

    @property
    def protocol_class(self) -> type[asyncio.Protocol]:
        """For `uvicorn.Config(http=...)`."""
        ...


@dataclass(frozen=True)
class Listener:
    """One bound socket and what answers on it.

    Attributes:
        name: Its key in `listeners.json`, such as "public" or "ops".
        app: The ASGI application.
        socket: From `bind`.
        tls: The TLS listener, or None for plain HTTP.
    """

    name: str
    app: Application | Callable[..., Awaitable[None]]
    socket: socket.socket
    tls: TlsProtocolFactory | None = None

    @property
    def url(self) -> str:
        """Where it is reached; certificates name loopback "localhost"."""
        host, port = self.socket.getsockname()[:2]
        address = ipaddress.ip_address(host)
        if self.tls is not None and address.is_loopback:
            return f"https://localhost:{port}"
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://[{host}]:{port}" if address.version == 6 else f"{scheme}://{host}:{port}"  # noqa: PLR2004 - IP version


@dataclass(frozen=True)
class BackgroundTask:
    """Work that goes on for as long as the service lives.

    Attributes:
        name: For the log and the readiness condition.
        run: Returns only when there is nothing left to do; a crash is logged and it is run again.
    """

    name: str
    run: Callable[[], Awaitable[None]]


def bind(host: str, port: int, setting: str) -> socket.socket:
    """Binds a TCP socket.

    Args:
        host: An IP address, or a name that resolves to one.
        port: 0 takes a free one.
        setting: What to change when the address cannot be had, for the error's sentence.

    Raises:
        BindError: the address is taken, not ours, or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BindError(f"{setting}: {host} is no address to listen on ({error.strerror})") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound.setblocking(False)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise BindError(_bind_sentence(host, port, setting, error)) from error
    return bound


def _bind_sentence(host: str, port: int, setting: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken: stop what listens there, or set {setting} (0 takes a free port)"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} needs privileges: set {setting} to a port above 1023"
    return f"cannot listen on {host} port {port} ({error.strerror}): change {setting}"


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the runner has one for all listeners."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _server(listener: Listener) -> _Server:
    config = uvicorn.Config(
        listener.app,
        http=_protocol_of(listener),
        loop="none",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=_BACKLOG,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    return _Server(config)


def _protocol_of(listener: Listener) -> type[asyncio.Protocol]:
    if listener.tls is not None:
        return listener.tls.protocol_class
    prepared = listener.app.prepared if isinstance(listener.app, Application) else None
    return BoundedHttpProtocol if prepared is None else protocol_class(prepared)


async def run_service(
    name: str,
    listeners: Sequence[Listener],
    *,
    state_dir: Path,
    readiness: Readiness,
    background: Sequence[BackgroundTask] = (),
    on_ready: Callable[[], None] | None = None,
    on_stop: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Runs until SIGTERM or SIGINT, then drains.

    Args:
        name: The service's name.
        listeners: All of them, the ops listener included.
        state_dir: Where `listeners.json` goes.
        readiness: Turned unready while stopping, and by background tasks that crash.
        background: Supervised from before the first request until after the last.
        on_ready: Called when every listener accepts.
        on_stop: Called before the drain, to answer requests that are held back; must not raise.

    Raises:
        OSError: `listeners.json` cannot be written.
    """
    log = structlog.get_logger("runner")
    servers = [_server(listener) for listener in listeners]
    stop = asyncio.Event()
    async with _signals(stop), _supervised(background, readiness):
        serving = [
            asyncio.create_task(server.serve(sockets=[listener.socket]), name=f"listener-{listener.name}")
            for server, listener in zip(servers, listeners, strict=True)
        ]
        try:
            await _all_started(servers, serving)
            urls = {listener.name: listener.url for listener in listeners}
            write_listeners(state_dir, urls)
            log.info("service is up", name=name, **urls)
            if on_ready is not None:
                on_ready()
            await _first(stop, serving)
        finally:
            readiness.unmet("running", "the service is stopping")
            log.info("service is stopping", name=name)
            if on_stop is not None:
                await on_stop()
            for server in servers:
                server.should_exit = True
            await asyncio.gather(*serving)
    log.info("service has stopped", name=name)


def write_listeners(state_dir: Path, urls: dict[str, str]) -> None:
    """Writes `listeners.json`: name → URL, and the process id.

    Raises:
        OSError: the directory cannot be written.
    """
    document = orjson.dumps({**urls, "pid": os.getpid()}, option=orjson.OPT_INDENT_2)
    write_atomically(state_dir / "listeners.json", document + b"\n", 0o644)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs a service's main coroutine on uvloop."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().call_later(_SETTLED_SECONDS, gc.freeze)
        runner.run(main)


async def _all_started(servers: Sequence[_Server], serving: Sequence[asyncio.Task[None]]) -> None:
    while not all(server.started for server in servers):
        for task in serving:
            if task.done():
                task.result()
        await asyncio.sleep(0.005)


async def _first(stop: asyncio.Event, serving: Sequence[asyncio.Task[None]]) -> None:
    """Waits for the stop signal, or for a listener that ended without one."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([stopping, *serving], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()


@contextlib.asynccontextmanager
async def _signals(stop: asyncio.Event) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def _supervised(background: Sequence[BackgroundTask], readiness: Readiness) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(supervise(work, readiness), name=work.name) for work in background]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def supervise(work: BackgroundTask, readiness: Readiness, *, first_wait: float = _RESTART_FIRST) -> None:
    """Runs background work again whenever it crashes, after a wait that doubles; unready in between."""
    log = structlog.get_logger("runner")
    loop = asyncio.get_running_loop()
    wait = first_wait
    while True:
        started = loop.time()
        try:
            await work.run()
        except Exception:  # whatever it was, the work must go on: logged whole, readiness lost until the restart
            log.exception("background task crashed", task=work.name, restart_seconds=wait)
        else:
            return
        readiness.unmet(work.name, "the background task crashed")
        if loop.time() - started > _STEADY_SECONDS:
            wait = first_wait
        await asyncio.sleep(wait * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, no secret
        wait = min(wait * 2, _RESTART_LAST)
        readiness.met(work.name)
