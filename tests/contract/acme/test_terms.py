"""Terms of service that change (RFC 8555 §7.3.3)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from services.acme.accounts.terms import Terms
from services.acme.client import AcmeRefusedError
from services.acme.store import AccountRow
from services.chassis.audit import audit_records
from tests.support.acme_client import AcmeClient, AcmeProblemError
from tests.support.acme_server import OPERATOR, AcmeServer

FIRST, SECOND = "https://ca.example/terms/1", "https://ca.example/terms/2"


async def under(server: AcmeServer, terms: str, *clients: AcmeClient) -> AcmeServer:
    """The server after its operator has set other terms, and the clients at it."""
    rules = server.rules
    server.rules = replace(
        rules, accounts=replace(rules.accounts, terms=Terms(terms)), meta=replace(rules.meta, terms=terms)
    )
    restarted = await server.restart()
    for client in clients:
        client.http = restarted.http
        client.nonces.clear()
    return restarted


@pytest.mark.requirement("rfc8555-7.3.3-01", "rfc8555-7.3.3-02", "rfc8555-7.3.3-03")
async def test_changed_terms_are_agreed_to_before_the_next_order(tmp_path: Path) -> None:
    """UserActionRequired with the terms as `instance` and as a link, until an update agrees; all else goes on."""
    server = await AcmeServer.start(tmp_path, terms=FIRST)
    client = await server.registered()
    order = await client.new_order(["a.example"])
    server = await under(server, SECOND, client)
    for _ in range(2):
        with pytest.raises(AcmeProblemError) as refused:
            await client.new_order(["b.example"])
        assert (refused.value.status, refused.value.kind) == (403, "userActionRequired")
        assert refused.value.document["instance"] == SECOND
        assert f'<{SECOND}>;rel="terms-of-service"' in refused.value.response.headers.get_list("link")
    assert (await client.read(order.url)).status == "pending"
    assert "termsOfServiceAgreed" not in (await client.read(client.kid or "")).body
    agreed = await client.post(client.kid or "", {"termsOfServiceAgreed": True})
    assert agreed.json()["termsOfServiceAgreed"] is True
    assert (await client.new_order(["b.example"])).status == "pending"
    await server.stop()


async def test_an_operator_records_the_agreement_of_who_cannot_say_it(tmp_path: Path) -> None:
    """The account orders again at once; the audit log has who vouched, and for which terms; once more is harmless."""
    server = await AcmeServer.start(tmp_path, terms=FIRST)
    client = await server.registered()
    server = await under(server, SECOND, client)
    with pytest.raises(AcmeProblemError, match="terms"):
        await client.new_order(["a.example"])
    account_id = (client.kid or "").rsplit("/", 1)[1]
    async with server.operated() as acme:
        with pytest.raises(AcmeRefusedError, match=f"in force are {SECOND}") as refused:
            await acme.agree_for_account(account_id, FIRST)
        assert refused.value.status == 409
        for _ in range(2):
            assert (await acme.agree_for_account(account_id, SECOND)).terms == SECOND
    assert (await client.new_order(["a.example"])).status == "pending"
    recorded = [item.record async for item in audit_records(server.database)]
    agreements = [record for record in recorded if record.event == "account.agreed-for"]
    assert [(record.actor, record.detail["terms"]) for record in agreements] == [(str(OPERATOR), SECOND)]
    await server.stop()


async def test_nobody_agrees_for_an_account_that_ended(tmp_path: Path) -> None:
    """Nor to terms where there are none."""
    server = await AcmeServer.start(tmp_path, terms=FIRST)
    client = await server.registered()
    account_id = (client.kid or "").rsplit("/", 1)[1]
    await client.deactivate()
    async with server.operated() as acme:
        with pytest.raises(AcmeRefusedError, match="deactivated"):
            await acme.agree_for_account(account_id, FIRST)
    server = await under(server, "")
    async with server.operated() as acme:
        with pytest.raises(AcmeRefusedError, match="no terms"):
            await acme.agree_for_account(account_id, FIRST)
    await server.stop()


@pytest.mark.requirement("rfc8555-7.3.3-01")
@pytest.mark.parametrize("members", [{"termsOfServiceAgreed": False}, {"contact": []}, {"terms": SECOND}])
async def test_what_does_not_agree(tmp_path: Path, members: dict[str, object]) -> None:
    """Only `true` agrees; no other update does."""
    server = await AcmeServer.start(tmp_path, terms=FIRST)
    client = await server.registered()
    server = await under(server, SECOND, client)
    await client.post(client.kid or "", members)
    with pytest.raises(AcmeProblemError) as refused:
        await client.new_order(["b.example"])
    assert refused.value.kind == "userActionRequired"
    response = await client.post_raw(client.kid or "", {"termsOfServiceAgreed": "yes"})
    assert response.json()["type"].endswith(":malformed")
    await server.stop()


async def test_an_agreement_and_contacts_at_once(tmp_path: Path) -> None:
    """One update may bring both, in one commit; an agreement that is there is not written again."""
    server = await AcmeServer.start(tmp_path, terms=FIRST)
    client = await server.registered()
    server = await under(server, SECOND, client)
    both = {"termsOfServiceAgreed": True, "contact": ["mailto:a@example.com"]}
    document = (await client.post(client.kid or "", both)).json()
    assert (document["termsOfServiceAgreed"], document["contact"]) == (True, ["mailto:a@example.com"])
    await client.post(client.kid or "", {"termsOfServiceAgreed": True})
    assert server.commits == ["account-updated"]
    await server.stop()


async def test_terms_that_came_after_the_account(server: AcmeServer) -> None:
    """An account that never agreed to anything agrees before its next order; authorizations ahead of it wait, too."""
    client = await server.registered()
    restarted = await under(server, FIRST, client)
    with pytest.raises(AcmeProblemError) as refused:
        await client.new_order(["a.example"])
    assert refused.value.kind == "userActionRequired"
    await restarted.stop()


@pytest.mark.parametrize(
    ("url", "terms", "agreed_at", "is_agreed"),
    [
        ("", None, None, True),
        ("", FIRST, 1, True),
        (FIRST, FIRST, 1, True),
        (SECOND, FIRST, 1, False),
        (FIRST, None, 1, True),
        (FIRST, None, None, False),
    ],
    ids=["no terms", "terms that went", "these", "others", "before URLs were kept", "never"],
)
def test_who_has_agreed(url: str, terms: str | None, agreed_at: int | None, is_agreed: bool) -> None:  # noqa: FBT001 - a case
    """To the terms in force, or, before their URL was kept, to those that were there."""
    account = AccountRow("a", "valid", "t", {}, (), agreed_at, 0, terms=terms)
    assert Terms(url).is_agreed(account) is is_agreed
