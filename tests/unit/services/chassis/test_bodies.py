"""Bodies in pieces: bounded in length and time, and files that are sent without being held."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.chassis.asgi import Application, Request, Response, Route
from services.chassis.bodies import PIECE
from services.chassis.errors import BodyMalformedError, BodyTimeoutError, BodyTooLargeError, ClientGoneError
from services.chassis.observability import HttpMetrics
from services.chassis.problems import ProblemTable


async def _read(pieces: Sequence[bytes | None], *, limit: int = 100, length: bytes | None = None) -> list[bytes]:
    """What a handler gets of a body; None is a caller that hangs up."""
    found: list[bytes] = []
    fault: list[Exception] = []

    async def handler(request: Request) -> Response:
        try:
            found.extend([piece async for piece in request.stream(limit, 0.05)])
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
        ([b"end"], b"9" * 19, BodyTooLargeError),
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


async def _get(path: Path, size: int, *, method: str = "GET", headers: Sequence[tuple[bytes, bytes]] = ()) -> Any:  # noqa: ANN401 -- ASGI's own type
    """The messages in which a file is answered under the hash `f00`."""
    sent: list[Any] = []

    async def handler(request: Request) -> Response:
        return Response.file(request, path, size, "f00", [(b"content-type", b"text/plain")])

    async def send(message: Any) -> None:  # noqa: ANN401 -- ASGI's own type
        sent.append(message)

    await _app(Route("GET", "/", handler))(_scope(method, list(headers)), _nothing, send)
    return sent


@pytest.mark.parametrize("length", [0, 1, PIECE, 2 * PIECE + 1], ids=["empty", "short", "a piece", "longer"])
async def test_a_file_is_sent_in_pieces(tmp_path: Path, length: int) -> None:
    """No piece is longer than it may be; the length and the ETag are announced; HEAD sends none of it."""
    path = tmp_path / "file"
    content = os.urandom(length)
    path.write_bytes(content)
    for method, expected in (("GET", content), ("HEAD", b"")):
        start, *bodies = await _get(path, length, method=method)
        assert start["status"] == 200
        assert (b"content-length", b"%d" % length) in start["headers"]
        assert (b"etag", b'"f00"') in start["headers"]
        assert b"".join(body["body"] for body in bodies) == expected
        assert max(len(body["body"]) for body in bodies) <= PIECE
        assert [body.get("more_body", False) for body in bodies] == [True] * (len(bodies) - 1) + [False]
    assert not _open_files(path)


@pytest.mark.parametrize("known", [b'"f00"', b'W/"f00"', b'"1", "f00"', b"*"])
async def test_a_file_that_the_caller_has_is_not_sent(tmp_path: Path, known: bytes) -> None:
    """304 under the same ETag and without a length; the file is not even opened, so it need not be there."""
    start, body = await _get(tmp_path / "gone", 100, headers=[(b"if-none-match", known)])
    assert start["status"] == 304
    assert (b"etag", b'"f00"') in start["headers"]
    assert b"content-length" not in dict(start["headers"])
    assert body["body"] == b""


async def test_another_etag_is_no_reason_to_keep_a_file_back(tmp_path: Path) -> None:
    """Only the very entity is left out."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    start, body = await _get(path, 1, headers=[(b"if-none-match", b'"f0", f00, W/f00')])
    assert (start["status"], body["body"]) == (200, b"x")


@pytest.mark.parametrize("content", [None, b"short"], ids=["gone", "cut"])
async def test_a_file_that_is_not_as_recorded_is_a_problem(tmp_path: Path, content: bytes | None) -> None:
    """Nothing has been promised yet, so the caller is told of an error, and not of where files are."""
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    start, body = await _get(path, 100)
    assert start["status"] == 500
    assert (b"content-type", b"application/problem+json") in start["headers"]
    assert b"etag" not in dict(start["headers"])
    assert str(tmp_path).encode() not in body["body"]
    assert not _open_files(path)


async def test_a_file_that_is_cut_while_it_is_sent_ends_the_connection(tmp_path: Path) -> None:
    """The caller sees a body that is shorter than announced, not one that looks whole."""
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * PIECE))
    pieces: list[bytes] = []

    async def handler(request: Request) -> Response:
        return Response.file(request, path, 3 * PIECE, "f00", [])

    async def send(message: Any) -> None:  # noqa: ANN401 -- ASGI's own type
        if "body" in message:
            pieces.append(message["body"])
            os.truncate(path, PIECE)

    with pytest.raises(OSError, match="shorter"):
        await _app(Route("GET", "/", handler))(_scope("GET", []), _nothing, send)
    assert len(pieces) == 1
    assert not _open_files(path)


async def test_no_more_of_a_file_is_sent_than_promised(tmp_path: Path) -> None:
    """A file that grew meanwhile is cut where its record says."""
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    _, body = await _get(path, 3)
    assert body["body"] == b"123"


def _open_files(path: Path) -> list[str]:
    """The descriptors of this process that are this file."""
    found = (Path(entry) for entry in Path("/proc/self/fd").iterdir())
    return [entry.name for entry in found if entry.is_symlink() and str(entry.readlink()).startswith(str(path))]


def _app(route: Route) -> Application:
    metrics = HttpMetrics(CollectorRegistry())
    return Application("test", [route], problems=ProblemTable({}), metrics=metrics)


def _scope(method: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {"type": "http", "method": method, "path": "/", "headers": headers}


async def _nothing() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _nowhere(message: Any) -> None:  # noqa: ANN401 -- ASGI's own type
    del message
