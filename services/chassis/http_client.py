"""What the services' clients share: who carries a request, how an answer is read, and what a problem document says."""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import orjson

from pkicore.errors import MalformedError, PkiError
from services.chassis.observability import current_request_id
from services.chassis.problems import INTERNAL_PREFIX
from services.chassis.tracing import step

SERVER_ERROR: Final = 500
_JSON: Final = {"content-type": "application/json"}
_SUCCESS: Final = range(200, 300)
_SECONDS: Final = 30.0  # one call; what a service waits for has far shorter deadlines of its own

_Read = TypeVar("_Read")


class Answer(Protocol):
    """What is read of an HTTP answer."""

    @property
    def status_code(self) -> int:
        """The status."""

    @property
    def content(self) -> bytes:
        """The body."""


class Http(Protocol):
    """Whatever carries the requests: `pkicore.mtls.Http1Client`, or httpx in front of an application in memory."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None,
        headers: Mapping[str, str],
        timeout: float,  # noqa: ASYNC109 -- httpx's signature
    ) -> Answer:
        """Send a request to a path of the service and read the whole answer, or raise PkiError or OSError."""


@dataclass(frozen=True, slots=True)
class ReadProblem:
    """A problem document (RFC 9457) as a client reads it.

    Attributes:
        kind: its type without the urn prefix.
        detail: a sentence.
        retry_after: seconds after which a repetition makes sense, where the answer says so.
    """

    kind: str
    detail: str
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no usable answer.

    Attributes:
        sentence: names the service.
        status: the HTTP status; 0 where there was no answer, or one that makes no sense.
        problem: the problem document, where there is one.
    """

    sentence: str
    status: int = 0
    problem: ReadProblem | None = None


class ServiceCalls:
    """Asks a service and reads its answers.

    Args:
        http: a pooled mTLS client that expects the service's SPIFFE ID.
        service: its name in sentences.
        error_of: the client's own error for a failure.
        success: the statuses of answers that are read.
    """

    def __init__(
        self, http: Http, service: str, error_of: Callable[[Failure], Exception], success: Container[int] = _SUCCESS
    ) -> None:
        self._http = http
        self._service = service
        self._error_of = error_of
        self._success = success

    async def ask(
        self,
        parse: Callable[[bytes], _Read],
        method: str,
        path: str,
        body: bytes | None = None,
        seconds: float = _SECONDS,
    ) -> _Read:
        """One request and its answer, read by `parse`; the JSON `body` goes along, and so do request id and trace.

        Raises:
            What `error_of` makes of a Failure: no answer, one that is no success, or one that makes no sense.
        """
        headers = dict(_JSON) if body is not None else {}
        if (request_id := current_request_id()) is not None:
            headers["x-request-id"] = request_id
        with step(method, self._service, "client") as span:
            if span is not None:
                headers["traceparent"] = span.traceparent
            try:
                answer = await self._http.request(method, path, content=body, headers=headers, timeout=seconds)
            except (PkiError, OSError) as error:
                raise self._error_of(Failure(f"{self._service} does not answer: {error}")) from error
            if answer.status_code not in self._success:
                raise self._error_of(self._failure(answer))
        return self.read(parse, answer.content)

    def read(self, parse: Callable[[bytes], _Read], body: bytes) -> _Read:
        """What `parse` makes of (a part of) an answer; where it raises MalformedError, the answer makes no sense."""
        try:
            return parse(body)
        except MalformedError as error:
            raise self._error_of(Failure(f"{self._service}'s answer makes no sense: {error}")) from error

    def _failure(self, answer: Answer) -> Failure:
        problem = _read_problem(answer)
        what = " without a problem document" if problem is None else f": {problem.detail}"
        return Failure(f"{self._service} answered {answer.status_code}{what}", answer.status_code, problem)


def _read_problem(answer: Answer) -> ReadProblem | None:
    """The problem document in an answer, None where there is none."""
    try:
        problem = orjson.loads(answer.content)
        kind = str(problem["type"]).removeprefix(INTERNAL_PREFIX)
        detail = str(problem.get("detail") or problem.get("title") or kind)
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        return None
    wait = problem.get("retry_after")
    return ReadProblem(kind, detail, float(wait) if isinstance(wait, int | float) and wait >= 0 else None)
