"""An audit log that cannot be written: nothing is signed, each caller hears it, and it goes on when it can."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from services.chassis.audit import verify_audit
from tests.support.audited_services import SERVICES

UNWRITABLE = {
    "refused": ("CREATE TRIGGER no BEFORE INSERT ON audit_log BEGIN SELECT RAISE(ABORT, 'no'); END", "DROP TRIGGER no"),
    "head": ("CREATE TRIGGER no BEFORE UPDATE ON audit_head BEGIN SELECT RAISE(ABORT, 'no'); END", "DROP TRIGGER no"),
    "gone": ("ALTER TABLE audit_log RENAME TO hidden", "ALTER TABLE hidden RENAME TO audit_log"),
}


def executed(directory: Path) -> Callable[[str], None]:
    """Has a statement done by another program on the one database there."""
    (path,) = directory.glob("*.sqlite3")

    def execute(statement: str) -> None:
        with sqlite3.connect(path) as database:
            database.execute(statement)
        database.close()

    return execute


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("harm", ["refused", "head"])
async def test_without_the_audit_log_nothing_is_signed(tmp_path: Path, name: str, harm: str) -> None:
    """503, typed, no signature, nothing on record; the next request after it is healed is answered."""
    service = await SERVICES[name].open(tmp_path)
    execute, (broken, healed) = executed(tmp_path), UNWRITABLE[harm]
    try:
        healthy = await service.ask(1)
        assert healthy.status < 300
        execute(broken)
        for number in (2, 3):
            answer = await service.ask(number)
            assert (answer.status, answer.problem) == (503, "urn:pqcpki:problem:unavailable")
            assert (answer.signed, answer.recorded) == (0, 0)
        execute(healed)
        again = await service.ask(2)
        assert again.status < 300
        assert again.signed == healthy.signed > 0
        assert again.recorded == 1
        await verify_audit(service.database, (), None)
    finally:
        await service.close()


@pytest.mark.parametrize("name", SERVICES)
async def test_without_its_table_nothing_is_signed(tmp_path: Path, name: str) -> None:
    """A log that somebody has taken away is as one that is full."""
    service = await SERVICES[name].open(tmp_path)
    execute, (broken, healed) = executed(tmp_path), UNWRITABLE["gone"]
    try:
        before = service.signatures()
        execute(broken)
        answer = await service.request(1)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:pqcpki:problem:unavailable")
        assert service.signatures() == before
        execute(healed)
        assert (await service.ask(1)).status < 300
    finally:
        await service.close()
