"""Traces: what a request waited for, in whichever service, under one trace id (W3C Trace Context).

A request's span is begun by `services.chassis.tracing.requests`, where traces are on at all. Whatever runs in its
task, or in one that it starts, may call `step` for a part of it worth its own line. Where there is no span, because
traces are off or nobody's request is answered, a step is one look at a context variable. Nothing here knows
OpenTelemetry; only `services.chassis.tracing.recorder` does, and it is not imported where traces are off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from types import MappingProxyType, TracebackType
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

__all__ = ["Attributes", "Kind", "Parent", "Span", "Tracer", "begin_trace", "current_span", "read_traceparent", "step"]

Attributes: TypeAlias = Mapping[str, str | int]
Kind: TypeAlias = Literal["server", "client", "internal"]

_TRACEPARENT: Final = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SAMPLED: Final = 1
_NONE: Final[Attributes] = MappingProxyType({})


class Span(Protocol):
    """A part of a trace: it has a begin, an end, a name and attributes."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits."""

    @property
    def traceparent(self) -> str:
        """The header that makes another service's span a child of this one."""

    def child(self, name: str, kind: Kind, attributes: Attributes) -> Span:
        """Begin a part of this one; it may outlive it."""

    def note(self, name: str | None, attributes: Attributes) -> None:
        """Give it further attributes, and another name."""

    def fail(self, reason: str) -> None:
        """It has failed, for a reason out of a bounded set such as the name of an exception's class."""

    def end(self) -> None:
        """It is over."""


class Parent(NamedTuple):
    """A span of another service, as a `traceparent` names it."""

    trace_id: int
    span_id: int
    sampled: bool


class Tracer(Protocol):
    """Begins traces, or goes on with those of others."""

    def begin(self, name: str, parent: Parent | None, attributes: Attributes) -> Span:
        """The span of a request."""


_current: ContextVar[Span | None] = ContextVar("span", default=None)


def current_span() -> Span | None:
    """The innermost span of the running task, None where there is none."""
    return _current.get()


def begin_trace(span: Span) -> None:
    """From here on, steps of this task and of those it starts are parts of this span."""
    _current.set(span)


def step(
    act: str, what: str, kind: Kind = "internal", attributes: Attributes = _NONE
) -> AbstractContextManager[Span | None]:
    """A part of the current span, named by act and object; the context is None where there is no current span.

    Args:
        act: such as "commit".
        what: on what, out of a bounded set: it is part of the name.
        kind: "client" for what somebody else does.
        attributes: what else is to be known; never a secret.
    """
    parent = _current.get()
    return _NOTHING if parent is None else _Step(parent.child(f"{act} {what}", kind, attributes))


def read_traceparent(value: bytes | None) -> Parent | None:
    """The span that a `traceparent` header names (W3C Trace Context §3.2); None where it names none."""
    match = None if value is None else _TRACEPARENT.fullmatch(value)
    if match is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in match.groups())
    return Parent(trace_id, span_id, bool(flags & _SAMPLED)) if trace_id and span_id else None


class _Nothing(AbstractContextManager[None]):
    """No step: contextlib's takes half as long again."""

    __slots__ = ()

    def __enter__(self) -> None:
        """Begin nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End nothing."""


_NOTHING: Final = _Nothing()


class _Step(AbstractContextManager[Span]):
    """Makes a span the current one, and ends it."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span) -> None:
        self._span = span
        self._token: Token[Span | None]

    def __enter__(self) -> Span:
        self._token = _current.set(self._span)
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _current.reset(self._token)
        if kind is not None:
            self._span.fail(kind.__name__)
        self._span.end()
