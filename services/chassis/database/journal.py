"""The audit log's tables, and how records are chained inside a transaction.

`audit_head` has the chain's end (row 1) and, once records have been archived, where the database's part of it begins
(row 2): the last record that left for an archive. What is still there of records up to it goes next.

The head row is read under a lock at the end of a transaction, so that several processes may share one PostgreSQL
database, write one chain, and wait for each other as briefly as can be.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.engine.interfaces import Dialect

from pkicore.audit import GENESIS, ChainHead, append
from pkicore.encoding import canonical_json
from services.chassis.database.statement import AuditEvent, Prepared

_HEAD_ID = 1
_BASE_ID = 2


class AuditTables(NamedTuple):
    """The two tables of the audit log."""

    log: Table
    head: Table


def audit_tables(metadata: MetaData) -> AuditTables:
    """Adds the audit log's tables to a service's schema."""
    log = Table(
        "audit_log",
        metadata,
        Column("sequence", BigInteger, primary_key=True, autoincrement=False),
        Column("at", BigInteger, nullable=False),
        Column("event", Text, nullable=False),
        Column("actor", Text, nullable=False),
        Column("detail", Text, nullable=False),
        Column("hash", LargeBinary, nullable=False),
    )
    head = Table(
        "audit_head",
        metadata,
        Column("id", BigInteger, primary_key=True, autoincrement=False),
        Column("sequence", BigInteger, nullable=False),
        Column("hash", LargeBinary, nullable=False),
    )
    return AuditTables(log, head)


_LOG, _HEAD = audit_tables(MetaData())

SELECT_HEAD = select(_HEAD.c.sequence, _HEAD.c.hash).where(_HEAD.c.id == _HEAD_ID).with_for_update()
INSERT_HEAD = insert(_HEAD).values(id=_HEAD_ID, sequence=GENESIS.sequence, hash=GENESIS.hash)
UPDATE_HEAD = (
    update(_HEAD).where(_HEAD.c.id == _HEAD_ID).values(sequence=bindparam("to_sequence"), hash=bindparam("to_hash"))
)
INSERT_RECORD = insert(_LOG)
SELECT_RECORDS = (
    select(_LOG)
    .where(_LOG.c.sequence > bindparam("after"), _LOG.c.sequence <= bindparam("to"))
    .order_by(_LOG.c.sequence)
)
SELECT_RECORD = select(_LOG).where(_LOG.c.sequence == bindparam("of"))
SELECT_FIRST = select(func.min(_LOG.c.sequence, type_=BigInteger).label("sequence"))
DELETE_RECORDS = delete(_LOG).where(_LOG.c.sequence <= bindparam("to"))
SELECT_BASE = select(_HEAD.c.sequence, _HEAD.c.hash).where(_HEAD.c.id == _BASE_ID)
INSERT_BASE = insert(_HEAD).values(id=_BASE_ID, sequence=bindparam("to_sequence"), hash=bindparam("to_hash"))
UPDATE_BASE = (
    update(_HEAD)
    .where(_HEAD.c.id == _BASE_ID, _HEAD.c.sequence == bindparam("from_sequence"))
    .values(sequence=bindparam("to_sequence"), hash=bindparam("to_hash"))
)
SELECT_PRESENT_HEAD = select(_HEAD.c.sequence, _HEAD.c.hash).where(_HEAD.c.id == _HEAD_ID)


class AuditStatements:
    """The statements of one engine that write the log."""

    def __init__(self, dialect: Dialect) -> None:
        self.select_head = Prepared(SELECT_HEAD, dialect)
        self.insert_head = Prepared(INSERT_HEAD, dialect)
        self.update_head = Prepared(UPDATE_HEAD, dialect)
        self.insert_record = Prepared(INSERT_RECORD, dialect)


def chain_events(head: ChainHead, events: Sequence[AuditEvent], at: int) -> tuple[ChainHead, list[dict[str, Any]]]:
    """Chains events to a head.

    Returns:
        The new head and the rows to insert into `audit_log`.
    """
    rows = []
    for event in events:
        stored = append(head, at, event.event, event.actor, event.detail)
        detail = canonical_json(event.detail).decode()
        rows.append({**stored.record._asdict(), "detail": detail, "hash": stored.hash})
        head = stored.head
    return head, rows
