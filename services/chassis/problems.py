"""Problem documents (RFC 9457), and the one table that turns exceptions into them.

An exception that the table does not know becomes "internal error": no detail for the caller, all of it in the log.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from services.chassis import errors

MEDIA_TYPE = b"application/problem+json"
INTERNAL_PREFIX = "urn:pqcpki:problem:"
_RETRY_AFTER = ((b"retry-after", b"1"),)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem document.

    Attributes:
        type: Its URI, the only part that programs compare.
        title: What kind of problem, the same for every occurrence.
        status: The HTTP status.
        detail: One sentence about this occurrence, fit for the caller's eyes.
        extra: Further members of the document.
        headers: Response headers that belong to it.
        close: Whether the connection must end, since the request was not read whole.
    """

    type: str
    title: str
    status: int
    detail: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    headers: tuple[tuple[bytes, bytes], ...] = ()
    close: bool = False

    def document(self) -> bytes:
        """The JSON body (RFC 9457 §3.1)."""
        members: dict[str, Any] = {"type": self.type, "title": self.title, "status": self.status}
        if self.detail:
            members["detail"] = self.detail
        return orjson.dumps(members | dict(self.extra))


AnyError = TypeVar("AnyError", bound=Exception)
Builder = Callable[[Any], Problem]


def problem(name: str, title: str, status: int, *, prefix: str = INTERNAL_PREFIX, **rest: Any) -> Builder:  # noqa: ANN401 - Problem's own fields
    """A table row: the problem `prefix + name` whose detail is the exception's sentence."""

    def build(error: Exception) -> Problem:
        return Problem(prefix + name, title, status, str(error), **rest)

    return build


def fixed(name: str, title: str, status: int, *, prefix: str = INTERNAL_PREFIX, **rest: Any) -> Builder:  # noqa: ANN401 - Problem's own fields
    """A table row whose exception says nothing that the caller should read."""

    def build(_: Exception) -> Problem:
        return Problem(prefix + name, title, status, **rest)

    return build


def _method_not_allowed(error: errors.MethodNotAllowedError) -> Problem:
    allow = ((b"allow", ", ".join(error.allowed).encode()),)
    return Problem(f"{INTERNAL_PREFIX}method-not-allowed", "Method not allowed", 405, str(error), headers=allow)


FRAME_ROWS: Mapping[type[Exception], Builder] = {
    errors.RouteNotFoundError: problem("not-found", "No such resource", 404),
    errors.MethodNotAllowedError: _method_not_allowed,
    errors.MediaTypeError: problem("unsupported-media-type", "Unsupported media type", 415, close=True),
    errors.BodyTooLargeError: problem("body-too-large", "Body too large", 413, close=True),
    errors.BodyTimeoutError: problem("body-timeout", "Body too slow", 408, close=True),
    errors.BodyMalformedError: problem("malformed", "Malformed request", 400),
    errors.ClientGoneError: problem("client-gone", "Client gone", 400, close=True),
    errors.ForbiddenError: problem("forbidden", "Forbidden", 403),
    errors.OverloadedError: fixed("overloaded", "Overloaded", 503, headers=_RETRY_AFTER),
    errors.UnavailableError: fixed("unavailable", "Temporarily unavailable", 503, headers=_RETRY_AFTER),
}
"""What the frame, the policy and the database raise; every table needs a row for each of these."""


INTERNAL_ERROR = fixed("internal-error", "Internal error", 500)
"""What an exception becomes that no row knows."""


class ProblemTable:
    """Exception class → problem, the nearest class in the exception's ancestry wins.

    Args:
        rows: The service's rows; they win over `FRAME_ROWS`.
        internal: What an unknown exception becomes.
    """

    def __init__(
        self,
        rows: Mapping[type[Exception], Builder],
        *,
        internal: Builder = INTERNAL_ERROR,
    ) -> None:
        self._rows = {**FRAME_ROWS, **rows}
        self._internal = internal

    def knows(self, error: Exception) -> bool:
        """Whether the exception is expected, so that the log needs no trace of it."""
        return any(cls in self._rows for cls in type(error).__mro__)

    def problem_of(self, error: Exception) -> Problem:
        """The problem document for an exception."""
        for cls in type(error).__mro__:
            builder = self._rows.get(cls)
            if builder is not None:
                return builder(error)
        return self._internal(error)
