"""Bodies in pieces: bounded in length and time, and files that are sent without being held."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.chassis.asgi import Application, Request, Response, Route
from services.chassis.errors import BodyMalformedError, BodyTimeoutError, BodyTooLargeError, ClientGoneError
from services.chassis.observability import HttpMetrics
from services.chassis.problems import ProblemTable
from services.signing.streams import CHUNK, Streams, body_of, file_response


async def _read(pieces: Sequence[bytes | None], *, limit: int = 100, length: bytes | None = None) -> list[bytes]:
    """What a handler gets of a body; None is a caller that hangs up."""
    found: list[bytes] = []
    fault: list[Exception] = []

    async def handler(request: Request) -> Response:
        try:
            found.extend([piece async for piece in body_of(request, limit, 0.05)])
        except Exception as error:
            fault.append(error)
            raise
        return Response()

    rest = list(pieces)

    async def receive() -> dict[str, Any]:
        if not rest:
            await asyncio.sleep(3600)
        piece = rest.pop(0)
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": piece != b"end"}

    headers = [] if length is None else [(b"content-length", length)]
    await _app(Route("POST", "/", handler))(_scope("POST", headers), receive, _nowhere)
    if fault:
        raise fault[0]
    return found


async def test_pieces_come_as_they_were_sent() -> None:
    """Empty ones left out."""
    assert await _read([b"a", b"", b"bc", b"end"]) == [b"a", b"bc", b"end"]


@pytest.mark.parametrize(
    ("pieces", "length", "error"),
    [
        ([b"x" * 60, b"x" * 41, b"end"], None, BodyTooLargeError),
        ([b"end"], b"101", BodyTooLargeError),
        ([b"end"], b"1x", BodyMalformedError),
        ([b"end"], b"9" * 19, BodyMalformedError),
        ([b"x", None], None, ClientGoneError),
        ([b"x"], None, BodyTimeoutError),
        ([], None, BodyTimeoutError),
    ],
)
async def test_a_body_is_bounded_in_length_and_time(
    pieces: list[bytes | None], length: bytes | None, error: type[Exception]
) -> None:
    """Too long, said to be too long, broken off, or too slow."""
    with pytest.raises(error):
        await _read(pieces, length=length)


async def test_a_file_is_sent_in_pieces(tmp_path: Path) -> None:
    """No piece is longer than a chunk; the length is announced; HEAD sends none of it."""
    path = tmp_path / "file"
    content = bytes(range(256)) * (CHUNK // 128)
    path.write_bytes(content)

    async def handler(_: Request) -> Response:
        return file_response(path, len(content), [])

    for method, expected in (("GET", content), ("HEAD", b"")):
        sent: list[dict[str, Any]] = []

        async def send(message: Any, sent: list[dict[str, Any]] = sent) -> None:  # noqa: ANN401 -- ASGI's own type
            sent.append(message)

        await _app(Route("GET", "/", handler))(_scope(method, []), _nothing, send)
        start, *bodies = sent
        assert (b"content-length", b"%d" % len(content)) in start["headers"]
        assert b"".join(body["body"] for body in bodies) == expected
        assert max(len(body["body"]) for body in bodies) <= CHUNK
        assert [body.get("more_body", False) for body in bodies] == [True] * (len(bodies) - 1) + [False]


async def test_a_file_that_was_cut_ends_the_connection(tmp_path: Path) -> None:
    """The caller sees a body that is shorter than announced, not one that looks whole."""
    path = tmp_path / "file"
    path.write_bytes(b"short")

    async def handler(_: Request) -> Response:
        return file_response(path, 100, [])

    with pytest.raises(OSError, match="shorter"):
        await _app(Route("GET", "/", handler))(_scope("GET", []), _nothing, _nowhere)


def _app(route: Route) -> Streams:
    metrics = HttpMetrics(CollectorRegistry())
    return Streams(Application("signing", [route], problems=ProblemTable({}), metrics=metrics))


def _scope(method: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": "/", "headers": headers}


async def _nothing() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _nowhere(message: Any) -> None:  # noqa: ANN401 -- ASGI's own type
    del message
