from __future__ import annotations

from pathlib import Path

import pytest

from services.acme.client import AcmeRefusedError
from services.acme.rate_limits.rate_limits import Limit, Limits
from services.acme.rate_limits.wire import LimitEntry
from tests.support.acme_client import AcmeProblemError
from tests.support.acme_server import AcmeServer


async def test_an_operator_gives_others_and_takes_them_back(tmp_path: Path) -> None:
    """A limit of its own counts at once, stands in the list and the log, and ends with `usual`; a reset begins anew."""
    server = await AcmeServer.start(tmp_path, limits=Limits(orders_per_account=Limit(1, 3600)))
    client = await server.registered()
    subject = f"account:{(client.kid or '').rsplit('/', 1)[1]}"
    await client.new_order(["a.test"])
    async with server.operated() as acme:
        listed = await acme.set_limit(LimitEntry("orders_per_account", "off", subject))
        assert LimitEntry("orders_per_account", "1/1h") in listed.limits
        assert LimitEntry("certificates_per_name", "off") in listed.limits
        assert listed.limits[-1] == LimitEntry("orders_per_account", "off", subject)
        await client.new_order(["a.test"])
        assert len((await acme.set_limit(LimitEntry("orders_per_account", "usual", subject))).limits) == 7
        with pytest.raises(AcmeProblemError, match="orders_per_account is 1/1h"):
            await client.new_order(["a.test"])
        await acme.reset_limits(subject)
        await client.new_order(["a.test"])
        await acme.reset_limits("address:127.0.0.1")
        await acme.reset_limits("name:*.A.test")
    assert [label for label in server.commits if label.startswith("rate-limit")] == [
        "rate-limit-set",
        "rate-limit-unset",
        *["rate-limits-reset"] * 3,
    ]
    await server.stop()


@pytest.mark.parametrize(
    ("name", "limit", "subject", "said"),
    [
        ("orders", "1/1h", "", "there is no limit 'orders'"),
        ("orders_per_account", "fast", "", "BURST/PERIOD"),
        ("orders_per_account", "usual", "", "the usual limit already"),
        ("orders_per_account", "1/1h", "everybody", "subject must be"),
        ("orders_per_account", "1/1h", "account:nobody", "there is no account:nobody"),
        ("orders_per_account", "1/1h", "eab:nobody", "there is no eab:nobody"),
    ],
)
async def test_what_makes_no_sense(server: AcmeServer, name: str, limit: str, subject: str, said: str) -> None:
    """A limit that there is not, of another form, or for nobody is refused with a sentence."""
    client = await server.registered()
    known = f"account:{(client.kid or '').rsplit('/', 1)[1]}"
    async with server.operated() as acme:
        with pytest.raises(AcmeRefusedError, match=said):
            await acme.set_limit(LimitEntry(name, limit, subject or known))


@pytest.mark.parametrize("subject", ["everybody", "account:x", "address:a.test", "name:", "eab:x"])
async def test_a_reset_of_nobody(server: AcmeServer, subject: str) -> None:
    """A reset names an account, an address or a name."""
    async with server.operated() as acme:
        with pytest.raises(AcmeRefusedError, match="subject must be"):
            await acme.reset_limits(subject)
