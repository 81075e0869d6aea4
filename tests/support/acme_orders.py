"""What the tests of ACME orders do before they get to their matter: keys, CSRs, orders that are ready."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.acme_client import AcmeClient, Resource, make_csr
from tests.support.acme_server import solve


def new_key() -> ec.EllipticCurvePrivateKey:
    """A certificate key."""
    return ec.generate_private_key(ec.SECP256R1())


def csr_for(*names: str) -> bytes:
    """A CSR with a fresh key."""
    return make_csr(names, new_key())


async def ready_order(client: AcmeClient, *names: str, challenge: str = "http-01") -> Resource:
    """An order whose authorizations are valid."""
    order = await client.new_order(names)
    await client.authorize(order, solve, challenge)
    return await client.read(order.url)


async def challenge_of(client: AcmeClient, order: Resource, kind: str = "http-01") -> str:
    """The URL of the first authorization's challenge."""
    authorization = await client.read(order.body["authorizations"][0])
    return client.challenge(authorization, kind).url
