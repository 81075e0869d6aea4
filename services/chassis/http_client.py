"""What the services' clients share: who carries a request, and what a problem document says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import orjson

from services.chassis.problems import INTERNAL_PREFIX


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


def read_problem(answer: Answer) -> ReadProblem | None:
    """The problem document in an answer, None where there is none."""
    try:
        problem = orjson.loads(answer.content)
        kind = str(problem["type"]).removeprefix(INTERNAL_PREFIX)
        detail = str(problem.get("detail") or problem.get("title") or kind)
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        return None
    wait = problem.get("retry_after")
    return ReadProblem(kind, detail, float(wait) if isinstance(wait, int | float) and wait >= 0 else None)
