"""A transparency log in a service's database: appended to in groups, signed as checkpoints, served as tiles.

    log = await TileLog.open(database, tlog_tables(metadata, "ct"), key=signing_key, origin="example.org/ct")
    entry = await log.append(b"...")        # durable, at entry.index
    proof = await log.proof(entry.index)    # waits for a checkpoint that covers it

What is promised: an index is given once, a checkpoint is signed for what is durable and never for less, and no two
checkpoints that contradict each other are signed, whoever is killed when, and whoever else writes the same tables; nor
after a backup was restored, where `kept` names a file for the last checkpoint.
`pkicore.tlog` has the formats.
"""

from services.chassis.tlog.checkpoints import SignedCheckpoint
from services.chassis.tlog.errors import (
    EntryTooLargeError,
    ForkedLogError,
    LogContendedError,
    NoEntryError,
    RenamedLogError,
    TileLogError,
)
from services.chassis.tlog.log import InclusionProof, TileLog
from services.chassis.tlog.read import log_routes
from services.chassis.tlog.schema import LogTables, tlog_tables
from services.chassis.tlog.tree import Entry, EntryAt

__all__ = [
    "Entry",
    "EntryAt",
    "EntryTooLargeError",
    "ForkedLogError",
    "InclusionProof",
    "LogContendedError",
    "LogTables",
    "NoEntryError",
    "RenamedLogError",
    "SignedCheckpoint",
    "TileLog",
    "TileLogError",
    "log_routes",
    "tlog_tables",
]
