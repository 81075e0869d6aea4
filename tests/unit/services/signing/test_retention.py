from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from pkicore.clock import unix
from pkicore.errors import MalformedError
from services.chassis.audit import audit_records
from services.chassis.database import Unit
from services.chassis.errors import ConflictError
from services.signing.errors import NotFoundError
from services.signing.retention import RetentionRule, kept_until
from tests.support.evidence_world import MALLORY, EvidenceWorld, evidence_world

TEN_DAYS = RetentionRule(tenant="acme", keep="10d")
A, B = "a" * 64, "b" * 64
LONG = b'{"bomFormat":"CycloneDX"}' + b" " * 100_000


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[EvidenceWorld]:
    """Signatures of acme are kept ten days, those of others for ever."""
    async with evidence_world(tmp_path, TEN_DAYS) as made:
        yield made


@pytest.mark.parametrize(
    ("created", "keep", "until"),
    [
        ("2026-11-22", "90d", "2027-02-20"),
        ("2026-11-22", "18m", "2028-05-22"),
        ("2026-11-22", "10y", "2036-11-22"),
        ("2028-02-29", "1y", "2029-03-01"),
        ("2028-02-29", "4y", "2032-02-29"),
        ("2026-01-31", "1m", "2026-03-01"),
        ("2026-10-31", "1m", "2026-12-01"),
        ("2026-12-31", "12m", "2027-12-31"),
        ("2026-08-31", "6m", "2027-03-01"),
    ],
)
def test_dates_are_those_of_the_calendar(created: str, keep: str, until: str) -> None:
    """Months and years are counted as people do, and never end a day early."""
    assert kept_until(_at(created), keep) == _at(until)


@pytest.mark.parametrize("keep", ["", "0d", "10", "y", "-1d", "1.5y", "10Y", "1w", "201y", "99999d", "\u0661d", "1d\n"])
def test_rules_that_make_no_sense_stop_the_start(keep: str) -> None:
    """A time is a number of days, months or years, up to two hundred years."""
    with pytest.raises(ValidationError, match="keep"):
        RetentionRule(tenant="acme", keep=keep)


async def test_nothing_goes_before_its_date(world: EvidenceWorld) -> None:
    """A second before its date a signature is there; at its date it goes, with everything that was served of it."""
    record = await world.sign({"app": A}, sbom=LONG)
    world.later(10 - 1 / 86_400)
    assert await world.retention.enforce() == 0
    assert await world.store.signature("acme", record.id) is not None
    world.later(1 / 86_400)
    assert await world.retention.enforce() == 1
    assert await world.store.signature("acme", record.id) is None
    assert await world.store.artefacts(record.id) == []
    assert await world.store.page("acme", [f"sha256:{A}"]) == []
    assert await world.retention.enforce() == 0


async def test_removal_is_on_record_with_its_rule(world: EvidenceWorld) -> None:
    """The audit log says what was removed, by which rule, and that its date had come."""
    record = await world.sign({"app": A})
    world.later(11)
    await world.retention.enforce()
    (removed,) = [one.record async for one in audit_records(world.database) if one.record.event == "signature.removed"]
    assert removed.detail["id"] == record.id
    assert removed.detail["rule"] == "keep 10d"
    assert removed.detail["kept_until"] == record.created + 10 * 86_400 <= removed.at


async def test_tenant_without_a_rule_keeps_everything(world: EvidenceWorld) -> None:
    """Another tenant's rule removes nothing of a tenant that has none."""
    record = await world.sign({"app": A}, caller=MALLORY)
    world.later(40_000)
    assert await world.retention.enforce() == 0
    assert await world.store.signature("other", record.id) is not None


async def test_file_goes_with_the_last_record_that_names_it(world: EvidenceWorld) -> None:
    """An SBOM that two signatures share stays until both are gone."""
    first = await world.sign({"app": A}, sbom=LONG)
    (sbom,) = [one for one in await world.store.artefacts(first.id) if one.name == "sbom"]
    world.later(5)
    await world.sign({"lib": B}, sbom=LONG)
    world.later(5)
    assert await world.retention.enforce() == 1
    assert await world.store.object_is_used(sbom.sha256)
    assert world.objects.path(sbom.sha256).read_bytes() == LONG
    world.later(5)
    assert await world.retention.enforce() == 1
    assert not await world.store.object_is_used(sbom.sha256)


async def test_legal_hold_outlasts_every_rule(world: EvidenceWorld) -> None:
    """What is held is kept until the hold is lifted, which is on record with its reason."""
    record = await world.sign({"app": A})
    await world.retention.hold("acme", "counsel", record.id, "case 7")
    world.later(1000)
    assert await world.retention.enforce() == 0
    assert (await world.retention.keeping("acme", record.id)).hold_reason == "case 7"
    await world.retention.release("acme", "counsel", record.id)
    assert await world.retention.enforce() == 1
    events = [one.record.event async for one in audit_records(world.database)]
    assert events[-3:] == ["signature.held", "signature.released", "signature.removed"]


async def test_holds_are_checked(world: EvidenceWorld) -> None:
    """A hold needs a reason and a signature of the tenant's own; it is laid once and lifted once."""
    record = await world.sign({"app": A})
    for reason in (None, "", "x" * 501, "bell\a"):
        with pytest.raises(MalformedError):
            await world.retention.hold("acme", "counsel", record.id, reason)
    with pytest.raises(NotFoundError):
        await world.retention.hold("other", "mallory", record.id, "mine")
    with pytest.raises(NotFoundError):
        await world.retention.release("acme", "counsel", record.id)
    await world.retention.hold("acme", "counsel", record.id, "case 7")
    with pytest.raises(NotFoundError):
        await world.retention.hold("acme", "counsel", record.id, "again")
    with pytest.raises(NotFoundError):
        await world.retention.release("other", "mallory", record.id)


async def test_shorter_rule_breaks_no_promise(world: EvidenceWorld) -> None:
    """What evidence has promised holds when the rule is shortened; what was not promised follows the new rule."""
    promised, other = await world.sign({"app": A}), await world.sign({"lib": B})
    await world.export(promised.id)
    short = world.ruled_by(RetentionRule(tenant="acme", keep="1d"))
    world.later(2)
    await short.enforce()
    assert await world.store.signature("acme", promised.id) is not None
    assert await world.store.signature("acme", other.id) is None
    world.later(8)
    await short.enforce()
    assert await world.store.signature("acme", promised.id) is None


async def test_promise_is_only_ever_lengthened(world: EvidenceWorld) -> None:
    """A later export under a shorter rule leaves the earlier promise as it was."""
    record = await world.sign({"app": A})
    for until in (500, 900, 700):
        await world.database.commit(Unit("test", world.retention.promising("acme", record.id, until)))
    assert (await world.retention.keeping("acme", record.id)).promised_until == 900


async def test_nothing_is_promised_of_what_is_not_there(world: EvidenceWorld) -> None:
    """A promise about another tenant's signature, or one that is gone, is refused, and leaves no row."""
    record = await world.sign({"app": A})
    for tenant, signature in (("other", record.id), ("acme", "0" * 26)):
        with pytest.raises(ConflictError):
            await world.database.commit(Unit("test", world.retention.promising(tenant, signature, 900)))
    assert (await world.retention.keeping("acme", record.id)).promised_until == 0


async def test_hold_that_comes_between_seeing_and_removing_wins(world: EvidenceWorld) -> None:
    """The removing commit looks again: a hold laid a moment before is kept."""
    record = await world.sign({"app": A})
    world.later(11)
    store, now = world.retention._store, unix(world.clock.now())
    (seen,) = await store.overdue("acme", "~", now, 10)
    await world.retention.hold("acme", "counsel", record.id, "case 7")
    assert not await world.retention._remove(TEN_DAYS, seen.id, seen.created_at, now)
    assert await world.store.signature("acme", record.id) is not None


async def test_more_than_a_batch_goes_at_once(world: EvidenceWorld) -> None:
    """Enforcement goes on until nothing is overdue."""
    for number in range(3):
        await world.sign({f"app-{number}": A})
    world.later(11)
    late = await world.sign({"late": B})
    assert await world.retention.enforce() == 3
    assert [one.id for one in await world.store.page("acme")] == [late.id]


def _at(date: str) -> int:
    return unix(datetime.fromisoformat(date).replace(tzinfo=UTC))
