from __future__ import annotations

from prometheus_client import CollectorRegistry

from services.acme.accounts.inventory import AccountInventory
from services.acme.store import Store
from tests.support.acme_server import AcmeServer


async def test_valid_accounts_are_counted_by_the_algorithm_of_their_key(server: AcmeServer) -> None:
    """The metric has the number of accounts of each algorithm; one that is deactivated counts no more."""
    await server.registered()
    gone = await server.registered()
    registry = CollectorRegistry()
    inventory = AccountInventory(Store(server.database), registry)
    await inventory.count()
    assert registry.get_sample_value("pqcpki_acme_accounts", {"algorithm": "ecdsa-p256"}) == 2
    await gone.post(str(gone.kid), {"status": "deactivated"})
    await inventory.count()
    assert registry.get_sample_value("pqcpki_acme_accounts", {"algorithm": "ecdsa-p256"}) == 1
    assert registry.get_sample_value("pqcpki_acme_accounts", {"algorithm": "other"}) is None
