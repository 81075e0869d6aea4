"""Every statement of the signing service, compiled once for the life of the process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import sqlalchemy as sa

from services.chassis.database import Prepared, Statement
from services.signing.schema import (
    api_keys,
    artefacts,
    counters,
    found_by,
    idempotency,
    policies,
    signatures,
)

Prepare: TypeAlias = Callable[[Statement], Prepared]


class SignatureStatements:
    """Signatures, what they are found by, what is served of them, and idempotency keys."""

    def __init__(self, prepare: Prepare) -> None:
        self.insert = prepare(_insert(signatures))
        self.insert_found_by = prepare(_insert(found_by))
        self.insert_artefact = prepare(_insert(artefacts))
        self.insert_claim = prepare(_insert(idempotency))
        self.find = prepare(sa.select(signatures).where(*_of_tenant(signatures), signatures.c.id == _text("of")))
        self.artefact = prepare(
            sa.select(artefacts)
            .join_from(artefacts, signatures, signatures.c.id == artefacts.c.signature)
            .where(*_of_tenant(signatures), signatures.c.id == _text("of"), artefacts.c.name == _text("of_name"))
        )
        self.artefacts = prepare(
            sa.select(artefacts).where(artefacts.c.signature == _text("of")).order_by(artefacts.c.name)
        )
        self.page = prepare(
            sa.select(signatures)
            .where(*_of_tenant(signatures), signatures.c.id < _text("before"))
            .order_by(signatures.c.id.desc())
            .limit(_number("most"))
        )
        self.page_found_by = prepare(_page_found_by(1))
        self.page_found_by_both = prepare(_page_found_by(2))
        self.claim = prepare(
            sa.select(idempotency).where(
                *_of_tenant(idempotency),
                idempotency.c.caller == _text("of_caller"),
                idempotency.c.idempotency_key == _text("of_key"),
            )
        )
        self.forget_claims = prepare(sa.delete(idempotency).where(idempotency.c.at < _number("before")))
        self.octets_since = prepare(
            sa.select(sa.func.coalesce(sa.func.sum(artefacts.c.size), 0).label("octets"))
            .join_from(signatures, artefacts, signatures.c.id == artefacts.c.signature)
            .where(*_of_tenant(signatures), signatures.c.id >= _text("since"))
        )
        self.object_used = prepare(
            sa.select(artefacts.c.sha256)
            .where(artefacts.c.sha256 == _text("of"), artefacts.c.content.is_(None))
            .limit(1)
        )


class CallerStatements:
    """API keys."""

    def __init__(self, prepare: Prepare) -> None:
        self.insert = prepare(_insert(api_keys))
        self.find = prepare(sa.select(api_keys).where(api_keys.c.id == _text("of")))
        self.of_tenant = prepare(
            sa.select(api_keys)
            .where(*_of_tenant(api_keys))
            .order_by(api_keys.c.created_at.desc(), api_keys.c.id)
            .limit(_number("most"))
        )
        self.revoke = prepare(
            sa.update(api_keys)
            .where(*_of_tenant(api_keys), api_keys.c.id == _text("of"), api_keys.c.revoked_at.is_(None))
            .values(revoked_at=_number("now"))
        )
        self.revoke_made_by = prepare(
            sa.update(api_keys)
            .where(api_keys.c.id.in_(_made_with(_text("of"))), api_keys.c.revoked_at.is_(None))
            .values(revoked_at=_number("now"))
        )
        self.hold_makers = prepare(
            sa.update(api_keys).where(api_keys.c.id.in_(_makers(_text("of")))).values(revoked_at=api_keys.c.revoked_at)
        )
        self.hold_maker = prepare(
            sa.update(api_keys)
            .where(
                *_of_tenant(api_keys),
                api_keys.c.id == _text("of"),
                api_keys.c.revoked_at.is_(None),
                api_keys.c.expires_at >= _number("ends"),
            )
            .values(revoked_at=api_keys.c.revoked_at)
        )
        self.used = prepare(
            sa.update(api_keys).where(api_keys.c.id == _text("of")).values(last_used_at=_number("used_at"))
        )


class PolicyStatements:
    """Sets of policies that were in force, and numbers that never repeat."""

    def __init__(self, prepare: Prepare) -> None:
        self.insert = prepare(_insert(policies))
        self.newest = prepare(sa.select(policies).order_by(policies.c.version.desc()).limit(1))
        self.by_hash = prepare(
            sa.select(policies).where(policies.c.sha256 == _text("of")).order_by(policies.c.version.desc()).limit(1)
        )
        self.counter = prepare(sa.select(counters.c.value).where(counters.c.name == _text("of")))
        self.insert_counter = prepare(_insert(counters))
        self.add = prepare(
            sa.update(counters).where(counters.c.name == _text("of")).values(value=counters.c.value + _number("more"))
        )
        self.advance = prepare(
            sa.update(counters)
            .where(counters.c.name == _text("of"), counters.c.value == _number("found"))
            .values(value=_number("to_value"))
        )


def _insert(table: sa.Table) -> sa.Insert:
    return sa.insert(table).values({column.name: sa.bindparam(column.name) for column in table.c})


def _of_tenant(table: sa.Table) -> tuple[sa.ColumnElement[bool]]:
    return (table.c.tenant == _text("of_tenant"),)


def _made_with(key_id: sa.BindParameter[str]) -> sa.Select[tuple[object, ...]]:
    """The ids of all API keys that were made with one, or with one of those."""
    family = sa.select(api_keys.c.id).where(api_keys.c.made_by == key_id).cte("family", recursive=True)
    return sa.select(family.union(sa.select(api_keys.c.id).where(api_keys.c.made_by == family.c.id)).c.id)


def _makers(key_id: sa.BindParameter[str]) -> sa.Select[tuple[object, ...]]:
    """The ids of an API key, of the one that it was made with, and so on."""
    makers = sa.select(api_keys.c.id, api_keys.c.made_by).where(api_keys.c.id == key_id).cte("makers", recursive=True)
    above = sa.select(api_keys.c.id, api_keys.c.made_by).where(api_keys.c.id == makers.c.made_by)
    return sa.select(makers.union(above).c.id)


def _page_found_by(names: int) -> sa.Select[tuple[object, ...]]:
    """Signatures of a tenant that are found by one name (`what`), or by two (`what` and `what_else`)."""
    statement = sa.select(signatures)
    for number, name in enumerate(("what", "what_else")[:names]):
        index = found_by.alias(f"index_{number}")
        statement = statement.join(
            index,
            sa.and_(
                index.c.signature == signatures.c.id,
                index.c.tenant == _text("of_tenant"),
                index.c.what == _text(name),
                index.c.signature < _text("before"),
            ),
        )
    return statement.where(*_of_tenant(signatures)).order_by(signatures.c.id.desc()).limit(_number("most"))


def _text(name: str) -> sa.BindParameter[str]:
    return sa.bindparam(name, type_=sa.Text)


def _number(name: str) -> sa.BindParameter[int]:
    return sa.bindparam(name, type_=sa.BigInteger)
