"""Incidents by the admin listener: what they concern, what clients are told, how far they are."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry, generate_latest

from pkicore.clock import unix
from pkicore.x509.cert_id import authority_key_identifier, cert_id_of
from pkicore.x509.certificate import load_chain
from services.acme.client import AcmeForbiddenError, AcmeRefusedError
from services.acme.ids import new_id
from services.acme.incidents.watch import IncidentWatch
from services.acme.incidents.wire import IncidentEntry, IncidentRequest, Progress, Selected, Selection
from services.chassis.audit import audit_records
from tests.support.acme_client import AcmeClient, AcmeProblemError
from tests.support.acme_orders import csr_for
from tests.support.acme_server import BASE, DIRECTORY, AcmeServer, solve
from tests.support.ca_world import ACME
from tests.support.postgres import PostgresServer

URL = "https://status.example/incident"
UNKNOWN = "7" * 30


async def issued(client: AcmeClient, *names: str, **members: object) -> x509.Certificate:
    """A certificate."""
    order = await client.new_order(names, **members)
    await client.authorize(order, solve)
    done = await client.finalize(order, csr_for(*names))
    return load_chain((await client.download(done)).encode())[0]


async def opened(server: AcmeServer, *selections: Selection) -> IncidentEntry:
    """An open incident."""
    async with server.operated() as acme:
        prepared = await acme.prepare_incident(IncidentRequest("a bug", URL))
        for selection in selections:
            await acme.select_for_incident(prepared.id, selection)
        return await acme.open_incident(prepared.id)


async def info(server: AcmeServer, certificate: x509.Certificate) -> httpx.Response:
    """What anybody is told of a certificate."""
    return await server.http.get(f"{BASE}/acme/renewal-info/{cert_id_of(certificate)}")


def serial(certificate: x509.Certificate) -> str:
    """As the CA writes it."""
    return f"{certificate.serial_number:x}"


def account_id(client: AcmeClient) -> str:
    """The end of the account's URL."""
    return (client.kid or "").rsplit("/", 1)[1]


async def progress(server: AcmeServer, incident: IncidentEntry) -> Progress | None:
    """How far it is."""
    async with server.operated() as acme:
        return (await acme.incident(incident.id)).progress


async def test_an_incident_from_its_preparation_to_its_close(server: AcmeServer) -> None:
    """Nobody is told before it is open; then the window is past and the explanation named, until it is closed."""
    client = await server.registered()
    concerned, other = await issued(client, "a.example"), await issued(client, "b.example")
    before = (await info(server, concerned)).json()
    async with server.operated() as acme:
        prepared = await acme.prepare_incident(IncidentRequest("a bug", URL))
        assert prepared.state == "prepared"
        assert await acme.select_for_incident(prepared.id, Selection((serial(concerned), UNKNOWN))) == Selected(1, 1)
        assert await acme.select_for_incident(prepared.id, Selection((serial(concerned),))) == Selected(0, 0)
        assert (await info(server, concerned)).json() == before
        assert (await acme.incidents()).incidents == []
        entry = await acme.open_incident(prepared.id)
        assert (entry.state, entry.progress) == ("open", Progress(1, 0, 0, 0, 1))
        told = (await info(server, concerned)).json()
        assert told["explanationURL"] == URL
        assert told["suggestedWindow"]["end"] < f"{server.clock.now():%Y-%m-%dT%H:%M:%SZ}"
        assert "explanationURL" not in (await info(server, other)).json()
        with pytest.raises(AcmeRefusedError, match="is open: what it concerns is fixed"):
            await acme.select_for_incident(entry.id, Selection((serial(other),)))
        with pytest.raises(AcmeRefusedError, match="close it"):
            await acme.discard_incident(entry.id)
        assert [item.id for item in (await acme.incidents()).incidents] == [entry.id]
        assert (await acme.close_incident(entry.id)).state == "closed"
        with pytest.raises(AcmeRefusedError, match="is closed, not open"):
            await acme.close_incident(entry.id)
    assert (await info(server, concerned)).json() == before
    events = [item.record async for item in audit_records(server.database) if item.record.event.startswith("incident.")]
    assert [(item.event, item.actor.rsplit("/", 2)[1]) for item in events] == [
        ("incident.opened", "operator"),
        ("incident.closed", "operator"),
    ]
    assert events[0].detail["certificates"] == 1


async def test_what_is_selected(server: AcmeServer) -> None:
    """All of the criteria hold of what is concerned; what has expired is not."""
    first, second = await server.registered(), await server.registered()
    early = await issued(first, "a.example")
    at = unix(server.clock.now())
    server.clock.advance(timedelta(hours=1))
    late = await issued(first, "b.example")
    others = await issued(second, "c.example")
    key = authority_key_identifier(early).hex()
    every = {serial(early), serial(late), serial(others)}
    cases = [
        (Selection(issuer="issuing", issuer_key=key), every),
        (Selection(issuer="issuing", issuer_key=key[:-2] + ("00" if key[-2:] != "00" else "01")), set()),
        (Selection(profile="server"), every),
        (Selection(profile="short-lived"), set()),
        (Selection(account=account_id(first)), {serial(early), serial(late)}),
        (Selection(issued_from=at, issued_to=at), {serial(early)}),
        (Selection(issued_from=at + 1, issued_to=at + 7200, account=account_id(first)), {serial(late)}),
        (Selection((serial(early), serial(others)), account=account_id(second)), {serial(others)}),
    ]
    async with server.operated() as acme:
        for selection, expected in cases:
            prepared = await acme.prepare_incident(IncidentRequest("a bug"))
            assert (await acme.select_for_incident(prepared.id, selection)).added == len(expected)
            assert {item.serial for item in (await acme.at_risk(prepared.id)).certificates} == expected
            await acme.discard_incident(prepared.id)
        server.clock.advance(timedelta(days=91))
        prepared = await acme.prepare_incident(IncidentRequest("a bug"))
        assert (await acme.select_for_incident(prepared.id, Selection(profile="server"))).added == 0
        with pytest.raises(AcmeRefusedError, match="concerns no certificate"):
            await acme.open_incident(prepared.id)


async def test_how_far_an_incident_is(server: AcmeServer) -> None:
    """Replaced by `replaces`, or by a later certificate of the account with these names; revoked, expired, at risk."""
    client = await server.registered()
    await client.post(client.kid or "", {"contact": ["mailto:ops@example.com"]})
    said, like, revoked, left = [
        await issued(client, name) for name in ("a.example", "b.example", "c.example", "d.example")
    ]
    pair = await issued(client, "x.example", "y.example")
    incident = await opened(server, Selection(account=account_id(client)))
    assert await progress(server, incident) == Progress(5, 0, 0, 0, 5)
    server.clock.advance(timedelta(hours=1))
    await issued(client, "a.example", "z.example", replaces=cert_id_of(said))
    await issued(client, "b.example")
    await issued(client, "y.example", "x.example")
    await issued(await server.registered(), "d.example")
    await client.revoke(revoked)
    assert await progress(server, incident) == Progress(5, 3, 1, 0, 1)
    async with server.operated() as acme:
        (item,) = (await acme.at_risk(incident.id)).certificates
    assert (item.serial, item.names, item.account, item.contacts) == (
        serial(left),
        ["d.example"],
        client.kid,
        ["mailto:ops@example.com"],
    )
    assert item.not_after == unix(left.not_valid_after_utc)
    assert pair != left
    assert like != left
    server.clock.advance(timedelta(days=90))
    assert await progress(server, incident) == Progress(5, 1, 1, 3, 0)  # what took the place of two is over, too


async def test_an_order_that_is_not_fulfilled_replaces_nothing(server: AcmeServer) -> None:
    """The certificate is at risk until the other one is there; and one that is concerned itself replaces none."""
    client = await server.registered()
    first = await issued(client, "a.example")
    await issued(client, "a.example", replaces=cert_id_of(first))
    incident = await opened(server, Selection(profile="server"))
    assert await progress(server, incident) == Progress(2, 0, 0, 0, 2)


async def test_certificates_at_risk_come_in_pages(server: AcmeServer) -> None:
    """Each is in one page."""
    client = await server.registered()
    every = {serial(await issued(client, f"{place}.example")) for place in range(5)}
    incident = await opened(server, Selection(profile="server"))
    found: list[str] = []
    after: str | None = ""
    async with server.operated() as acme:
        while after is not None:
            page = await acme.at_risk(incident.id, after, 2)
            found += [item.serial for item in page.certificates]
            after = page.next
    assert (len(found), set(found)) == (5, every)


async def test_what_was_prepared_and_left_is_forgotten(server: AcmeServer) -> None:
    """A day later, when another is prepared."""
    client = await server.registered()
    await issued(client, "a.example")
    async with server.operated() as acme:
        left = await acme.prepare_incident(IncidentRequest("a bug"))
        await acme.select_for_incident(left.id, Selection(profile="server"))
        server.clock.advance(timedelta(days=2))
        await acme.prepare_incident(IncidentRequest("another"))
        with pytest.raises(AcmeRefusedError, match="no incident") as refused:
            await acme.incident(left.id)
    assert refused.value.status == 404


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(("xyz",)),
        Selection(tuple(f"{number:x}" for number in range(1, 502))),
        Selection(issuer="issuing-ecdsa"),
        Selection(issuer="issuing-ecdsa", issuer_key="zz"),
        Selection(issued_from=1),
        Selection(issued_from=2, issued_to=1),
    ],
    ids=["nothing", "no-serial", "too-many", "no-key", "no-hex", "no-end", "backwards"],
)
async def test_a_selection_that_makes_no_sense(server: AcmeServer, selection: Selection) -> None:
    """It is malformed, and nothing is concerned."""
    async with server.operated() as acme:
        prepared = await acme.prepare_incident(IncidentRequest("a bug"))
        with pytest.raises(AcmeRefusedError) as refused:
            await acme.select_for_incident(prepared.id, selection)
        assert (refused.value.status, refused.value.kind) == (400, "malformed")


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "https://a.example/ b",
        "ftp://a.example",
        "https://",
        "https://bank.example@evil.example/",
        "https://[::1",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "https://:secret@bank.example/",
        "https://a.example:99999/",
        "https://evil.example\\.bank.example/",
    ],
)
async def test_an_explanation_is_a_url(server: AcmeServer, url: str) -> None:
    """Clients show it to people."""
    async with server.operated() as acme:
        with pytest.raises(AcmeRefusedError, match="URL"):
            await acme.prepare_incident(IncidentRequest("a bug", url))


async def test_a_reason_is_one_line(server: AcmeServer) -> None:
    """Nobody writes a second line into other operators' lists."""
    async with server.operated() as acme:
        with pytest.raises(AcmeRefusedError, match="one line"):
            await acme.prepare_incident(IncidentRequest("a bug\nclosed: all is well"))


async def test_only_operators_open_incidents(server: AcmeServer) -> None:
    """Anybody else is refused by the caller policy; what there is not is not found."""
    async with server.operated(ACME) as acme:
        with pytest.raises(AcmeForbiddenError):
            await acme.prepare_incident(IncidentRequest("a bug"))
        with pytest.raises(AcmeForbiddenError):
            await acme.incidents()
    async with server.operated() as acme:
        for name in (new_id(), "x"):
            with pytest.raises(AcmeRefusedError) as refused:
                await acme.incident(name)
            assert refused.value.status == 404


async def test_metrics_of_open_incidents(server: AcmeServer) -> None:
    """How many are open, and what is at risk of each; a closed one is gone."""
    client = await server.registered()
    await issued(client, "a.example")
    incident = await opened(server, Selection(profile="server"))
    registry = CollectorRegistry()
    watch = IncidentWatch(server.service.administration.incidents, registry)
    await watch.count()
    assert registry.get_sample_value("pqcpki_acme_incidents_open") == 1
    assert registry.get_sample_value("pqcpki_acme_incident_at_risk", {"incident": incident.id}) == 1
    async with server.operated() as acme:
        await acme.close_incident(incident.id)
    await watch.count()
    assert registry.get_sample_value("pqcpki_acme_incidents_open") == 0
    assert incident.id.encode() not in generate_latest(registry)


async def test_replicas_on_postgresql(postgres: PostgresServer | None, tmp_path: Path) -> None:
    """Of orders at both for one certificate one is taken; an incident at one is told of, and counted, at the other."""
    if postgres is None:
        pytest.skip("not run: postgresql missing (apt-get install postgresql)")
    one = await AcmeServer.start(tmp_path, url=postgres.unmade_database())
    other = await one.replica()
    client = await one.registered()
    there = AcmeClient(other.http, DIRECTORY, client.key)
    there.kid = client.kid
    first, second = await issued(client, "a.example"), await issued(there, "b.example")
    orders = await asyncio.gather(
        *(at.new_order(["a.example"], replaces=cert_id_of(first)) for at in (client, there)), return_exceptions=True
    )
    assert [item.kind for item in orders if isinstance(item, AcmeProblemError)] == ["alreadyReplaced"]
    entry = await opened(one, Selection(profile="server"), Selection((serial(first), UNKNOWN)))
    assert "explanationURL" in (await info(other, second)).json()
    one.clock.advance(timedelta(hours=1))
    await issued(there, "b.example")
    assert await progress(other, entry) == Progress(2, 1, 0, 0, 1)
    for server in (other, one):
        await server.stop()
