from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson
import pytest

from pkicore.errors import MalformedError, TransportError
from services.chassis.http_client import Failure, ServiceCalls
from services.chassis.observability import begin_request

PROBLEM = b'{"type":"urn:pqcpki:problem:busy","title":"T","detail":"D","retry_after":%s}'


class BakeryError(Exception):
    """What a client makes of a failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.sentence)
        self.failure = failure


@dataclass
class Bakery:
    """Carries every request, and has one answer for all; or none."""

    status_code: int = 200
    content: bytes = b"bread"
    error: Exception | None = None
    seen: list[tuple[str, str, bytes | None, dict[str, str], float]] = field(default_factory=list)

    async def request(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None,
        headers: Mapping[str, str],
        timeout: float,  # noqa: ASYNC109 -- Http's signature
    ) -> Bakery:
        """As `Http.request`."""
        self.seen.append((method, url, content, dict(headers), timeout))
        if self.error is not None:
            raise self.error
        return self


def bread(body: bytes) -> str:
    """Read what is bread."""
    if body != b"bread":
        raise MalformedError("no bread")
    return body.decode()


async def failure_of(bakery: Bakery) -> Failure:
    """The failure of a request."""
    with pytest.raises(BakeryError) as caught:
        await ServiceCalls(bakery, "the bakery", BakeryError).ask(bread, "GET", "/bread")
    return caught.value.failure


async def test_an_answer_is_read_and_a_body_is_json() -> None:
    """Only a request with a body has a content type, and the request id goes along where there is one."""
    bakery = Bakery()
    calls = ServiceCalls(bakery, "the bakery", BakeryError)

    async def in_a_request() -> str:
        begin_request("r1")
        return await calls.ask(bread, "POST", "/bread", b"{}", seconds=5.0)

    assert await calls.ask(bread, "GET", "/bread") == "bread"
    assert await asyncio.create_task(in_a_request()) == "bread"
    assert bakery.seen == [
        ("GET", "/bread", None, {}, 30.0),
        ("POST", "/bread", b"{}", {"content-type": "application/json", "x-request-id": "r1"}, 5.0),
    ]


@pytest.mark.parametrize("error", [TransportError("refused"), ConnectionResetError("refused"), TimeoutError("refused")])
async def test_no_answer(error: Exception) -> None:
    """A transport that fails is a failure without a status."""
    assert await failure_of(Bakery(error=error)) == Failure("the bakery does not answer: refused")


async def test_an_answer_that_makes_no_sense() -> None:
    """What cannot be read is a failure without a status, whatever the status was."""
    assert await failure_of(Bakery(content=b"cake")) == Failure("the bakery's answer makes no sense: no bread")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"7", b'"text"', b'{"detail":"D"}', b"\xff", b"<html></html>", b"null"]
)
@pytest.mark.parametrize("status", [302, 404, 502])
async def test_no_problem_document(status: int, content: bytes) -> None:
    """Anything else than a problem document is told by its status alone."""
    sentence = f"the bakery answered {status} without a problem document"
    assert await failure_of(Bakery(status, content)) == Failure(sentence, status)


@pytest.mark.parametrize(("wait", "read"), [(2.5, 2.5), (3, 3.0), (-1, None), ("soon", None), (None, None)])
async def test_a_problem_document(wait: object, read: float | None) -> None:
    """Type without its prefix, sentence, and seconds to wait where they make sense."""
    failure = await failure_of(Bakery(503, PROBLEM % orjson.dumps(wait)))
    assert (failure.sentence, failure.status) == ("the bakery answered 503: D", 503)
    assert failure.problem is not None
    assert (failure.problem.kind, failure.problem.detail, failure.problem.retry_after) == ("busy", "D", read)
