"""`ztca audit`: which database holds the log of which service."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pkicore.clock import SystemClock
from services.ca.app import MIGRATIONS
from services.ca.cli.main import main
from services.ca.toml_text import lines
from services.chassis.database import AuditEvent, Database, Unit
from tests.support.migrated import migrated


def log(file: Path, *events: str) -> str:
    """A database with these records; its URL."""
    file.parent.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{file}"
    asyncio.run(_fill(url, events))
    return url


async def _fill(url: str, events: tuple[str, ...]) -> None:
    await migrated(url, MIGRATIONS)
    database = await Database.open(url, clock=SystemClock())
    await database.commit(Unit("test", [], [AuditEvent(event, "tester", {}) for event in events]))
    await database.close()


def settings(root: Path, service: str, url: str, state: Path | None = None) -> None:
    """The settings file of a service, as far as audit commands read it."""
    (root / "config").mkdir(parents=True, exist_ok=True)
    text = lines({"state_dir": state or root / service, "database_url": url})
    (root / "config" / f"{service}.toml").write_text(text)
    (root / service).mkdir(exist_ok=True)


def ztca(*arguments: str) -> Result:
    """A command in this process."""
    return CliRunner().invoke(main, arguments)


def records(path: Path) -> dict[str, int]:
    """What `ztca audit verify` finds: the records of each log."""
    result = ztca("audit", "verify", str(path), "--json")
    assert result.exit_code == 0, result.output
    return {item["log"]: item["records"] for item in json.loads(result.output)["logs"]}


@pytest.mark.parametrize("service", ["signer-hsm", "ca", "acme"])
def test_the_database_of_the_settings_is_read(tmp_path: Path, service: str) -> None:
    """Not the file in the default place, which an earlier setting may have left there."""
    root = tmp_path / "pki"
    log(root / service / f"{service}.sqlite3", "left.over")
    settings(root, service, log(tmp_path / "elsewhere" / "log.db", "first", "second"))
    assert records(root) == {service: 2}
    exported = ztca("audit", "export", "--dir", str(root), "--service", service)
    assert [json.loads(line)["event"] for line in exported.output.splitlines()] == ["first", "second"]


def test_a_copy_is_read_and_not_its_original(tmp_path: Path) -> None:
    """The settings of a backup name the place that it was made of."""
    root, copy = tmp_path / "pki", tmp_path / "copy"
    settings(root, "ca", log(root / "ca" / "ca.sqlite3", "first"))
    shutil.copytree(root, copy)
    log(root / "ca" / "ca.sqlite3", "later")
    assert (records(copy), records(root)) == ({"ca": 1}, {"ca": 2})


def test_a_state_directory_elsewhere_is_no_move(tmp_path: Path) -> None:
    """Where state and database are both outside the directory, they are read there."""
    root, state = tmp_path / "pki", tmp_path / "var" / "signer-hsm"
    settings(root, "signer-hsm", log(state / "signer-hsm.sqlite3", "first"), state)
    (root / "signer-hsm").rmdir()
    assert records(root) == {"signer-hsm": 1}


def test_a_log_that_is_gone_is_missed(tmp_path: Path) -> None:
    """Checkpoints without their database are a broken log; before a service's first start there are neither."""
    root = tmp_path / "pki"
    settings(root, "ca", log(root / "ca" / "ca.sqlite3", "first"))
    settings(root, "acme", f"sqlite:///{root}/acme/acme.sqlite3")
    assert records(root) == {"ca": 1}
    (root / "acme" / "audit-checkpoints.jsonl").touch()
    result = ztca("audit", "verify", str(root))
    assert result.exit_code == 1
    assert "acme: its log has checkpoints, and its database is gone" in result.output
    assert ztca("audit", "export", "--dir", str(root)).exit_code == 0


def test_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does for the service."""
    root = tmp_path / "pki"
    settings(root, "signer-hsm", f"sqlite:///{root}/signer-hsm/signer-hsm.sqlite3")
    url = log(tmp_path / "other.db", "first")
    monkeypatch.setenv("PQCPKI_SIGNER_HSM_DATABASE_URL", url)
    assert records(root) == {"signer-hsm": 1}
