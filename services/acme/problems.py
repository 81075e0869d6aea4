"""Exceptions to problem documents (RFC 8555 §6.7): the one table of this service."""

from __future__ import annotations

from typing import Any

from services.acme.answers import retry_after
from services.acme.errors import STATUS_OF_TYPE, URN, AcmeError
from services.chassis import errors
from services.chassis.problems import Builder, Problem, ProblemTable

_RETRY_SECONDS = 1


def problem_table() -> ProblemTable:
    """What the frame, the database and this service raise, in the words of ACME."""
    return ProblemTable(
        {
            AcmeError: _acme,
            errors.RouteNotFoundError: _of("malformed", 404),
            errors.MethodNotAllowedError: _method_not_allowed,
            errors.MediaTypeError: _of("malformed", 415, close=True),
            errors.BodyTooLargeError: _of("malformed", 413, close=True),
            errors.BodyTimeoutError: _of("malformed", 408, close=True),
            errors.BodyMalformedError: _of("malformed", 400),
            errors.ClientGoneError: _of("malformed", 400, close=True),
            errors.ForbiddenError: _of("unauthorized", 403),
            errors.OverloadedError: _busy("rateLimited"),
            errors.UnavailableError: _busy("serverInternal"),
            errors.InvalidValueError: _of("malformed", 400),
        },
        internal=_internal,
    )


def _acme(error: AcmeError) -> Problem:
    return Problem(
        URN + error.acme_type,
        error.acme_type,
        error.status,
        error.detail,
        extra=error.members(),
        headers=error.headers,
    )


def _of(acme_type: str, status: int, **rest: Any) -> Builder:  # noqa: ANN401 - Problem's own fields
    def build(error: Exception) -> Problem:
        return Problem(URN + acme_type, acme_type, status, str(error), **rest)

    return build


def _busy(acme_type: str) -> Builder:
    def build(_: Exception) -> Problem:
        return Problem(
            URN + acme_type,
            acme_type,
            STATUS_OF_TYPE[acme_type],
            "the server cannot take this request now; try again",
            headers=(retry_after(_RETRY_SECONDS),),
        )

    return build


def _method_not_allowed(error: errors.MethodNotAllowedError) -> Problem:
    allow = ((b"allow", ", ".join(error.allowed).encode()),)
    return Problem(f"{URN}malformed", "malformed", 405, str(error), headers=allow)


def _internal(_: Exception) -> Problem:
    return Problem(f"{URN}serverInternal", "serverInternal", 500, "internal error")
