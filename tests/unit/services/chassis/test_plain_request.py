import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.plain_request import MAX_HEAD, PlainRequest, read_plain

GET = b"GET /a/b%2F=+c HTTP/1.1\r\nHost: x:80\r\nUser-Agent: t\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nhost: x\r\nContent-Type: A/B ; c=d\r\nCONTENT-LENGTH: 4\r\nConnection: Close\r\n\r\nbody"


def test_a_plain_get_is_read() -> None:
    """Method and target as they were sent, nothing else."""
    assert read_plain(GET, 0) == PlainRequest(b"GET", b"/a/b%2F=+c", b"", b"", False, len(GET))


def test_a_plain_post_is_read() -> None:
    """Field names in any case, the media type without parameters, the body, and where the next request begins."""
    assert read_plain(GET + POST + GET, len(GET)) == PlainRequest(
        b"POST", b"/p", b"a/b", b"body", True, len(GET) + len(POST)
    )


@pytest.mark.parametrize("field", [b"", b"Connection: keep-alive\r\n"])
def test_http_1_0_closes(field: bytes) -> None:
    """Whatever is asked for (RFC 9112 §9.3 lets a server)."""
    found = read_plain(GET.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\n" + field), 0)
    assert found is not None
    assert found.close


@pytest.mark.parametrize("cut", [1, 5, 30, len(POST) - 4, len(POST) - 1])
def test_a_part_of_a_request_is_none(cut: int) -> None:
    """Whatever is missing, it is left to the parser, which waits."""
    assert read_plain(POST[:cut], 0) is None


@pytest.mark.parametrize(
    "request_bytes",
    [
        GET.replace(b"GET", b"HEAD"),
        GET.replace(b"GET", b"get"),
        GET.replace(b"1.1", b"1.2"),
        GET.replace(b"HTTP", b"http"),
        GET.replace(b"/a", b"//x?a"),
        GET.replace(b"/a", b"http://x/a"),
        GET.replace(b" /a", b"  /a"),
        GET.replace(b"/a", b"/\xc3\xa4"),
        GET.replace(b"Host: x:80", b"X: y"),
        GET.replace(b"Host: x:80", b"Host: x\r\nHost: x"),
        GET.replace(b"Host: x:80", b"Host : x"),
        GET.replace(b"Host: x:80", b"Host: x/y"),
        GET.replace(b"Host: x:80", b"Host:"),
        GET.replace(b"\r\nUser", b"\r\n User"),
        GET.replace(b"\r\nUser", b"\nUser"),
        GET.replace(b"\r\nUser", b"\rUser"),
        GET.replace(b": t", b": \x00"),
        GET.replace(b": t", b": \xff"),
        GET.replace(b"User-Agent: t", b"Content-Length: 0"),
        GET.replace(b"User-Agent: t", b"Expect: 100-continue"),
        GET.replace(b"User-Agent: t", b"If-None-Match: *"),
        GET.replace(b"User-Agent: t", b"Upgrade: h2c"),
        GET.replace(b"User-Agent: t", b"X-Request-Id: a"),
        GET.replace(b"User-Agent: t", b"Connection: upgrade"),
        GET.replace(b"User-Agent: t", b"Connection: close\r\nConnection: keep-alive"),
        GET.replace(b"User-Agent: t", b"X: " + b"y" * 2000),
        GET.replace(b"/a", b"/" + b"a" * MAX_HEAD),
        POST.replace(b"CONTENT-LENGTH: 4\r\n", b""),
        POST.replace(b"LENGTH: 4", b"LENGTH: +4"),
        POST.replace(b"LENGTH: 4", b"LENGTH: 4,4"),
        POST.replace(b"LENGTH: 4", b"LENGTH: 4\r\nContent-Length: 4"),
        POST.replace(b"LENGTH: 4", b"LENGTH: 4\r\nTransfer-Encoding: chunked"),
        POST.replace(b"POST", b"PUT"),
    ],
    ids=range(33),
)
def test_whatever_is_not_plain_is_none(request_bytes: bytes) -> None:
    """Parts of HTTP that change what a request says, and all that two parsers might read in two ways."""
    assert read_plain(request_bytes, 0) is None


@given(st.binary(max_size=60), st.integers(0, len(POST) - 1), st.integers(0, 8))
def test_octets_that_are_put_into_a_request_never_move_its_end(octets: bytes, at: int, gone: int) -> None:
    """What is read ends with the body of the declared length, and is no other request than the data begin with."""
    data = POST[:at] + octets + POST[at + gone :]
    found = read_plain(data, 0)
    if found is not None:
        head = data[: found.end - len(found.body)]
        assert head.count(b"\r\n\r\n") == 1
        assert head.endswith(b"\r\n\r\n")
        assert data.startswith(found.method + b" " + found.target + b" HTTP/1.")
