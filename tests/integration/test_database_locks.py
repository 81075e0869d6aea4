"""Another process that looks into a running service's database, as `ztca audit verify` and backups do."""

import subprocess
import sys
from pathlib import Path

import sqlalchemy as sa

from pkicore.clock import SystemClock
from services.chassis.database import Database, Unit, Write

METADATA = sa.MetaData()
LEDGER = sa.Table("ledger", METADATA, sa.Column("entry", sa.Text, primary_key=True))


VISIT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(*(entry for (entry,) in connection.execute("select entry from ledger")))
connection.close()
"""


def seen_by_another_process(path: Path) -> list[str]:
    """What a process sees that opens the file, reads and closes it; SQLite then tidies up if it thinks itself alone."""
    output = subprocess.run([sys.executable, "-c", VISIT, str(path)], capture_output=True, text=True, check=True)
    return output.stdout.split()


async def test_visitor_does_not_take_the_log_away(tmp_path: Path) -> None:
    """Commits after a visit are in the file that the next process opens, also when every kind of read came before."""
    path = tmp_path / "service.sqlite3"
    engine = sa.create_engine(f"sqlite:///{path}")
    METADATA.create_all(engine)
    engine.dispose()
    database = await Database.open(f"sqlite:///{path}", clock=SystemClock())
    insert = database.prepare(sa.insert(LEDGER).values(entry=sa.bindparam("entry")))
    everything = database.prepare(sa.select(LEDGER.c.entry))
    try:
        for entry in ("first", "second", "third"):
            await database.commit(Unit("entry", [Write(insert, {"entry": entry}, 1)]))
            assert len([row async for row in database.scan(everything)]) == len(await database.fetch_all(everything))
            assert entry in seen_by_another_process(path)
    finally:
        await database.close()
