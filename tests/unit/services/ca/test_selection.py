import hashlib
from datetime import timedelta

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.clock import unix
from pkicore.errors import MalformedError
from pkicore.x509.names import Names
from services.ca.errors import BlockedKeyError, NotAuthorisedError
from services.ca.revocation import Revoker
from services.ca.selection import Position, SelectionAnswer, SelectionRequest, Selector
from services.ca.wire import CertificateRequest, RevocationRequest, format_serial, parse_serial
from services.chassis.fields import Fields
from tests.support.ca_world import ACME, OPERATOR, CaWorld, identifiers, server_request
from tests.support.pki import TRUST_DOMAIN, make_csr

WORKLOAD = f"spiffe://{TRUST_DOMAIN}/workload/a"


async def issued(world: CaWorld, name: str, *, account: str = "", key: ec.EllipticCurvePrivateKey | None = None) -> int:
    """A server certificate of an ACME account; its serial."""
    request = server_request("a.example", key=key, idempotency_key=name)
    request = CertificateRequest(
        request.csr, request.profile, request.identifiers, name, requester={"account": account} if account else {}
    )
    return parse_serial((await world.core.issuance.issue(ACME, request)).answer.serial)


async def workload(world: CaWorld, uri: str, name: str) -> int:
    """A client certificate of a SPIFFE ID; its serial."""
    csr = make_csr(ec.generate_private_key(ec.SECP256R1()), names=Names.build(uri=[uri]))
    request = CertificateRequest(csr, "client", identifiers(uri=[uri]), name)
    return parse_serial((await world.core.issuance.issue(OPERATOR, request)).answer.serial)


async def carried_out(
    world: CaWorld,
    selector: Selector,
    reason: str = "superseded",
    *,
    dry_run: bool = False,
    revoker: Revoker | None = None,
) -> list[int]:
    """Piece by piece, as the command line does it."""
    found: list[int] = []
    after: Position | None = Position()
    while after is not None:
        request = SelectionRequest(selector, reason, after, dry_run)
        answer = await (revoker or world.core.revoker).revoke_selected(OPERATOR, request)
        found += answer.serials
        after = answer.after
    return found


async def reasons(world: CaWorld, *serials: int) -> list[str | None]:
    """What the ledger says of each."""
    rows = [await world.core.store.by_serial(serial) for serial in serials]
    return [None if row is None else row.reason for row in rows]


async def test_by_key(world: CaWorld) -> None:
    """Every certificate of the key, and no other; for keyCompromise it is blocked."""
    key = ec.generate_private_key(ec.SECP256R1())
    mine, other = [await issued(world, str(n), key=key) for n in range(2)], await issued(world, "other")
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    selector = Selector(key_hash=hashlib.sha256(spki).digest())
    assert sorted(await carried_out(world, selector, "keyCompromise")) == sorted(mine)
    assert await reasons(world, *mine, other) == ["keyCompromise", "keyCompromise", None]
    with pytest.raises(BlockedKeyError):
        await issued(world, "again", key=key)


async def test_by_spiffe_id_exactly(world: CaWorld) -> None:
    """Not what is below the path, nor what begins with the same letters."""
    mine = await workload(world, WORKLOAD, "1")
    others = [await workload(world, f"{WORKLOAD}{more}", more) for more in ("/b", "b")]
    assert await carried_out(world, Selector(spiffe_id=WORKLOAD)) == [mine]
    assert await reasons(world, mine, *others) == ["superseded", None, None]


async def test_by_account(world: CaWorld) -> None:
    """Only what that account asked for."""
    account = "https://acme.example/acme/account/1"
    mine, other = await issued(world, "1", account=account), await issued(world, "2", account=f"{account}2")
    assert await carried_out(world, Selector(account=account)) == [mine]
    assert await reasons(world, mine, other) == ["superseded", None]


async def test_by_time_of_issue_issuer_and_profile(world: CaWorld) -> None:
    """Both ends belong to the period; issuer and profile narrow it down."""
    await issued(world, "before")
    world.clock.advance(timedelta(minutes=1))
    begin = unix(world.clock.now())
    server, client = await issued(world, "first"), await workload(world, WORKLOAD, "client")
    world.clock.advance(timedelta(seconds=10))
    end, last = unix(world.clock.now()), await issued(world, "last")
    world.clock.advance(timedelta(seconds=1))
    await issued(world, "after")
    period = Selector(issued_from=begin, issued_to=end)
    assert set(await carried_out(world, period, dry_run=True)) == {server, client, last}
    narrow = Selector(issued_from=begin, issued_to=end, issuer="issuing-ecdsa", profile="server")
    assert set(await carried_out(world, narrow, dry_run=True)) == {server, last}
    elsewhere = Selector(issued_from=begin, issued_to=end, issuer="issuing-mldsa")
    assert await carried_out(world, elsewhere) == []
    assert set(await carried_out(world, narrow)) == {server, last}
    assert await carried_out(world, period) == [client]


async def test_a_dry_run_changes_nothing(world: CaWorld) -> None:
    """It tells what would happen, as often as it is asked."""
    serial = await issued(world, "1", account="a")
    for _ in range(2):
        assert await carried_out(world, Selector(account="a"), dry_run=True) == [serial]
    assert await world.core.store.revocations_after(0, 10) == []


async def test_many_go_in_pieces_and_a_repetition_changes_nothing_twice(world: CaWorld) -> None:
    """Three to a piece: seven are done in three; begun again after the first piece, the rest is done, once each."""
    core = world.core
    revoker = Revoker(store=core.store, log=core.log, issuers=core.hierarchy.cas, clock=world.clock, piece=3)
    serials = {await issued(world, str(n), account="a") for n in range(7)}
    first = await revoker.revoke_selected(OPERATOR, SelectionRequest(Selector(account="a"), "superseded"))
    assert (len(first.serials), first.after is None) == (3, False)
    rest = await carried_out(world, Selector(account="a"), revoker=revoker)
    assert {*first.serials, *rest} == serials
    assert len(rest) == 4
    assert await carried_out(world, Selector(account="a")) == []
    assert len(await world.core.store.revocations_after(0, 100)) == 7


async def test_holds_and_releases_of_many(world: CaWorld) -> None:
    """What is revoked already is not held; what is held is released, and nothing else."""
    serials = [await issued(world, str(n), account="a") for n in range(3)]
    await world.core.revoker.revoke(OPERATOR, RevocationRequest(4, serial=format_serial(serials[0])))
    assert set(await carried_out(world, Selector(account="a"), "certificateHold")) == set(serials[1:])
    assert set(await carried_out(world, Selector(account="a"), "removeFromCRL")) == set(serials[1:])
    assert await carried_out(world, Selector(account="a"), "removeFromCRL") == []
    assert await reasons(world, *serials) == ["superseded", None, None]


async def test_what_has_expired_is_left_alone(world: CaWorld) -> None:
    """A list of what nobody believes any more helps nobody."""
    await issued(world, "1", account="a")
    world.clock.advance(timedelta(days=100))
    assert await carried_out(world, Selector(account="a")) == []


async def test_services_select_nothing(world: CaWorld) -> None:
    """One certificate of its own is what a service may revoke."""
    with pytest.raises(NotAuthorisedError, match="operators"):
        await world.core.revoker.revoke_selected(ACME, SelectionRequest(Selector(account="a"), 0))


@pytest.mark.parametrize(
    "selector",
    [
        {},
        {"account": ""},
        {"account": "a", "key_hash": "00" * 32},
        {"key_hash": "00" * 31},
        {"key_hash": "zz" * 32},
        {"spiffe_id": "https://a.example"},
        {"spiffe_id": f"{WORKLOAD}/*"},
        {"issued_from": 1},
        {"issued_to": 1},
        {"issued_from": 2, "issued_to": 1},
        {"issued_from": -1, "issued_to": 1},
        {"issued_from": True, "issued_to": 1},
        {"issuer": "issuing-ecdsa"},
        {"everything": True},
        [],
        None,
        "all",
    ],
    ids=orjson.dumps,
)
def test_a_selector_that_selects_nobody_or_everybody_is_refused(selector: object) -> None:
    """Nothing is selected by leaving something out."""
    with pytest.raises(MalformedError):
        SelectionRequest.of(Fields({"selector": selector, "reason": 0}))


@pytest.mark.parametrize(
    "more",
    [{"after": "x"}, {"after": "1"}, {"after": "-"}, {"dry_run": "yes"}, {"reason": True}, {"reason": []}],
    ids=orjson.dumps,
)
def test_the_rest_of_a_request_is_checked(more: dict[str, object]) -> None:
    """Positions, flags and reasons of other kinds are refused."""
    with pytest.raises(MalformedError):
        SelectionRequest.of(Fields({"selector": {"account": "a"}, "reason": 0, **more}))


@pytest.mark.parametrize(
    "selector",
    [
        Selector(key_hash=bytes(32), issuer="i"),
        Selector(spiffe_id=WORKLOAD, profile="p"),
        Selector(account="https://a.example/1"),
        Selector(issued_from=1, issued_to=2, issuer="i", profile="p"),
    ],
    ids=str,
)
def test_requests_and_answers_survive_the_wire(selector: Selector) -> None:
    """What is written is what is read."""
    request = SelectionRequest(selector, "superseded", Position(7, "ab"), dry_run=True)
    assert SelectionRequest.of(Fields.parse(request.to_json())) == request
    for answer in (SelectionAnswer((1, 255), Position(7, "ab")), SelectionAnswer((), None)):
        assert SelectionAnswer.from_json(answer.to_json()) == answer
