"""`ztca audit`: which database holds the log of which service."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.clock import SystemClock
from services.ca.app import MIGRATIONS
from services.ca.cli.main import main
from services.ca.toml_text import lines
from services.chassis.audit import Archiver, ArchiveRules, Checkpointer
from services.chassis.database import AuditEvent, Unit
from tests.support.console import ROOT
from tests.support.databases import opened
from tests.support.migrated import migrated
from tests.support.pki import MemoryKey


def log(file: Path, *events: str) -> str:
    """A database with these records; its URL."""
    file.parent.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{file}"
    asyncio.run(_fill(url, events))
    return url


async def _fill(url: str, events: tuple[str, ...]) -> None:
    await migrated(url, MIGRATIONS)
    async with opened(url, SystemClock()) as database:
        await database.commit(Unit("test", [], [AuditEvent(event, "tester", {}) for event in events]))


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


class Deployed:
    """A CA's log of 30 records: 1 to 25 in archives, a checkpoint over all, the key in trust/."""

    def __init__(self, root: Path) -> None:
        """Made as a service would."""
        self.root = root
        self.ca = root / "ca"
        self.key = MemoryKey.generate("ml-dsa-44")
        self.public_key = root / "trust" / "audit" / "ca.pem"
        self.database = self.ca / "ca.sqlite3"
        self.archives = self.ca / "audit-archive"
        self.checkpoints = self.ca / "audit-checkpoints.jsonl"
        url = log(self.database, *(f"event.{number}" for number in range(29)))
        settings(root, "ca", url)
        self.public_key.parent.mkdir(parents=True)
        public = self.key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.public_key.write_bytes(public)
        asyncio.run(self._archived(url))

    async def _archived(self, url: str) -> None:
        async with opened(url, SystemClock()) as database:
            rules = ArchiveRules(self.archives, above_records=8)
            for _ in range(2):
                await Archiver(database, self.key, rules, SystemClock()).once()
            await Checkpointer(database, self.key, self.checkpoints, SystemClock()).write()

    @property
    def archive(self) -> Path:
        """The one archive."""
        (path,) = self.archives.iterdir()
        return path


@pytest.fixture
def deployed(tmp_path: Path) -> Deployed:
    """One deployment."""
    return Deployed(tmp_path / "pki")


def verified(*arguments: str | Path, status: int = 0) -> dict[str, Any]:
    """What `ztca audit verify --json` says of one log."""
    result = ztca("audit", "verify", "--json", *map(str, arguments))
    assert result.exit_code == status, result.output
    value = json.loads(result.stdout)
    assert value["intact"] == (status == 0)
    (found,) = value["logs"]
    return dict(found)


def test_every_form_of_a_log_verifies_by_itself(deployed: Deployed, tmp_path: Path) -> None:
    """Directory, archives, one archive, database, export: with the key and the checkpoints nothing is left open."""
    export = tmp_path / "export.jsonl"
    export.write_bytes(ztca("audit", "export", "--dir", str(deployed.root)).stdout_bytes)
    signed = ("--key", deployed.public_key, "--checkpoints", deployed.checkpoints)
    assert verified(deployed.root)["notices"] == []
    assert verified(export, *signed)["notices"] == []
    assert [verified(path)["records"] for path in (deployed.root, export, deployed.database)] == [30, 30, 30]
    elsewhere = verified(deployed.database, *signed)["notices"]
    assert elsewhere == ["records 1 to 25 are in archives, which were not looked at"]
    for path in (deployed.archives, deployed.archive):
        found = verified(path, "--key", deployed.public_key)
        assert (found["records"], found["error"]) == (25, None)
    unsigned = verified(deployed.archive)["notices"]
    assert unsigned[0].startswith("the signature of the archive of records 1 to 25 was not verified")


def test_a_moved_archive_directory_is_found(deployed: Deployed, tmp_path: Path) -> None:
    """Where the settings say, or the environment; not found is missing."""
    elsewhere = tmp_path / "archives"
    shutil.move(deployed.archives, elsewhere)
    assert verified(deployed.root, status=1)["error"]["sequence"] == 1
    path = deployed.root / "config" / "ca.toml"
    path.write_text(path.read_text() + lines({"audit_archive_dir": elsewhere}))
    assert verified(deployed.root)["records"] == 30


@pytest.mark.parametrize(
    ("damage", "sequence", "sentence"),
    [
        ("DELETE FROM audit_log WHERE sequence = 30", 30, "record 30 is missing"),
        ("DELETE FROM audit_log WHERE sequence = 28", 28, "record 28 is missing: 29 stands in its place"),
        ("UPDATE audit_log SET actor = 'nobody' WHERE sequence = 27", 27, "record 27 was changed"),
        ("UPDATE audit_log SET at = 'late' WHERE sequence = 27", 27, "its at is no int"),
        ("DELETE FROM audit_head WHERE id = 2", 1, "record 1 is missing: 26 stands in its place"),
        ("UPDATE audit_head SET sequence = 24 WHERE id = 2", 26, "record 26 is missing: records up to 24"),
        ("UPDATE audit_head SET hash = zeroblob(32) WHERE id = 1", 30, "record 30 is not the one that the head"),
        ("UPDATE audit_head SET hash = 'text' WHERE id = 1", None, "the head of the log was changed"),
        ("DELETE FROM audit_head WHERE id = 1", 30, "the head of the log is gone"),
    ],
    ids=["tail", "middle", "changed", "type", "base", "other-base", "head", "no-hash", "no-head"],
)
def test_the_first_bad_record_is_named(deployed: Deployed, damage: str, sequence: int | None, sentence: str) -> None:
    """By its number and in words, on standard error and in JSON, with exit status 1."""
    with sqlite3.connect(deployed.database) as database:
        database.execute(damage)
    database.close()
    found = verified(deployed.root, status=1)
    assert sentence in found["error"]["reason"]
    assert (found["error"]["sequence"], found["error"]["checked"]) == (sequence, True)
    spoken = ztca("audit", "verify", str(deployed.root))
    assert f"ztca: ca: {found['error']['reason']}" in spoken.stderr


def test_one_broken_log_does_not_hide_another(deployed: Deployed) -> None:
    """All logs of a directory are verified, and each is told of."""
    settings(deployed.root, "acme", log(deployed.root / "acme" / "acme.sqlite3", "first"))
    deployed.archive.write_bytes(b"no archive")
    result = ztca("audit", "verify", str(deployed.root))
    assert result.exit_code == 1
    assert "acme: 1 records, unbroken." in result.stdout
    assert "no checkpoints: records missing at the end would not show" in result.stdout
    assert "ca: audit-000000000001-000000000025.jsonl.gz is damaged, or not gzip'd" in result.stderr


def test_nothing_of_a_log_is_missed_like_all_of_it(deployed: Deployed) -> None:
    """A cut tail without checkpoints, and a log that is gone with them, are broken; a database alone has a notice."""
    deployed.checkpoints.unlink()
    error = verified(deployed.root, status=1)["error"]
    assert (error["checked"], "30 records, and no checkpoint" in error["reason"]) == (True, True)
    assert verified(deployed.database)["notices"]
    settings(deployed.root, "acme", log(deployed.root / "acme" / "acme.sqlite3"))
    deployed.database.unlink()
    result = ztca("audit", "verify", str(deployed.root))
    assert (result.exit_code, result.stdout) == (1, "acme: 0 records, unbroken.\n")
    assert "ca: its database and its checkpoints are gone" in result.stderr
    (deployed.root / "acme" / "acme.sqlite3").unlink()
    assert "are gone" in verified(deployed.root, status=1)["error"]["reason"]
    assert "there is no audit log" in ztca("audit", "export", "--dir", str(deployed.root)).output


def test_a_first_checkpoint_is_waited_for(deployed: Deployed) -> None:
    """A service that has just begun signs within a second."""
    whole = deployed.checkpoints.read_bytes()
    deployed.checkpoints.unlink()
    timer = Timer(0.5, deployed.checkpoints.write_bytes, (whole,))
    timer.start()
    assert verified(deployed.root)["notices"] == []
    timer.join()


def test_a_service_that_was_never_started_is_said(deployed: Deployed) -> None:
    """It has settings and a key, and neither a database nor checkpoints."""
    settings(deployed.root, "acme", f"sqlite:///{deployed.root}/acme/acme.sqlite3")
    shutil.copy(deployed.public_key, deployed.public_key.with_name("acme.pem"))
    result = ztca("audit", "verify", str(deployed.root))
    assert (
        result.exit_code,
        "it has neither a database nor checkpoints, as before its first start" in result.stdout,
    ) == (0, True)


def test_an_empty_log_is_whole(deployed: Deployed) -> None:
    """Before its first record there is nothing that a checkpoint could vouch for."""
    settings(deployed.root, "acme", log(deployed.root / "acme" / "acme.sqlite3"))
    result = ztca("audit", "verify", str(deployed.root))
    assert (result.exit_code, "acme: 0 records, unbroken.\nca: 30 records" in result.stdout) == (0, True)


def test_a_torn_checkpoint_is_said(deployed: Deployed) -> None:
    """Half a line of a crash does not count, and is not passed over in silence."""
    whole = deployed.checkpoints.read_bytes()
    deployed.checkpoints.write_bytes(whole + whole[:40])
    (notice,) = verified(deployed.root)["notices"]
    assert notice.startswith("the last line of audit-checkpoints.jsonl is unfinished (40 octets)")
    deployed.checkpoints.write_bytes(whole[:-40])
    found = verified(deployed.root, status=1)
    assert "30 records, and no checkpoint" in found["error"]["reason"]
    assert "unfinished" in found["notices"][0]


def test_another_services_key_is_not_this_ones(deployed: Deployed) -> None:
    """Checkpoints and archives of one service do not pass for another's."""
    other = MemoryKey.generate("ml-dsa-44").public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    deployed.public_key.write_bytes(other)
    assert "not signed by the audit key" in verified(deployed.root, status=1)["error"]["reason"]
    assert (
        "not signed by the audit key"
        in verified(deployed.archive, "--key", deployed.public_key, status=1)["error"]["reason"]
    )


@pytest.mark.parametrize(
    ("content", "status", "sentence"),
    [
        (b"", 1, "holds no record"),
        (b"hello\n", 1, "line 1 is not JSON"),
        (b"{}\n", 1, "exactly the fields"),
        (b"\x1f\x8bnot gzip", 1, "not gzip'd"),
        (b"\0" * (3 << 20), 1, "longer than"),
        (b"SQLite format 3\0 and no more", 2, "database"),
        (None, 1, "there is no"),
    ],
    ids=["empty", "text", "json", "gzip", "huge", "sqlite", "missing"],
)
def test_a_file_that_is_no_audit_log_is_refused(
    tmp_path: Path, content: bytes | None, status: int, sentence: str
) -> None:
    """1 for a log that is broken or not there, 2 for one that could not be checked; always a sentence."""
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    error = verified(path, status=status)["error"]
    assert sentence in error["reason"]
    assert error["checked"] == (status == 1 and content is not None)


def test_a_database_without_a_log_could_not_be_checked(tmp_path: Path) -> None:
    """Its tables are another program's."""
    with sqlite3.connect(tmp_path / "other.sqlite3") as database:
        database.execute("CREATE TABLE other (id)")
    database.close()
    assert "audit_head" in verified(tmp_path / "other.sqlite3", status=2)["error"]["reason"]
    assert ztca("audit", "verify", str(tmp_path / "nothing"), "--key", str(tmp_path / "no-key")).exit_code == 1


@pytest.mark.parametrize("content", [b"not a database", b""], ids=["other", "empty"])
def test_a_copy_from_anywhere_touches_nothing_outside(deployed: Deployed, tmp_path: Path, content: bytes) -> None:
    """A link in the place of the database: neither content nor mode nor neighbours of what it leads to change."""
    target = tmp_path / "outside" / "important.conf"
    target.parent.mkdir()
    target.write_bytes(content)
    target.chmod(0o644)
    deployed.database.unlink()
    deployed.database.symlink_to(target)
    assert "database" in verified(deployed.root, status=2)["error"]["reason"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]


def test_a_linked_database_is_verified(deployed: Deployed, tmp_path: Path) -> None:
    """A database on another disk: a copy of it is read."""
    shutil.move(deployed.database, tmp_path / "elsewhere.sqlite3")
    deployed.database.symlink_to(tmp_path / "elsewhere.sqlite3")
    assert verified(deployed.root)["records"] == 30


@pytest.mark.parametrize("place", ["archive", "checkpoints", "database"])
def test_a_pipe_is_not_waited_for(deployed: Deployed, place: str) -> None:
    """A named pipe in the place of a file would hold a verifier for ever."""
    path: Path = getattr(deployed, place)
    path.unlink()
    os.mkfifo(path)
    status = 2 if place == "database" else 1
    assert "no plain file" in verified(deployed.root, status=status)["error"]["reason"]


def test_a_copy_that_cannot_be_written_is_verified(deployed: Deployed, tmp_path: Path) -> None:
    """On a medium that is read-only, with what is only in the write-ahead log; nothing of it changes."""
    copy = tmp_path / "copy"
    keeps_wal_open = sqlite3.connect(deployed.database)
    keeps_wal_open.execute("SELECT count(*) FROM audit_log").fetchone()
    log(deployed.database, "later")
    shutil.copytree(deployed.root, copy)
    keeps_wal_open.close()
    assert (copy / "ca" / "ca.sqlite3-wal").stat().st_size > 0
    command = [sys.executable, "-c", "from services.ca.cli import main; main()", "audit", "verify", str(copy), "--json"]
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" || exit 99; "$@"'
    done = subprocess.run(
        ["unshare", "-r", "-m", "sh", "-c", script, str(copy), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"not run: nothing can be mounted read-only here ({done.stderr.strip()[:200]})")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["logs"][0]["records"] == 31


def test_who_has_read_enough_ends_an_export_quietly(tmp_path: Path) -> None:
    """As `ztca audit export | head -1`: nothing is said, and the scan's connection is closed."""
    root = tmp_path / "pki"
    settings(root, "ca", log(root / "ca" / "ca.sqlite3", *["some.event"] * 1500))
    command = [sys.executable, "-c", "from services.ca.cli import main; main()", "audit", "export", "--dir", str(root)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as export:
        assert export.stdout is not None
        assert export.stderr is not None
        export.stdout.readline()
        export.stdout.close()
        assert export.stderr.read() == b""
