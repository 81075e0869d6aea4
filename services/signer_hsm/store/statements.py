"""Every statement of signer-hsm, compiled once for the life of the process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from services.chassis.database import Prepared, Statement
from services.signer_hsm.catalogue import GONE
from services.signer_hsm.schema import approvals, changes, idempotency, key_versions, keys, policies

Prepare: TypeAlias = Callable[[Statement], Prepared]
_CHANGES: Final = 1


class KeyStatements:
    """Keys, versions, and the counter of their changes."""

    def __init__(self, prepare: Prepare) -> None:
        self.count_change = prepare(
            sa.update(changes).where(changes.c.id == _CHANGES).values(counter=changes.c.counter + 1)
        )
        self.counter = prepare(sa.select(changes.c.counter).where(changes.c.id == _CHANGES))
        self.changed_keys = prepare(sa.select(keys).where(keys.c.changed > sa.bindparam("after")))
        self.changed_versions = prepare(
            sa.select(key_versions)
            .join_from(key_versions, keys, keys.c.id == key_versions.c.key)
            .where(keys.c.changed > sa.bindparam("after"))
        )
        self.insert_key = prepare(_insert_key())
        self.redefine_key = prepare(
            _update_key(
                backend=sa.bindparam("to_backend", type_=sa.Text), algorithm=sa.bindparam("to_algorithm", type_=sa.Text)
            ).where(keys.c.current == 0)
        )
        self.touch_key = prepare(_update_key(current=keys.c.current))
        self.set_current = prepare(_update_key(current=sa.bindparam("to_current", type_=sa.BigInteger)))
        self.insert_version = prepare(_insert_version())
        self.complete_version = prepare(
            _update_version("handle", "public_key", "kinds", "schemes", "evidence", "state").where(
                key_versions.c.state == "creating"
            )
        )
        self.set_state = prepare(
            _update_version("state").where(key_versions.c.state == sa.bindparam("from_state", type_=sa.Text))
        )
        self.set_destruction = prepare(
            _update_version("state", "destruction").where(key_versions.c.state == "destroying")
        )
        self.set_attestation = prepare(_update_version("attestation"))


class ClaimStatements:
    """Idempotency keys."""

    def __init__(self, prepare: Prepare) -> None:
        self.take = prepare(_insert(idempotency))
        self.find = prepare(sa.select(idempotency).where(*_place()))
        self.settle = prepare(
            sa.update(idempotency)
            .where(*_place(), idempotency.c.state == "pending")
            .values(
                state=sa.bindparam("to_state", type_=sa.Text), answer=sa.bindparam("to_answer", type_=sa.LargeBinary)
            )
        )
        self.free = prepare(sa.delete(idempotency).where(*_place(), idempotency.c.state == "pending"))
        self.forget = prepare(sa.delete(idempotency).where(idempotency.c.at < sa.bindparam("before")))


class PolicyStatements:
    """Approvals and policies."""

    def __init__(self, prepare: Prepare) -> None:
        self.forget_approvals = prepare(sa.delete(approvals).where(approvals.c.expires_at < sa.bindparam("before")))
        self.insert_approval = prepare(_insert(approvals))
        self.use_approval = prepare(
            sa.update(approvals)
            .where(approvals.c.id == sa.bindparam("of"), approvals.c.consumed_at.is_(None))
            .values(consumed_at=sa.bindparam("now", type_=sa.BigInteger))
        )
        self.approvals = prepare(
            sa.select(approvals)
            .where(
                approvals.c.tenant == sa.bindparam("of_tenant"),
                approvals.c.expires_at > sa.bindparam("now"),
                approvals.c.consumed_at.is_(None),
            )
            .order_by(approvals.c.approved_at, approvals.c.id)
        )
        self.insert_policy = prepare(_insert(policies))
        self.newest_policy = prepare(sa.select(policies).order_by(policies.c.version.desc()).limit(1))


def _insert(table: sa.Table) -> sa.Insert:
    return sa.insert(table).values({column.name: sa.bindparam(column.name) for column in table.c})


def _present_counter() -> sa.ScalarSelect[int]:
    return sa.select(changes.c.counter).where(changes.c.id == _CHANGES).scalar_subquery()


def _insert_key() -> sa.Insert:
    """Insert a key unless the tenant has `most` already; the change counter's row makes writers wait for each other."""
    alive = (
        sa.select(sa.func.count(sa.distinct(keys.c.id)))
        .join_from(keys, key_versions, key_versions.c.key == keys.c.id)
        .where(
            keys.c.tenant == sa.bindparam("tenant", type_=sa.Text),
            key_versions.c.state.not_in(sorted(GONE)),
        )
        .scalar_subquery()
    )
    columns = [column for column in keys.c if column is not keys.c.changed]
    row = sa.select(*_values(columns), _present_counter()).where(alive < _most())
    return sa.insert(keys).from_select([*columns, keys.c.changed], row)


def _insert_version() -> sa.Insert:
    """Insert a version unless its key has `most` already."""
    alive = (
        sa.select(sa.func.count())
        .where(
            key_versions.c.key == sa.bindparam("key", type_=sa.Text),
            key_versions.c.state.not_in(sorted(GONE)),
        )
        .scalar_subquery()
    )
    columns = list(key_versions.c)
    return sa.insert(key_versions).from_select(columns, sa.select(*_values(columns)).where(alive < _most()))


def _values(columns: Iterable[sa.Column[Any]]) -> list[sa.BindParameter[Any]]:
    return [sa.bindparam(column.name, type_=column.type) for column in columns]


def _most() -> sa.BindParameter[int]:
    return sa.bindparam("most", type_=sa.BigInteger)


def _update_key(**values: object) -> sa.Update:
    return sa.update(keys).where(keys.c.id == sa.bindparam("of")).values(changed=_present_counter(), **values)


def _update_version(*names: str) -> sa.Update:
    columns = {name: sa.bindparam(name, type_=key_versions.c[name].type) for name in names}
    return (
        sa.update(key_versions)
        .where(
            key_versions.c.key == sa.bindparam("of", type_=sa.Text),
            key_versions.c.version == sa.bindparam("of_version", type_=sa.BigInteger),
        )
        .values(columns)
    )


def _place() -> tuple[sa.ColumnElement[bool], ...]:
    return (
        idempotency.c.caller == sa.bindparam("of_caller"),
        idempotency.c.tenant == sa.bindparam("of_tenant"),
        idempotency.c.idempotency_key == sa.bindparam("of_key"),
    )
