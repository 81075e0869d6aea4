"""What the CA is told about who stands behind an order, and how its names were validated."""

from __future__ import annotations

from services.acme.identifiers import Identifier
from services.acme.orders.issuance import validation
from services.acme.store import ProofRow
from services.ca.wire import MAX_TEXT
from tests.support.acme_client import make_csr
from tests.support.acme_orders import new_key
from tests.support.acme_server import AcmeServer, solve


async def test_the_ca_is_told_how_each_name_was_validated(server: AcmeServer) -> None:
    """The request for a certificate names account, order, and for each method the names that it proved, and when."""
    client = await server.registered()
    names = ["a.example", "b.example"]
    await client.obtain(names, make_csr(names, new_key()), solve)
    requester = server.ca.requests[0].requester
    assert set(requester) == {"account", "order", "profile", "http-01"}
    assert requester["account"] == client.kid
    at = f"{server.clock.now():%Y-%m-%dT%H:%M:%SZ}"
    assert requester["http-01"] == f"a.example {at}, b.example {at}"


def test_a_wildcard_was_validated_by_its_own_method() -> None:
    """Names of different methods stand apart."""
    base = Identifier("dns", "a.example")
    found = validation([ProofRow("dns-01", base, True, 0), ProofRow("http-01", base, False, 60)])
    assert found == {"dns-01": "*.a.example 1970-01-01T00:00:00Z", "http-01": "a.example 1970-01-01T00:01:00Z"}


def test_many_names_fit_what_the_ca_takes() -> None:
    """However many names were proven, the CA's bound on a member holds, and the first names are there."""
    names = [Identifier("dns", f"h{number}.example") for number in range(200)]
    found = validation([ProofRow("dns-01", name, False, 0) for name in names])
    assert len(found["dns-01"]) <= MAX_TEXT
    assert found["dns-01"].startswith("h0.example 1970-01-01T00:00:00Z, h1.example ")
