"""Statements compiled once, and the units of writing built from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import Delete, Insert, Integer, LargeBinary, Select, String, Update
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import NullType, TypeEngine

from pkicore.audit import MAX_DETAIL
from pkicore.encoding import canonical_json
from services.chassis.errors import InvalidValueError

Statement: TypeAlias = Select[Any] | Insert | Update | Delete
Row: TypeAlias = Mapping[str, Any]

# BIGINT and TEXT are kinds of Integer and String; an expression without a type takes anything.
_KINDS: Mapping[type[TypeEngine[Any]], type] = {String: str, Integer: int, LargeBinary: bytes, NullType: object}


class Compiled(NamedTuple):
    """A statement in the words of a dialect.

    Attributes:
        sql: Its text, with positional parameters.
        names: The parameters in their order.
        kinds: Their Python types.
        constants: Values that stand in the statement itself.
    """

    sql: str
    names: tuple[str, ...]
    kinds: tuple[type, ...]
    constants: Mapping[str, Any]


class Prepared:
    """A statement that is compiled once, when it is first used: a start need not wait for all of them.

    Whoever is first to use one that `compile_statement` refuses gets its TypeError.
    """

    def __init__(self, statement: Statement, dialect: Dialect) -> None:
        self._statement = statement
        self._dialect = dialect

    @cached_property
    def _compiled(self) -> Compiled:
        return compile_statement(self._statement, self._dialect)

    @property
    def sql(self) -> str:
        """Its text, with positional parameters."""
        return self._compiled.sql

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters in their order."""
        return self._compiled.names

    def bind(self, params: Mapping[str, Any]) -> tuple[Any, ...]:
        """Puts named values into the statement's order.

        Raises:
            KeyError: a parameter is missing.
            InvalidValueError: a value of another type than its column's, or a text with NUL in it; SQLite alone would
                take both.
        """
        _, names, kinds, constants = self._compiled
        values = tuple([params[name] if name in params else constants[name] for name in names])
        for value, kind in zip(values, kinds, strict=True):
            if value is not None and not isinstance(value, kind):
                raise InvalidValueError(f"a column of {kind.__name__} cannot hold {type(value).__name__}")
            if isinstance(value, str) and "\0" in value:
                raise InvalidValueError("a text cannot hold NUL")
        return values


def compile_statement(statement: Statement, dialect: Dialect) -> Compiled:
    """Compiles a statement once for the life of the process.

    Raises:
        TypeError: it uses a type, or a Python-side column default, that the two engines do not share.
    """
    compiled = statement.compile(dialect=dialect)
    if not isinstance(compiled, SQLCompiler):
        raise TypeError("only SELECT, INSERT, UPDATE and DELETE can be prepared")
    if compiled.insert_prefetch or compiled.update_prefetch:
        raise TypeError("column defaults are not applied here: give every value as a parameter")
    kinds = {name: _kind(name, bind.type) for name, bind in compiled.binds.items()}
    required = {name for name, bind in compiled.binds.items() if bind.required}
    values = {name: None if bind.required else bind.effective_value for name, bind in compiled.binds.items()}
    expanded = compiled.construct_expanded_state(values, escape_names=False)
    constants = {name: value for name, value in expanded.parameters.items() if name not in required}
    for name, parts in (expanded.parameter_expansion or {}).items():
        kinds.update(dict.fromkeys(parts, kinds[name]))
    names = tuple(expanded.positiontup or ())
    return Compiled(expanded.statement, names, tuple(kinds[name] for name in names), constants)


def _kind(name: str, column_type: TypeEngine[Any]) -> type:
    for portable, kind in _KINDS.items():
        if isinstance(column_type, portable):
            return kind
    raise TypeError(f"{name} is {column_type!r}; use TEXT, BIGINT, INTEGER or BLOB columns")


class Write(NamedTuple):
    """One statement of a unit.

    Attributes:
        prepared: The statement.
        params: Its parameters by name.
        expect: How many rows it must change; any other number undoes the whole unit.
        contended: Whether it changes a row that many units change, each several such rows in no common order.
    """

    prepared: Prepared
    params: Mapping[str, Any]
    expect: int | None = None
    contended: bool = False


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something to be recorded.

    Attributes:
        event: What happened, as `area.verb`.
        actor: Who caused it.
        detail: JSON values that say the rest; never a secret.
        logged: Whether the service's log has it too; not where there are thousands in a second.
    """

    event: str
    actor: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    logged: bool = True


class Unit(NamedTuple):
    """Writes and audit events that become durable together or not at all.

    Attributes:
        label: A short constant name of the act, for logs and crash tests.
        writes: Carried out in order.
        audit: Chained into the audit log in the same transaction.
    """

    label: str
    writes: Sequence[Write] = ()
    audit: Sequence[AuditEvent] = ()


class BoundWrite(NamedTuple):
    """A write whose parameters have been checked and put in order."""

    sql: str
    arguments: tuple[Any, ...]
    expect: int | None


class BoundUnit(NamedTuple):
    """A unit ready for the engine."""

    label: str
    writes: tuple[BoundWrite, ...]
    audit: tuple[AuditEvent, ...]
    contended: bool = False


def bind_unit(unit: Unit) -> BoundUnit:
    """Binds every write and checks every event of a unit, so that a mistake is its caller's alone.

    Raises:
        KeyError: a parameter is missing.
        InvalidValueError: an event that JSON or a database cannot hold, or a text with NUL in it.
    """
    for event in unit.audit:
        _check_event(event)
    writes = tuple(BoundWrite(w.prepared.sql, w.prepared.bind(w.params), w.expect) for w in unit.writes)
    return BoundUnit(unit.label, writes, tuple(unit.audit), any(write.contended for write in unit.writes))


def _check_event(event: AuditEvent) -> None:
    try:
        size = len(canonical_json([event.event, event.actor, event.detail]))
    except TypeError as error:
        raise InvalidValueError(f"the audit event {event.event} holds what JSON cannot say: {error}") from error
    if size > MAX_DETAIL:
        raise InvalidValueError(f"the audit event {event.event} is longer than {MAX_DETAIL} octets")
    if "\0" in event.event or "\0" in event.actor:
        raise InvalidValueError("an audit event's name and actor cannot hold NUL")
