"""A retired issuing CA: nothing new below it, and everything it has issued stays revocable, with CRL and OCSP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from pkicore.clock import unix
from services.ca.errors import UnknownProfileError
from services.ca.new_issuer import successor_name
from services.ca.publication import WITHOUT_END
from services.ca.responders import PROFILE
from services.ca.settings import CaSettings
from services.ca.wire import RevocationRequest
from tests.support.ca_world import OPERATOR, CaWorld, server_request


@pytest.fixture
async def retired(world: CaWorld, tmp_path: Path) -> AsyncIterator[CaWorld]:
    """A later process over the same ledger, in which the ECDSA issuer is retired."""
    world.clock.advance(timedelta(seconds=1))
    later = await CaWorld.open(tmp_path, clock=world.clock, families=world.families, retired=("ecdsa",))
    yield await later.start()
    await later.close()


async def test_nothing_new_is_issued(retired: CaWorld) -> None:
    """Not even to an operator."""
    with pytest.raises(UnknownProfileError, match="ecdsa"):
        await retired.issue("new.example")
    with pytest.raises(UnknownProfileError):
        await retired.core.issuance.issue(OPERATOR, server_request("new.example"))


async def test_its_responder_is_certified_by_itself(retired: CaWorld) -> None:
    """A delegate is of the issuer that it speaks for (RFC 6960 §4.2.2.2), so it certifies that, and nothing else."""
    name = retired.families["ecdsa"].issuing.id
    first = retired.core.responders.of(name).certificate
    retired.clock.advance(timedelta(days=25))
    await retired.core.responders.ensure()
    renewed = retired.core.responders.of(name).certificate
    assert renewed.serial_number != first.serial_number
    renewed.verify_directly_issued_by(retired.issuer())


async def test_what_it_issued_can_be_revoked(world: CaWorld, retired: CaWorld) -> None:
    """Its next CRL has the serial; and the ledger knows until when it is needed, its responders aside."""
    name = retired.families["ecdsa"].issuing.id
    assert await retired.core.store.last_expiry(name, but=PROFILE) == 0
    issued = await world.issue("old.example")
    assert await retired.core.store.last_expiry(name, but=PROFILE) == issued.not_after
    await retired.core.revoker.revoke(OPERATOR, RevocationRequest("superseded", serial=issued.serial))
    await retired.publish()
    crl = x509.load_der_x509_crl(retired.core.publisher.current[name].der)
    assert crl.get_revoked_certificate_by_serial_number(int(issued.serial, 16)) is not None


async def test_its_lists_come_until_its_last_certificate_has_ended_and_then_once_more(
    world: CaWorld, tmp_path: Path
) -> None:
    """Every half of their life while something is valid; the last ones hold without end, and nothing follows them."""
    issued = await world.issue("old.example")
    world.clock.advance(timedelta(seconds=1))
    retired = await CaWorld.open(tmp_path, clock=world.clock, families=world.families, retired=("ecdsa",))
    await retired.start()
    publisher, name = retired.core.publisher, retired.families["ecdsa"].issuing.id
    await retired.core.revoker.revoke(OPERATOR, RevocationRequest("superseded", serial=issued.serial))
    numbers = []
    while unix(world.clock.now()) <= issued.not_after:
        world.clock.advance(timedelta(days=10))
        assert await publisher.publish_due()
        numbers.append(publisher.current[name].number)
        assert publisher.current[name].next_update > unix(world.clock.now())
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    last = publisher.current[name]
    assert last.next_update == WITHOUT_END
    assert x509.load_der_x509_crl(last.der).next_update_utc == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    world.clock.advance(timedelta(days=400))
    assert await publisher.publish_due()
    await publisher.load()
    assert publisher.current[name] == last
    assert publisher.current["issuing-mldsa"].next_update < WITHOUT_END
    await retired.close()


@pytest.mark.parametrize(
    ("issuer", "taken", "name"),
    [
        ("issuing-ecdsa", ["issuing-ecdsa", "issuing-mldsa"], "issuing-ecdsa-2"),
        ("issuing-ecdsa", ["issuing-ecdsa", "issuing-ecdsa-2", "issuing-mldsa-7"], "issuing-ecdsa-3"),
        ("issuing-ecdsa-9", ["issuing-ecdsa-9"], "issuing-ecdsa-10"),
    ],
)
def test_a_successor_has_the_next_number(issuer: str, taken: list[str], name: str) -> None:
    """No id that is there is used again."""
    assert successor_name(issuer, taken) == name


def settings(directory: Path, *issuers: dict[str, Any]) -> CaSettings:
    """Settings with these issuers."""
    common = {"family": "ecdsa", "root": "r", "certificate": "/c", "key": "file:/k", "responder_key": "file:/r"}
    names = ("policy_file", "passphrase_file", "profiles_file", "tls_certificate", "tls_key", "state_dir")
    values: dict[str, Any] = dict.fromkeys(names, str(directory / "x"))
    values |= {"trust_domain": "td.internal", "database_url": "sqlite:////x", "audit_key": "file:/a"}
    values |= {"issuers": [common | item for item in issuers], "roots": [{"id": "r", "certificate": "/c"}]}
    return CaSettings(**values)


def test_one_issuing_ca_of_a_family_issues(tmp_path: Path) -> None:
    """Two that do, or none at all, are refused when the settings are read."""
    settings(tmp_path, {"id": "a", "retired": True}, {"id": "b"})
    with pytest.raises(ValueError, match="two issuing CAs of the family ecdsa"):
        settings(tmp_path, {"id": "a"}, {"id": "b"})
    with pytest.raises(ValueError, match="no issuing CA is active"):
        settings(tmp_path, {"id": "a", "retired": True})
