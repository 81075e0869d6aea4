"""Account keys are held to what certificate keys are held to."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pkicore.weak_keys import PublishedKeys
from tests.support.acme_client import make_csr
from tests.support.acme_orders import ready_order
from tests.support.acme_server import BASE, AcmeServer
from tests.support.jose_key import JoseKey, b64u
from tests.support.weak_keys import close_primes_key, roca_key, small_factor_key

NEW_ACCOUNT = f"{BASE}/acme/new-account"
WEAK = {"small factor": small_factor_key, "ROCA": roca_key, "close primes": close_primes_key}


@pytest.mark.parametrize("case", list(WEAK))
async def test_weak_account_keys(server: AcmeServer, case: str) -> None:
    """A good signature by a key that others can compute makes no account, and gets no certificate."""
    key: rsa.RSAPrivateKey = WEAK[case]()
    refused = await server.client(JoseKey(key)).post_raw(NEW_ACCOUNT, {}, use_jwk=True)
    assert (refused.status_code, refused.json()["type"]) == (400, "urn:ietf:params:acme:error:badPublicKey")
    client = await server.registered()
    order = await ready_order(client, "a.example")
    answer = await client.post_raw(order.body["finalize"], {"csr": b64u(make_csr(["a.example"], key))})
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:ietf:params:acme:error:badCSR")
    assert not server.ca.requests


async def test_published_account_keys(tmp_path: Path) -> None:
    """A key that everybody has makes no account; any other does."""
    leaked = ec.generate_private_key(ec.SECP256R1())
    x = leaked.public_key().public_numbers().x
    digest = hashlib.sha256(x.to_bytes((x.bit_length() + 7) // 8, "big")).digest()
    server = await AcmeServer.start(tmp_path, published=PublishedKeys(digest[:15] + b"\1"))
    refused = await server.client(JoseKey(leaked)).post_raw(NEW_ACCOUNT, {}, use_jwk=True)
    assert (refused.status_code, refused.json()["type"]) == (400, "urn:ietf:params:acme:error:badPublicKey")
    assert "published" in refused.json()["detail"]
    await server.registered()
    await server.stop()
