"""Reading an HTTP/1.1 answer: every form that ends well, and every way to end badly."""

from __future__ import annotations

import pytest

from pkicore.errors import MalformedError
from pkicore.http1 import AnswerParser, request_head

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nTrailer: t\r\n\r\n"


def parse(data: bytes, *, step: int = 0, max_bytes: int = 1000) -> AnswerParser:
    """Feed `data` in pieces of `step` bytes, or as one."""
    parser = AnswerParser(max_bytes)
    for start in range(0, len(data), step or len(data)):
        parser.feed(data[start : start + (step or len(data))])
    return parser


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize(
    ("data", "content", "reusable"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", b"hello", True),
        (OK + b"Content-Length: 0\r\n\r\n", b"", True),
        (OK + b"Content-Length: 2\r\nConnection: close\r\n\r\nhi", b"hi", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"hi", False),
        (CHUNKED, b"abcdefg", True),
        (b"HTTP/1.1 103 Early\r\nContent-Length: 9\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi", b"hi", True),
    ],
)
def test_a_whole_answer_is_complete_however_it_is_cut(
    data: bytes, content: bytes, step: int, *, reusable: bool
) -> None:
    """Lengths, chunks, trailers and interim answers; the connection is kept where the server keeps it."""
    parser = parse(data, step=step)
    assert parser.is_complete
    assert parser.is_reusable is reusable
    answer = parser.answer()
    assert (answer.status_code, answer.content) == (200, content)


def test_header_names_are_in_lower_case_and_interim_headers_forgotten() -> None:
    """Only what came with the final answer is its own."""
    parser = parse(b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\n" + OK + b"X-Y: z\r\nContent-Length: 0\r\n\r\n")
    assert list(parser.answer().headers) == [(b"x-y", b"z"), (b"content-length", b"0")]


def test_204_has_no_body_and_needs_no_length() -> None:
    """RFC 9112 §6.3: what follows its head belongs to something else."""
    assert parse(b"HTTP/1.1 204 No Content\r\n\r\n").is_reusable


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    """RFC 9112 §6.3, case 8."""
    parser = parse(OK + b"\r\nhello")
    assert not parser.is_complete
    parser.end()
    assert parser.answer().content == b"hello"
    assert not parser.is_reusable


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        OK + b"Content-Length: 5\r\n\r\nhell",
        CHUNKED[:-12],
        b"HTTP/1.1 100 Continue\r\n\r\n",
        OK + b"Transfer-Encoding: gzip\r\n\r\nhello",
    ],
)
def test_an_answer_cut_short_is_refused(data: bytes) -> None:
    """What has a frame must fill it."""
    parser = parse(data) if data else AnswerParser(10)
    assert parser.has_begun is bool(data)
    with pytest.raises(MalformedError, match="before the end"):
        parser.end()


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/2 200\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        OK + b"Bad Name: x\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(data: bytes) -> None:
    """Other protocols, contradictory framing, broken chunks and unasked upgrades."""
    with pytest.raises(MalformedError):
        parse(data)


@pytest.mark.parametrize(
    "data",
    [
        OK + b"X: " + b"a" * 1000,
        OK + b"X: a\r\n" * 200,
        OK + b"Content-Length: 1000\r\n\r\n" + b"a" * 1000,
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 200,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
    ],
)
@pytest.mark.parametrize("step", [0, 11])
def test_no_part_of_an_answer_is_endless(data: bytes, step: int) -> None:
    """One bound holds for heads, bodies, chunk framing and interim answers together."""
    with pytest.raises(MalformedError, match="longer than 1000 octets"):
        parse(data, step=step)


@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\n\r\n", b"junk", b"\0"])
@pytest.mark.parametrize("step", [0, 1])
def test_what_follows_an_answer_spoils_the_connection_but_not_the_answer(more: bytes, step: int) -> None:
    """A second answer could be taken for that to the next request."""
    parser = parse(OK + b"Content-Length: 2\r\n\r\nhi" + more, step=step)
    assert parser.answer().content == b"hi"
    assert not parser.is_reusable


def test_a_request_head_is_what_it_was_told() -> None:
    """Line, fields, empty line."""
    assert request_head("GET", "/a?b=c", {"host": "x"}) == b"GET /a?b=c HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        ("/a b", {}),
        ("/a\r\nX: y", {}),
        ("a", {}),
        ("/ä", {}),
        ("/", {"host": "x\r\ny: z"}),
        ("/", {"ho st": "x"}),
        ("/", {"x": "ä"}),
        ("/", {"x": "a\n"}),
    ],
)
def test_a_request_cannot_be_split(target: str, fields: dict[str, str]) -> None:
    """Neither target nor field may end its line."""
    with pytest.raises(MalformedError, match="does not allow"):
        request_head("GET", target, fields)
