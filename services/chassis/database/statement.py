"""Statements compiled once, and the units of writing built from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sqlalchemy import Delete, Insert, Integer, LargeBinary, Select, String, Update
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import NullType

from pkicore.encoding import canonical_json
from services.chassis.errors import InvalidValueError

Statement: TypeAlias = Select[Any] | Insert | Update | Delete
Row: TypeAlias = Mapping[str, Any]

_PORTABLE = (String, Integer, LargeBinary, NullType)  # BIGINT and TEXT are kinds of Integer and String


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement compiled for the database's dialect.

    Attributes:
        sql: Its text, with positional parameters.
        names: The parameters in their order.
        constants: Values that stand in the statement itself.
    """

    sql: str
    names: tuple[str, ...]
    constants: Mapping[str, Any]

    def bind(self, params: Mapping[str, Any]) -> tuple[Any, ...]:
        """Puts named values into the statement's order.

        Raises:
            KeyError: a parameter is missing.
        InvalidValueError: a text with NUL in it, which PostgreSQL cannot hold.
        """
        values = tuple([params[name] if name in params else self.constants[name] for name in self.names])
        for value in values:
            if type(value) is str and "\0" in value:
                raise InvalidValueError("a text cannot hold NUL")
        return values


def compile_statement(statement: Statement, dialect: Dialect) -> Prepared:
    """Compiles a statement once for the life of the process.

    Raises:
        TypeError: it uses a type, or a Python-side column default, that the two engines do not share.
    """
    compiled = statement.compile(dialect=dialect)
    if not isinstance(compiled, SQLCompiler):
        raise TypeError("only SELECT, INSERT, UPDATE and DELETE can be prepared")
    if compiled.insert_prefetch or compiled.update_prefetch:
        raise TypeError("column defaults are not applied here: give every value as a parameter")
    for name, bind in compiled.binds.items():
        if not isinstance(bind.type, _PORTABLE):
            raise TypeError(f"{name} is {bind.type!r}; use TEXT, BIGINT, INTEGER or BLOB columns")
    required = {name for name, bind in compiled.binds.items() if bind.required}
    values = {name: None if bind.required else bind.effective_value for name, bind in compiled.binds.items()}
    expanded = compiled.construct_expanded_state(values, escape_names=False)
    constants = {name: value for name, value in expanded.parameters.items() if name not in required}
    return Prepared(expanded.statement, tuple(expanded.positiontup or ()), constants)


@dataclass(frozen=True, slots=True)
class Write:
    """One statement of a unit.

    Attributes:
        prepared: The statement.
        params: Its parameters by name.
        expect: How many rows it must change; any other number undoes the whole unit.
    """

    prepared: Prepared
    params: Mapping[str, Any]
    expect: int | None = None


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something to be recorded.

    Attributes:
        event: What happened, as `area.verb`.
        actor: Who caused it.
        detail: JSON values that say the rest; never a secret.
    """

    event: str
    actor: str
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unit:
    """Writes and audit events that become durable together or not at all.

    Attributes:
        label: A short constant name of the act, for logs and crash tests.
        writes: Carried out in order.
        audit: Chained into the audit log in the same transaction.
    """

    label: str
    writes: Sequence[Write] = ()
    audit: Sequence[AuditEvent] = ()


@dataclass(frozen=True, slots=True)
class BoundWrite:
    """A write whose parameters have been checked and put in order."""

    sql: str
    arguments: tuple[Any, ...]
    expect: int | None


@dataclass(frozen=True, slots=True)
class BoundUnit:
    """A unit ready for the engine."""

    label: str
    writes: tuple[BoundWrite, ...]
    audit: tuple[AuditEvent, ...]


def bind_unit(unit: Unit) -> BoundUnit:
    """Binds every write and checks every event of a unit, so that a mistake is its caller's alone.

    Raises:
        KeyError: a parameter is missing.
        InvalidValueError: an event that JSON or a database cannot hold, or a text with NUL in it.
    """
    for event in unit.audit:
        _check_event(event)
    writes = tuple(BoundWrite(w.prepared.sql, w.prepared.bind(w.params), w.expect) for w in unit.writes)
    return BoundUnit(unit.label, writes, tuple(unit.audit))


def _check_event(event: AuditEvent) -> None:
    try:
        canonical_json([event.event, event.actor, event.detail])
    except TypeError as error:
        raise InvalidValueError(f"the audit event {event.event} holds what JSON cannot say: {error}") from error
    if "\0" in event.event or "\0" in event.actor:
        raise InvalidValueError("an audit event's name and actor cannot hold NUL")
