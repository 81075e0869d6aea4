"""What goes wrong around a database: killed processes, full disks, held locks, lost servers."""

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import bindparam, func, insert, literal_column, select, update

from services.chassis.audit import verify_audit
from services.chassis.database import AuditEvent, Database, Unit, Write
from services.chassis.errors import SettingsError, UnavailableError
from services.chassis.migrations import migrate
from tests.support.clock import ManualClock
from tests.support.databases import BOOKS, create_schema, opened
from tests.support.fork_server import fork_server
from tests.support.postgres import PostgresMissingError, PostgresServer

ROOT = Path(__file__).parents[2]


def add(database: Database, number: int, state: str = "new") -> Unit:
    """A book with its audit record."""
    params = {"id": number, "shelf": None, "state": state, "cover": None}
    return Unit(f"add-{number}", [Write(database.prepare(insert(BOOKS)), params, 1)], [AuditEvent("add", "t", {})])


async def books(database: Database) -> set[int]:
    """The ids of all books."""
    return {row["id"] for row in await database.fetch_all(database.prepare(select(BOOKS.c.id)))}


DOOMED = """
import asyncio, os, signal, sys
from tests.contract.test_database_faults import add
from tests.support.clock import ManualClock
from tests.support.databases import opened

url, moment, victim = sys.argv[1:]

def observe(when, label):
    if (when, label) == (moment, victim):
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with opened(url, ManualClock(), observe) as database:
        async def one(number):
            await database.commit(add(database, number))
            print(number, flush=True)
        await one(0)
        await asyncio.gather(*(one(number) for number in range(1, 6)))
        await one(6)

asyncio.run(main())
"""


@pytest.mark.parametrize("victim", [0, 3, 6], ids=["lone-first", "in-a-batch", "lone-last"])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_process_killed_around_a_commit_loses_nothing_that_was_acknowledged(
    url: str, moment: str, victim: int
) -> None:
    """SIGKILL before the commit leaves nothing of its batch, after it leaves all of it; the audit chain holds."""
    arguments = [DOOMED, url, moment, f"add-{victim}"]
    done = fork_server().run("-c", arguments, os.environ, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    acknowledged = {int(word) for word in done.stdout.split() if word.isdigit()}  # log lines stand between them
    async with opened(url, ManualClock()) as database:
        there = await books(database)
        assert acknowledged <= there
        assert (victim in there) == (moment == "after")
        assert there in ({*range(n)} for n in (0, 1, 6, 7))
        assert (await verify_audit(database, (), None)).sequence == len(there)
        await database.commit(add(database, 100))


@pytest.fixture
async def sqlite_url(tmp_path: Path) -> str:
    """A SQLite database with the schema."""
    url = f"sqlite:///{tmp_path}/faults.sqlite3"
    await create_schema(url)
    return url


@pytest.fixture
async def sqlite(sqlite_url: str) -> AsyncIterator[Database]:
    """The same, opened."""
    async with opened(sqlite_url, ManualClock()) as database:
        yield database


def path_of(url: str) -> Path:
    """The file of a SQLite URL."""
    return Path(url.removeprefix("sqlite:///"))


@contextlib.contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond `limit` bytes: writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_full_disk_fails_every_waiter_and_the_database_recovers(sqlite: Database, sqlite_url: str) -> None:
    """Nothing is half-done; when there is room again the same process writes on, without being told."""
    await sqlite.commit(add(sqlite, 1))
    size = os.path.getsize(f"{path_of(sqlite_url)}-wal")  # noqa: ASYNC240, PTH202 - a look, no wait
    with full_disk(size + 4096):
        big = "x" * 20_000
        results = await asyncio.gather(
            *(sqlite.commit(add(sqlite, n, big)) for n in range(2, 8)), return_exceptions=True
        )
    assert {type(result) for result in results} == {UnavailableError}
    assert await books(sqlite) == {1}
    await sqlite.commit(add(sqlite, 8))
    assert await books(sqlite) == {1, 8}
    assert (await verify_audit(sqlite, (), None)).sequence == 2


async def test_a_lock_held_by_another_process_is_waited_for_without_blocking_the_loop(
    sqlite: Database, sqlite_url: str
) -> None:
    """While another process writes, reads go on and the commit waits its turn."""
    other = sqlite3.connect(path_of(sqlite_url), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(sqlite.commit(add(sqlite, 1)))
    for _ in range(20):
        await asyncio.sleep(0.01)
        assert await books(sqlite) == set()
    assert not waiting.done()
    other.execute("ROLLBACK")
    other.close()
    await asyncio.wait_for(waiting, 2)
    assert await books(sqlite) == {1}


async def test_the_file_and_its_side_files_are_the_owners_alone(sqlite: Database, sqlite_url: str) -> None:
    """Nobody else on the machine reads accounts or audit records."""
    await sqlite.commit(add(sqlite, 1))
    for suffix in ("", "-wal", "-shm"):
        status = os.stat(f"{path_of(sqlite_url)}{suffix}")  # noqa: PTH116 - a look, no wait
        assert stat.S_IMODE(status.st_mode) & 0o077 == 0


async def test_commits_are_durable_in_the_wal(sqlite: Database) -> None:
    """The settings that durability hangs on are those of every connection that writes."""
    writer = sqlite._engine._writer  # type: ignore[attr-defined] # SQLite's engine; durability cannot be seen from outside
    pragmas = {
        name: writer.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "foreign_keys")
    }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


async def test_a_file_that_is_no_database_is_refused_at_the_start(tmp_path: Path) -> None:
    """The sentence names the file; what was in it is untouched."""
    path = tmp_path / "notes.txt"
    path.write_bytes(b"not a database, but long enough to be taken for a header" * 4)
    before = path.read_bytes()
    with pytest.raises(UnavailableError, match=r"notes\.txt"):
        await Database.open(f"sqlite:///{path}", clock=ManualClock())
    assert path.read_bytes() == before


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://x/y", "postgresql://host", "x"])
async def test_a_url_of_another_form_is_refused(url: str) -> None:
    """In-memory databases would lose what was acknowledged."""
    with pytest.raises(SettingsError, match="database_url"):
        await Database.open(url, clock=ManualClock())


@pytest.fixture
def mortal_postgres() -> Iterator[PostgresServer]:
    """A server of this test's own, that it may kill."""
    try:
        server = PostgresServer.start()
    except PostgresMissingError as error:
        pytest.skip(str(error))
    yield server
    server.stop()


async def test_a_server_that_dies_and_comes_back_is_used_again(mortal_postgres: PostgresServer) -> None:
    """While it is gone reads and writes fail with a typed error; afterwards both work, and nothing is lost."""
    url = mortal_postgres.new_database()
    await create_schema(url)
    async with opened(url, ManualClock()) as database:
        await database.commit(add(database, 1))
        mortal_postgres.kill()
        results = await asyncio.gather(*(database.commit(add(database, n)) for n in (2, 3)), return_exceptions=True)
        assert all(isinstance(result, UnavailableError) for result in results)
        with pytest.raises(UnavailableError):
            await books(database)
        await asyncio.to_thread(mortal_postgres.launch)
        await database.commit(add(database, 4))
        assert await books(database) == {1, 4}
        assert (await verify_audit(database, (), None)).sequence == 2


async def test_an_unreachable_server_is_named_without_its_password() -> None:
    """The sentence is fit for a log."""
    with pytest.raises(UnavailableError, match=r"cannot open the database") as caught:
        await Database.open("postgresql://baker:hunter2@127.0.0.1:1/x", clock=ManualClock())
    assert "hunter2" not in str(caught.value)


async def test_batches_that_lock_rows_crosswise_both_succeed(postgres: PostgresServer | None) -> None:
    """PostgreSQL ends a deadlock by failing one side; that batch is run again, and its callers never know."""
    if postgres is None:
        pytest.skip("not run: postgresql missing (apt-get install postgresql)")
    url = postgres.url()
    await create_schema(url)
    async with opened(url, ManualClock()) as one, opened(url, ManualClock()) as two:
        await one.commit(add(one, 1))
        await one.commit(add(one, 2))

        def crosswise(database: Database, order: tuple[int, int]) -> Unit:
            statement = update(BOOKS).where(BOOKS.c.id == bindparam("book")).values(state=bindparam("to"))
            touch = database.prepare(statement)
            pause = database.prepare(select(func.pg_sleep(literal_column("0.2")).is_(None)))
            first, last = order
            return Unit(
                "cross",
                [
                    Write(touch, {"book": first, "to": "x"}, 1),
                    Write(pause, {}),
                    Write(touch, {"book": last, "to": "x"}, 1),
                ],
            )

        began = asyncio.get_running_loop().time()
        await asyncio.gather(one.commit(crosswise(one, (1, 2))), two.commit(crosswise(two, (2, 1))))
        assert asyncio.get_running_loop().time() - began > 1  # PostgreSQL's deadlock_timeout: there was one


async def test_processes_that_start_together_migrate_postgresql_once(
    postgres: PostgresServer | None, tmp_path: Path
) -> None:
    """All but one wait at the advisory lock, and find nothing to do."""
    if postgres is None:
        pytest.skip("not run: postgresql missing (apt-get install postgresql)")
    versions = tmp_path / "versions"
    versions.mkdir()
    (versions / "0001_x.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\nrevision = '0001'\ndown_revision = None\n"
        "def upgrade():\n    op.create_table('loaves', sa.Column('name', sa.Text, primary_key=True))\n"
    )
    url = postgres.new_database()
    await asyncio.gather(*(migrate(url, tmp_path) for _ in range(4)))
