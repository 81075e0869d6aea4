"""renewalInfo and `replaces` (RFC 9773), and revocations that operators ask the CA for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from pkicore.clock import unix
from pkicore.x509.cert_id import cert_id_of, make_cert_id
from pkicore.x509.certificate import load_chain
from services.acme.answers import rfc3339
from services.acme.identifiers import Identifier
from services.acme.rate_limits.rate_limits import Limit, Limits
from services.acme.renewals.renewal_info import usual_window
from services.acme.renewals.revocation_feed import FollowedRevocations
from services.acme.schema import certificates
from services.acme.store.revocation_feed import RevocationFeedStore
from services.ca.wire import FeedEntry, RevocationFeed
from services.chassis.database import Unit, Write
from tests.support.acme_client import AcmeClient, AcmeProblemError, Resource
from tests.support.acme_orders import csr_for
from tests.support.acme_server import BASE, AcmeServer, solve


async def issued(client: AcmeClient, *names: str, **members: object) -> tuple[Resource, str]:
    """A finished order and the certID of its certificate."""
    order = await client.new_order(names, **members)
    await client.authorize(order, solve)
    done = await client.finalize(order, csr_for(*names))
    return done, cert_id_of(load_chain((await client.download(done)).encode())[0])


async def info(server: AcmeServer, cert_id: str, method: str = "GET") -> httpx.Response:
    """What anybody is told of a certificate."""
    return await server.http.request(method, f"{BASE}/acme/renewal-info/{cert_id}")


def window(answer: httpx.Response) -> tuple[int, int]:
    """The suggested window, Unix time."""
    found = answer.json()["suggestedWindow"]
    return (
        unix(datetime.fromisoformat(found["start"]).astimezone(UTC)),
        unix(datetime.fromisoformat(found["end"]).astimezone(UTC)),
    )


@pytest.fixture
async def client(server: AcmeServer) -> AcmeClient:
    """A client with an account."""
    return await server.registered()


@pytest.mark.requirement("rfc9773-3-01", "rfc9773-4.1-01", "rfc9773-4.2-04", "rfc8555-6.3-01")
async def test_renewal_info_of_a_certificate(server: AcmeServer, client: AcmeClient) -> None:
    """Its window, without authentication, with Retry-After; the directory says where (RFC 9773 §4)."""
    order, cert_id = await issued(client, "a.example")
    leaf = load_chain((await client.download(order)).encode())[0]
    assert (await client.directory())["renewalInfo"] == f"{BASE}/acme/renewal-info"
    answer = await info(server, cert_id)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    expected = usual_window(unix(leaf.not_valid_before_utc), unix(leaf.not_valid_after_utc))
    assert window(answer) == (expected.start, expected.end)
    assert answer.json().keys() == {"suggestedWindow"}
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["cache-control"] == "public, max-age=60"
    head = await info(server, cert_id, "HEAD")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.requirement("rfc9773-4.1-01")
async def test_renewal_info_of_what_there_is_not(server: AcmeServer) -> None:
    """No certID is malformed; a certID of no certificate is not found."""
    for text in ("aYhb", "aYhb.h2VDIQ", "aYhb.AIdlQyE=", "aYg=.AIdlQyE", "%00.AQ"):
        answer = await info(server, text)
        assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[1]) == (400, "malformed")
    answer = await info(server, make_cert_id(b"\1" * 20, 7))
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[1]) == (404, "malformed")


async def test_a_revoked_certificate_is_due(server: AcmeServer, client: AcmeClient) -> None:
    """Its window is past."""
    order, cert_id = await issued(client, "a.example")
    leaf = load_chain((await client.download(order)).encode())[0]
    await client.revoke(leaf)
    assert window(await info(server, cert_id))[1] < unix(server.clock.now())


@pytest.mark.requirement("rfc9773-5-05", "rfc9773-5-07", "rfc9773-5-08")
async def test_an_order_replaces_a_certificate(server: AcmeServer, client: AcmeClient) -> None:
    """It is taken and says so itself; a second one is refused, unless the first came to nothing (RFC 9773 §5)."""
    _, cert_id = await issued(client, "a.example", "b.example")
    first = await client.new_order(["b.example", "c.example"], replaces=cert_id)
    assert first.body["replaces"] == cert_id
    assert (await client.read(first.url)).body["replaces"] == cert_id
    with pytest.raises(AcmeProblemError) as refused:
        await client.new_order(["a.example"], replaces=cert_id)
    assert (refused.value.status, refused.value.kind) == (409, "alreadyReplaced")
    await client.post(first.body["authorizations"][1], {"status": "deactivated"})
    assert (await client.read(first.url)).status == "invalid"
    second = await client.new_order(["a.example"], replaces=cert_id)
    server.clock.advance(timedelta(days=8))
    assert (await client.read(second.url)).status == "invalid"
    _, other = await issued(client, "a.example", replaces=cert_id)
    assert other != cert_id
    with pytest.raises(AcmeProblemError) as again:
        await client.new_order(["a.example"], replaces=cert_id)
    assert again.value.kind == "alreadyReplaced"


@pytest.mark.requirement("rfc9773-5-05")
async def test_two_orders_at_once_for_one_certificate(client: AcmeClient) -> None:
    """One of them is taken."""
    _, cert_id = await issued(client, "a.example")
    found = await asyncio.gather(
        *(client.new_order(["a.example"], replaces=cert_id) for _ in range(4)), return_exceptions=True
    )
    refused = [item for item in found if isinstance(item, AcmeProblemError)]
    assert [item.kind for item in refused] == ["alreadyReplaced"] * 3
    assert sum(isinstance(item, Resource) for item in found) == 1


@pytest.mark.requirement("rfc9773-5-03", "rfc9773-5-04", "rfc9773-5-06")
async def test_what_cannot_be_replaced(server: AcmeServer, client: AcmeClient) -> None:
    """Another account's certificate, one without a common name, an unknown one and no certID are malformed."""
    _, cert_id = await issued(client, "a.example")
    stranger = await server.registered()
    attempts = [
        (stranger, ["a.example"], cert_id),
        (client, ["b.example"], cert_id),
        (client, ["a.example"], make_cert_id(b"\1" * 20, 7)),
        (client, ["a.example"], "aYhb"),
        (client, ["a.example"], 7),
    ]
    for asking, names, replaces in attempts:
        with pytest.raises(AcmeProblemError) as refused:
            await asking.new_order(names, replaces=replaces)
        assert (refused.value.status, refused.value.kind) == (400, "malformed")
        assert "replaces" in refused.value.detail


async def test_only_the_first_renewal_in_its_window_is_exempt(server: AcmeServer, client: AcmeClient) -> None:
    """Not before the window, not once more after an order that failed, and not when the certificate is over."""
    _, cert_id = await issued(client, "a.example")
    account, renewals = (client.kid or "").rsplit("/", 1)[1], server.service.renewals
    start = window(await info(server, cert_id))[0]
    names = [Identifier("dns", "a.example")]

    async def exempt(now: int) -> bool:
        found = await renewals.replaced(cert_id, account, names, now)
        return found is not None and found.free == frozenset(names)

    assert [await exempt(now) for now in (start - 1, start, start + 86_400, start + 365 * 86_400)] == [
        False,
        True,
        True,
        False,
    ]
    order = await client.new_order(["a.example", "z.example"], replaces=cert_id)
    await client.post(order.body["authorizations"][1], {"status": "deactivated"})
    assert not await exempt(start)


async def test_a_client_cannot_make_its_certificate_due(server: AcmeServer, client: AcmeClient) -> None:
    """Neither an end that it chose itself nor its own revocation frees a replacement; nobody could be limited then."""
    account, now = (client.kid or "").rsplit("/", 1)[1], unix(server.clock.now())
    _, short = await issued(client, "a.example", notAfter=rfc3339(now + 3600))
    order, revoked = await issued(client, "b.example")
    await client.revoke(load_chain((await client.download(order)).encode())[0])
    names = [Identifier("dns", "a.example"), Identifier("dns", "b.example")]
    for cert_id, later in ((short, 3000), (revoked, 0), (revoked, 2 * 86_400)):
        found = await server.service.renewals.replaced(cert_id, account, names, now + later)
        assert found is not None
        assert found.free is None


async def test_a_stranger_does_not_lock_an_owner_out(tmp_path: Path) -> None:
    """What nobody has proven costs the owner of a name nothing; past its limit a proven order stays ready (429)."""
    limits = Limits(orders_per_account_and_name=Limit(2, 86_400), certificates_per_name=Limit(1, 86_400))
    server = await AcmeServer.start(tmp_path, limits=limits)
    try:
        stranger, owner = await server.registered(), await server.registered()
        for _ in range(2):
            await stranger.new_order(["bank.example"])
        with pytest.raises(AcmeProblemError, match="orders_per_account_and_name is 2/1d"):
            await stranger.new_order(["bank.example"])
        await issued(owner, "bank.example")
        order = await owner.new_order(["bank.example"])
        with pytest.raises(AcmeProblemError, match="certificates_per_name is 1/1d") as refused:
            await owner.finalize(order, csr_for("bank.example"))
        assert refused.value.status == 429
        assert (await owner.read(order.url)).status == "ready"
    finally:
        await server.stop()


async def test_a_renewal_in_its_window_is_issued_whatever_its_name_has_cost(tmp_path: Path) -> None:
    """The exemption holds from newOrder to the certificate, and only once."""
    year = 365 * 86_400
    limits = Limits(orders_per_account_and_name=Limit(1, year), certificates_per_name=Limit(1, year))
    server = await AcmeServer.start(tmp_path, limits=limits)
    try:
        client = await server.registered()
        _, cert_id = await issued(client, "a.example")
        start = window(await info(server, cert_id))[0]
        server.clock.advance(timedelta(seconds=start - unix(server.clock.now()) + 1))
        done, following = await issued(client, "a.example", replaces=cert_id)
        assert done.status == "valid"
        with pytest.raises(AcmeProblemError, match="orders_per_account_and_name is 1/365d"):
            await client.new_order(["a.example"], replaces=following)
    finally:
        await server.stop()


async def test_certificates_of_before_get_their_cert_id(server: AcmeServer, client: AcmeClient) -> None:
    """What was stored without a certID is found by it after the next start."""
    _, cert_id = await issued(client, "a.example")
    forget = server.database.prepare(update(certificates).values(cert_id=None, not_before=None))
    await server.database.commit(Unit("forget", [Write(forget, {}, expect=1)]))
    assert (await info(server, cert_id)).status_code == 404
    assert await server.service.renewals.name_certificates() == 1
    assert (await info(server, cert_id)).status_code == 200
    assert await server.service.renewals.name_certificates() == 0


class Feed:
    """Simulates the CA's feed: what came after a sequence, never waited for."""

    def __init__(self, *entries: FeedEntry) -> None:
        self.entries = list(entries)
        self.asked: list[int] = []

    async def revocations(self, after: int, *, wait: bool = True) -> RevocationFeed:
        """As `CaClient.revocations`."""
        del wait
        self.asked.append(after)
        found = tuple(entry for entry in self.entries if entry.sequence > after)
        return RevocationFeed(found, found[-1].sequence if found else after)


async def test_a_revocation_by_an_operator_is_followed(server: AcmeServer, client: AcmeClient) -> None:
    """The certificate is due, and revoked already for its owner; the feed is read on from where it was left."""
    order, cert_id = await issued(client, "a.example")
    leaf = load_chain((await client.download(order)).encode())[0]
    now, serial = unix(server.clock.now()), f"{leaf.serial_number:x}"
    feed = Feed(*(FeedEntry(n, f"{n:x}", "i", now, "superseded") for n in range(1, 450)))
    feed.entries.append(FeedEntry(450, serial, "i", now - 60, "keyCompromise"))
    assert await FollowedRevocations(feed, RevocationFeedStore(server.database)).look() == 450
    assert window(await info(server, cert_id))[1] < now
    with pytest.raises(AcmeProblemError) as refused:
        await client.revoke(leaf)
    assert refused.value.kind == "alreadyRevoked"
    assert await FollowedRevocations(feed, RevocationFeedStore(server.database)).look() == 0
    assert feed.asked == [0, 450]


async def test_a_hold_that_ends_is_followed(server: AcmeServer, client: AcmeClient) -> None:
    """While a certificate is held its window is past; released, it is as before."""
    order, cert_id = await issued(client, "a.example")
    serial = f"{load_chain((await client.download(order)).encode())[0].serial_number:x}"
    before, now = window(await info(server, cert_id)), unix(server.clock.now())
    feed = Feed(FeedEntry(1, serial, "i", now, "certificateHold"))
    follower = FollowedRevocations(feed, RevocationFeedStore(server.database))
    await follower.look()
    assert window(await info(server, cert_id))[1] < now
    feed.entries = [FeedEntry(2, serial, "i", now, "removeFromCRL")]
    await follower.look()
    assert window(await info(server, cert_id)) == before
