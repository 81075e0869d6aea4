import asyncio
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.ca.child import Child, missing_of, start_child
from services.ca.errors import CeremonyError
from services.ca.layout import Layout
from services.chassis.errors import BindError
from services.chassis.runner import bind


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A deployment that has settings and nothing else."""
    found = Layout(tmp_path)
    for directory in (found.config, found.logs, found.state("ca")):
        directory.mkdir()
    return found


def settings(layout: Layout, port: int) -> None:
    """The CA's recorded port."""
    (layout.config / "ca.toml").write_text(f'host = "127.0.0.1"\nport = {port}\nhttp_port = 1\nops_port = 2\n')


def test_port_0_keeps_the_recorded_port_where_it_is_free(layout: Layout) -> None:
    """The recorded port is in certificates, so it is taken again if it can be had."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        settings(layout, port)
        assert Child.of(layout, "ca", {"PQCPKI_CA_PORT": "0"}).environment["PQCPKI_CA_PORT"] == "0"
    assert Child.of(layout, "ca", {"PQCPKI_CA_PORT": "0"}).environment["PQCPKI_CA_PORT"] == str(port)
    assert Child.of(layout, "ca", {"PQCPKI_CA_PORT": "77"}).environment["PQCPKI_CA_PORT"] == "77"
    assert "PQCPKI_CA_PORT" not in Child.of(layout, "ca", {}).environment


async def test_a_service_that_says_why_is_quoted_and_no_more(layout: Layout) -> None:
    """What earlier runs wrote to the log, and the log lines of this one, are not in the way of the sentence."""
    settings(layout, 0)
    child = Child("ca", layout, {})
    child.log.write_text("ca: an earlier sentence\n")
    child.log_start = child.log.stat().st_size
    with child.log.open("a") as log:
        log.write('{"event": "CRL published"}\nca: the key file is not one of ours\n')
    assert child.complaint() == "ca: the key file is not one of ours"


@pytest.mark.parametrize("content", [b"[", b"\xff\xfe"])
def test_settings_that_are_not_toml_are_a_sentence(layout: Layout, content: bytes) -> None:
    """It names the file."""
    (layout.config / "ca.toml").write_bytes(content)
    with pytest.raises(CeremonyError, match=r"config/ca\.toml is not TOML"):
        Child.of(layout, "ca", {})


@pytest.mark.parametrize("content", ["port = 99999\n", "port = true\n", 'port = "x"\n', ""])
def test_a_port_that_makes_no_sense_is_for_the_service_to_refuse(layout: Layout, content: str) -> None:
    """The supervisor neither fails on it nor hands it on."""
    (layout.config / "ca.toml").write_text(content)
    assert Child.of(layout, "ca", {"PQCPKI_CA_PORT": "0"}).environment["PQCPKI_CA_PORT"] == "0"


def test_the_wait_before_a_restart_doubles(layout: Layout) -> None:
    """A service that keeps ending is started ever more rarely, at most twice a minute."""
    child = Child("ca", layout, {})
    child.started_at = float("inf")
    waits = [child.next_wait() for _ in range(9)]
    assert waits[:3] == [0.5, 1.0, 2.0]
    assert waits[-1] == 30.0


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another process has."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def runs_into(child: Child, port: int) -> None:
    """The service's log ends with what the service says when it binds that port."""
    with pytest.raises(BindError) as caught:
        bind("127.0.0.1", port, "PQCPKI_CA_PORT")
    child.log.write_text(f"ca: {caught.value}\n")


def test_a_port_that_was_only_preferred_gives_way(layout: Layout, taken: int) -> None:
    """It was free when the supervisor looked, and taken when the service bound it: the next process takes any other."""
    child = Child("ca", layout, {"PQCPKI_CA_PORT": str(taken)}, preferred={"PQCPKI_CA_PORT"})
    runs_into(child, taken)
    assert child.gives_way()
    assert child.environment["PQCPKI_CA_PORT"] == "0"
    assert not child.gives_way()


def test_only_a_port_that_may_be_any_is_preferred(layout: Layout) -> None:
    """Whoever names a port, in the environment or in the settings alone, is told when it is taken."""
    settings(layout, 0)
    assert Child.of(layout, "ca", {"PQCPKI_CA_PORT": "0", "PQCPKI_CA_OPS_PORT": "77"}).preferred == {"PQCPKI_CA_PORT"}
    assert Child.of(layout, "ca", {}).preferred == set()


def test_a_port_that_was_asked_for_does_not_give_way(layout: Layout, taken: int) -> None:
    """Neither does it for the sake of another one that might."""
    child = Child("ca", layout, {"PQCPKI_CA_PORT": str(taken), "PQCPKI_CA_OPS_PORT": "1"}, {"PQCPKI_CA_OPS_PORT"})
    runs_into(child, taken)
    assert not child.gives_way()


def test_a_replacement_keeps_its_ports(layout: Layout) -> None:
    """Others know its URLs by now, so a port that is taken then is waited for."""
    settings(layout, 0)
    child = Child.of(layout, "ca", {"PQCPKI_CA_PORT": "0"})
    child.urls = {"internal": "https://localhost:4711", "ops": "http://127.0.0.1:4712", "pid": 1}
    child.keep_ports()
    assert (child.environment["PQCPKI_CA_PORT"], child.environment["PQCPKI_CA_OPS_PORT"]) == ("4711", "4712")
    child.log.write_text("ca: port 4711 on 127.0.0.1 is taken: stop what listens there\n")
    assert not child.gives_way()


async def test_a_service_that_is_not_ready_in_time_says_what_it_waited_for(layout: Layout) -> None:
    """The process is alive, its listeners are not up, nothing was written, and this is what to do."""
    settings(layout, 0)
    child = Child("ca", layout, {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    with pytest.raises(CeremonyError) as caught:
        await start_child(child, asyncio.Event(), patience=0.0)
    await child.stop()
    sentence = str(caught.value)
    assert child.process is not None
    assert f"its process {child.process.pid} runs, and its listeners do not accept yet; its log is empty" in sentence
    assert f"every line it wrote, is in {child.log}" in sentence


@pytest.mark.parametrize("before", [None, 0o644], ids=["new", "of an earlier version"])
async def test_a_log_is_for_its_owner_alone(layout: Layout, before: int | None) -> None:
    """It names callers and what they asked for; what was written before stays."""
    child = Child("ca", layout, {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    if before is not None:
        child.log.write_text("earlier\n")
        child.log.chmod(before)
    child.start()
    await child.stop()
    assert stat.S_IMODE(child.log.stat().st_mode) == 0o600
    assert child.log.read_text().startswith("earlier\n" if before is not None else "")


@pytest.fixture
async def ops() -> AsyncIterator["OpsListener"]:
    """An ops listener that answers what the test says."""
    listener = OpsListener()
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    yield listener
    server.close()
    await server.wait_closed()


class OpsListener:
    """Simulates a service's ops listener over a real socket."""

    def __init__(self) -> None:
        self.port = 0
        self.status = "503 Service Unavailable"
        self.body = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /readyz HTTP/1.1\r\n")
        writer.write(f"HTTP/1.1 {self.status}\r\ncontent-length: {len(self.body)}\r\n\r\n".encode() + self.body)
        await writer.drain()
        writer.close()


def publish(child: Child, port: int) -> None:
    """What the service writes once its listeners accept."""
    child.listeners_file.write_text(f'{{"ops": "http://127.0.0.1:{port}", "pid": 1}}')


async def test_readiness_is_told_in_the_services_own_words(layout: Layout, ops: OpsListener) -> None:
    """First nothing, then what `/readyz` waits for, then nothing is missing and the URLs are known."""
    child = Child("ca", layout, {})
    assert await missing_of(child) == "its listeners do not accept yet"
    publish(child, ops.port)
    ops.body = b'{"status": "not ready", "waiting": {"signer-hsm": "the key ca.issuing-ecdsa is not there"}}'
    assert str(await missing_of(child)).endswith("/readyz says: signer-hsm: the key ca.issuing-ecdsa is not there")
    ops.body = b"not JSON"
    assert str(await missing_of(child)).endswith("/readyz says: not ready")
    assert child.urls == {}
    ops.status, ops.body = "200 OK", b'{"status": "ready"}'
    assert await missing_of(child) is None
    assert child.urls["ops"] == f"http://127.0.0.1:{ops.port}"


async def test_listeners_that_do_not_answer_are_not_ready(layout: Layout) -> None:
    """The file of an earlier process names a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    child = Child("ca", layout, {})
    publish(child, port)
    assert "/readyz gives no answer" in str(await missing_of(child))
