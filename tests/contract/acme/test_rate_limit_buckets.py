"""Token buckets, on both engines alike."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

import services.acme
from services.acme.errors import AcmeError
from services.acme.identifiers import Identifier
from services.acme.ids import new_id
from services.acme.rate_limits.rate_limits import Charge, Limit, Limits, RateLimits, failures_of
from services.acme.store.rate_limits import OverrideRow, RateLimitStore
from services.acme.store.rows import AccountRow
from services.chassis.database import AuditEvent, Database, Unit
from services.chassis.errors import ConflictError
from tests.support.clock import ManualClock
from tests.support.migrated import migrated

A, B, C = (Identifier("dns", f"{name}.test") for name in "abc")
AUDIT = AuditEvent("limit.changed", "operator")


def account(eab_kid: str | None = None) -> AccountRow:
    """An account that is nobody's."""
    return AccountRow(new_id(), "valid", "thumbprint", {}, (), None, 0, eab_kid=eab_kid)


class World:
    """A database, and the limits of one process on it."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.database, self.clock = database, clock
        self.store = RateLimitStore(database)

    def limits(self, **limits: str) -> RateLimits:
        """Limits as settings have them."""
        return RateLimits(self.store, Limits(**{name: Limit.parse(text) for name, text in limits.items()}), self.clock)

    async def spend(self, limits: RateLimits, charges: Sequence[Charge]) -> None:
        """What a request does that is charged."""
        try:
            await self.database.commit(Unit("spend", limits.writes(charges)))
        except ConflictError as error:
            await limits.refuse(charges, error)

    async def refused(self, limits: RateLimits, charges: Sequence[Charge]) -> AcmeError:
        """The refusal of a request that is one too many."""
        with pytest.raises(AcmeError) as refused:
            await self.spend(limits, charges)
        assert (refused.value.acme_type, refused.value.status) == ("rateLimited", 429)
        return refused.value

    def passes(self, **step: float) -> None:
        """Let time pass."""
        self.clock.advance(timedelta(**step))


@pytest.fixture
async def world(empty_url: str) -> AsyncIterator[World]:
    """An empty database."""
    await migrated(empty_url, Path(services.acme.__file__).parent / "migrations")
    clock = ManualClock()
    database = await Database.open(empty_url, clock=clock)
    yield World(database, clock)
    await database.close()


async def test_a_burst_then_one_token_at_a_time(world: World) -> None:
    """A full bucket gives its burst at once; then a token comes back each PERIOD / BURST, and Retry-After says when."""
    limits, who = world.limits(orders_per_account="3/60s"), account()
    for _ in range(3):
        await world.spend(limits, limits.new_order(who, [A]))
    refusal = await world.refused(limits, limits.new_order(who, [A]))
    assert refusal.headers == ((b"retry-after", b"20"),)
    assert refusal.detail == (
        "too many new orders of this account: the limit orders_per_account is 3/1m; try again at 2030-01-01T00:00:20Z"
    )
    world.passes(seconds=19)
    assert (await world.refused(limits, limits.new_order(who, [A]))).headers == ((b"retry-after", b"1"),)
    world.passes(seconds=1)
    await world.spend(limits, limits.new_order(who, [A]))
    await world.refused(limits, limits.new_order(who, [A]))
    await world.spend(limits, limits.new_order(account(), [A]))  # another account has its own


async def test_a_refused_order_costs_nothing(world: World) -> None:
    """Where one name's bucket is empty, neither the other names' nor the account's loses a token."""
    limits, who = world.limits(orders_per_account="2/1h", orders_per_account_and_name="1/1h"), account()
    await world.spend(limits, limits.new_order(who, [B]))
    for _ in range(3):
        refusal = await world.refused(limits, limits.new_order(who, [A, B, C]))
        assert "orders of this account for b.test" in refusal.detail
    await world.spend(limits, limits.new_order(who, [A, C]))
    assert "orders_per_account" in (await world.refused(limits, limits.new_order(who, [Identifier("dns", "d")]))).detail


async def test_a_name_is_everybodys_who_has_proven_it(world: World) -> None:
    """Certificates for a name count whoever has them, a wildcard with the name below it, both in one order once."""
    limits = world.limits(certificates_per_name="2/1h")
    wildcard = Identifier("dns", "*.a.test")
    await world.spend(limits, limits.issuance(account(), [A, wildcard]))
    await world.spend(limits, limits.issuance(account(), [wildcard]))
    assert "certificates for a.test" in (await world.refused(limits, limits.issuance(account(), [A]))).detail
    await world.spend(limits, limits.issuance(account(), [A], free={A}))


async def test_orders_without_proof_cost_nobody_else(world: World) -> None:
    """A stranger who orders a name over and over uses up his own share of it; its owner orders, and is issued it."""
    limits = world.limits(orders_per_account_and_name="2/1h", certificates_per_name="2/1h")
    stranger, owner = account(), account()
    for _ in range(2):
        await world.spend(limits, limits.new_order(stranger, [A]))
    await world.refused(limits, limits.new_order(stranger, [A]))
    await world.refused(limits, limits.new_authorization(stranger, A))
    await world.spend(limits, limits.new_order(owner, [A]))
    await world.spend(limits, limits.issuance(owner, [A]))


async def test_an_exempt_order_is_charged_for_other_names_and_has_a_bound(world: World) -> None:
    """Names beyond those of the replaced certificate cost, failures still close names, and it has its own bucket."""
    limits = world.limits(
        orders_per_account="1/1h",
        renewals_per_account="3/1h",
        orders_per_account_and_name="1/1h",
        failed_validations="1/1h",
    )
    who = account()
    await world.spend(limits, limits.new_order(who, [A]))
    await world.spend(limits, limits.new_order(who, [A], free={A}))
    await world.spend(limits, limits.new_order(who, [A, B], free={A}))
    assert "for b.test" in (await world.refused(limits, limits.new_order(who, [A, B], free={A}))).detail
    await world.database.commit(Unit("failed", limits.failure(who, A)))
    assert "failed validations" in (await world.refused(limits, limits.new_order(who, [A], free={A}))).detail
    await world.spend(limits, limits.new_order(who, [C], free={C}))
    assert "renewals_per_account" in (await world.refused(limits, limits.new_order(who, [C], free={C}))).detail


async def test_failures_of_many_names_close_the_account(world: World) -> None:
    """An account cannot have one name after another fail for ever: the failures of all of them count together."""
    limits, who = world.limits(failed_validations="9/1h", failed_validations_per_account="2/1h"), account()
    for name in (A, B):
        await world.database.commit(Unit("failed", limits.failure(who, name)))
    for free in (None, {C}):
        refusal = await world.refused(limits, limits.new_order(who, [C], free))
        assert "failed validations of this account: the limit failed_validations_per_account is 2/1h" in refusal.detail
    await world.spend(limits, limits.new_order(account(), [C]))


@pytest.mark.parametrize("per_name", ["off", "100/1h"])
async def test_failures_close_a_name_for_their_account(world: World, per_name: str) -> None:
    """An account whose validations of a name failed too often orders it no more for a while; others do."""
    limits, who = world.limits(failed_validations="2/1h", orders_per_account_and_name=per_name), account()
    for _ in range(5):  # each is counted, but the time to wait does not grow beyond the bucket
        await world.database.commit(Unit("failed", limits.failure(who, Identifier("dns", "*.a.test"))))
    refusal = await world.refused(limits, limits.new_order(who, [B, A]))
    assert "failed validations of a.test: the limit failed_validations is 2/1h" in refusal.detail
    assert refusal.headers == ((b"retry-after", b"1800"),)
    assert "failed validations" in (await world.refused(limits, limits.new_authorization(who, A))).detail
    await world.spend(limits, limits.new_order(account(), [A]))
    await world.spend(limits, limits.new_order(who, [B]))
    world.passes(seconds=1800)
    await world.spend(limits, limits.new_order(who, [A]))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
    ],
)
async def test_an_address_is_an_ipv4_address_or_a_64(world: World, one: str, other: str, same: bool) -> None:  # noqa: FBT001 - a table's column
    """New accounts count for an IPv4 address, however written, or for all addresses that an IPv6 host may take."""
    limits = world.limits(accounts_per_address="1/1h")
    await world.spend(limits, limits.new_account(one))
    if same:
        assert "new accounts from" in (await world.refused(limits, limits.new_account(other))).detail
    else:
        await world.spend(limits, limits.new_account(other))


async def test_what_is_off_is_not_written(world: World) -> None:
    """Limits that are off, and renewals, which are not charged, cost no statement."""
    limits = world.limits(accounts_per_address="off", failed_validations="off")
    who = account()
    assert limits.new_account("192.0.2.1") == limits.new_order(who, [A]) == limits.new_authorization(who, A) == ()
    assert limits.failure(who, A) == ()


async def test_an_order_costs_one_statement_and_one_for_each_name(world: World) -> None:
    """With every limit on there are 1 + names statements more, and they come in one order."""
    limits = world.limits(orders_per_account="9/1h", orders_per_account_and_name="9/1h", failed_validations="9/1h")
    charges = limits.new_order(account(), [C, A, B, A])
    assert [charge.subject for charge in charges] == ["this account", "a.test", "b.test", "c.test"]
    assert len(limits.writes(charges)) == 4


async def test_overrides_come_before_the_usual_limit(world: World) -> None:
    """An account's own limit decides, then its external account's key's, then the usual one; 0 is no limit."""
    limits, own, of_key = world.limits(orders_per_account="1/1h"), account(eab_kid="kid"), account(eab_kid="kid")
    await world.store.set_override(OverrideRow("eab:kid", "orders_per_account", 2, 3600), AUDIT)
    await world.store.set_override(OverrideRow(f"account:{own.id}", "orders_per_account", 7, 60), AUDIT)
    await world.store.set_override(OverrideRow(f"account:{own.id}", "orders_per_account", 0, 0), AUDIT)
    await limits.load_overrides()
    assert limits.new_order(own, [A]) == ()
    for _ in range(2):
        await world.spend(limits, limits.new_order(of_key, [A]))
    assert "is 2/1h" in (await world.refused(limits, limits.new_order(of_key, [A]))).detail
    await world.store.delete_override(f"account:{own.id}", "orders_per_account", AUDIT)
    await world.store.delete_override("eab:kid", "orders_per_account", AUDIT)
    await limits.load_overrides()
    assert "is 1/1h" in (await world.refused(limits, limits.new_order(of_key, [A]))).detail
    await world.spend(limits, limits.new_order(own, [A]))
    with pytest.raises(ConflictError):
        await world.store.delete_override("eab:kid", "orders_per_account", AUDIT)


async def test_a_reset_fills_buckets(world: World) -> None:
    """An operator may fill the bucket of an account, and those of its failed validations: all of them, no others."""
    limits = world.limits(orders_per_account="1/1h", failed_validations="1/1h")
    who = AccountRow("a_c", "valid", "", {}, (), None, 0)
    neighbour = AccountRow("abc", "valid", "", {}, (), None, 0)  # the underscore is no pattern
    for one in (who, neighbour):
        await world.spend(limits, limits.new_order(one, [A]))
        await world.database.commit(Unit("failed", limits.failure(one, B)))
    await world.store.reset([f"orders:{who.id}"], [failures_of(who.id)], AUDIT)
    await world.spend(limits, limits.new_order(who, [B]))
    assert "of this account" in (await world.refused(limits, limits.new_order(neighbour, [A]))).detail
    await world.store.reset([f"orders:{neighbour.id}"], [], AUDIT)
    assert "failed validations" in (await world.refused(limits, limits.new_order(neighbour, [B]))).detail


async def test_full_buckets_are_forgotten(world: World) -> None:
    """The clean-up removes a bucket once it is full again, and never before."""
    limits, who = world.limits(orders_per_account="2/60s"), account()
    await world.spend(limits, limits.new_order(who, [A]))
    world.passes(seconds=30)
    assert await limits.clean_up() is False
    world.passes(seconds=1)
    assert await limits.clean_up() is True
    assert await limits.clean_up() is False
    assert await world.store.full_at(f"orders:{who.id}") == 0


async def test_of_many_at_once_exactly_the_burst_passes(world: World, empty_url: str) -> None:
    """However many ask at the same moment, on two replicas where there may be two, no more than the burst are let in.

    The replicas' orders are of the same accounts, in opposite order: nobody waits for a deadlock to be found.
    """
    other = World(await Database.open(empty_url, clock=world.clock), world.clock)
    people = [account() for _ in range(4)]
    sides = [(side, side.limits(orders_per_account="5/1h", certificates_per_name="13/1h")) for side in (world, other)]

    async def ask(number: int) -> bool:
        (side, limits), turn = sides[number % 2], number // 2 % 4
        who = people[turn] if number % 2 else people[-1 - turn]
        try:
            names = [A, B] if number % 2 else [B]
            await side.spend(limits, (*limits.new_order(who, names), *limits.issuance(who, names)))
        except AcmeError:
            return False
        return True

    async with asyncio.timeout(30):
        passed = sum(await asyncio.gather(*(ask(number) for number in range(80))))
    await other.database.close()
    assert passed == 13
    full = await world.store.full_at("name:dns:b.test")
    assert full == int(world.clock.now().timestamp()) * 1000 + 13 * Limit(13, 3600).step


async def test_a_conflict_of_another_write_is_not_called_a_limit(world: World) -> None:
    """Where a later write of the unit undid it, that conflict is passed on."""
    limits = world.limits(orders_per_account="1/1h")
    charges = limits.new_order(account(), [A])
    error = ConflictError("order-created", len(charges), 0, 1)
    with pytest.raises(ConflictError) as raised:
        await limits.refuse(charges, error)
    assert raised.value is error


def test_limits_as_settings_have_them() -> None:
    """A limit is read and written in one form."""
    for text in ("300/3h", "1/1s", "5/7d", "1000/90s", "2/45m"):
        assert str(Limit.parse(text)) == text
    assert str(Limit.parse("60/3600s")) == "60/1h"
    assert Limit.parse("off") is None
    units = itertools.product(
        ("0/1h", "1/0h", "300", "300/3", "300/3w", "-1/1h", "1001/1s", "1/367d", "1/1h ", "", "Off")
    )
    for (text,) in units:
        with pytest.raises(ValueError, match="must be"):
            Limit.parse(text)
