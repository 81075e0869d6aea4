from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.acme_client import make_csr
from tests.support.acme_server import AcmeServer, solve


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[AcmeServer]:
    """A fresh service."""
    running = await AcmeServer.start(tmp_path)
    yield running
    await running.stop()


async def test_an_order_ends_in_a_certificate_for_its_names(server: AcmeServer) -> None:
    """A client gets a certificate for exactly the names it ordered and proved, in four commits."""
    client = await server.registered()
    before = client.requests
    server.commits.clear()
    key = ec.generate_private_key(ec.SECP256R1())
    obtained = await client.obtain(["a.example"], make_csr(["a.example"], key), solve)
    assert obtained.order.status == "valid"
    assert obtained.certificates[0].public_key() == key.public_key()
    assert server.commits == ["order-created", "challenge-valid", "order-processing", "order-valid"]
    assert client.requests - before == 5
