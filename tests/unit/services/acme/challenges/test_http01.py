import re

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.acme.challenges.fetch import Fetched, Fetcher
from services.acme.challenges.http01 import Http01
from services.acme.errors import ValidationError
from services.acme.identifiers import Identifier
from services.chassis.outbound.addresses import AddressGuard
from services.chassis.outbound.exchange import KnownUrl
from services.chassis.outbound.resolver import Resolver

ASKED = httpx.URL("http://site.test/.well-known/acme-challenge/token")
HTTP01 = Http01(Resolver.build("127.0.0.1:1", 1), Fetcher(AddressGuard(()), 1), 5002, 1)
FRAGMENTS = st.sampled_from(
    [
        "http",
        "https",
        "ftp",
        ":",
        "//",
        "/",
        "\\",
        "@",
        "[",
        "]",
        "::1",
        "%0d%0a",
        "%00",
        "#",
        "?",
        "..",
        "xn--",
        "\xad",
        " ",
    ]
)


@given(
    st.binary(max_size=80)
    | st.lists(FRAGMENTS | st.text(max_size=5), max_size=12).map(lambda parts: "".join(parts).encode())
)
def test_any_location_is_refused_or_is_a_plain_url(location: bytes) -> None:
    """Whatever a site sends as Location, the next hop is http or https, on a permitted port, in plain characters."""
    try:
        target = HTTP01._redirected(ASKED, Fetched(302, location, b""))
    except ValidationError:
        return
    assert target.scheme in {"http", "https"}
    assert (target.port or 80) in {80, 443, 5002}
    assert not target.userinfo
    assert re.fullmatch(rb"[!-~]+", target.raw_host)
    assert re.fullmatch(rb"[!-~]+", target.raw_path)
    assert re.fullmatch(rb"[!-~]+", target.netloc)


@pytest.mark.parametrize(
    ("identifier", "host"),
    [
        (Identifier("dns", "site.test"), b"site.test"),
        (Identifier("ip", "192.0.2.1"), b"192.0.2.1"),
        (Identifier("ip", "2001:db8::1"), b"[2001:db8::1]"),
    ],
    ids=["name", "v4", "v6"],
)
def test_first_request_is_for_the_well_known_path_at_port_80(identifier: Identifier, host: bytes) -> None:
    """The Host field has no port, an IPv6 address stands in brackets, and there is no query (RFC 8555 section 8.3)."""
    method = Http01(Resolver.build("127.0.0.1:1", 1), Fetcher(AddressGuard(()), 1), 80, 1)
    url = method._first_url(identifier, "token")
    assert (url.scheme, url.netloc, url.raw_path) == ("http", host, b"/.well-known/acme-challenge/token")


@pytest.mark.parametrize("host", ["site.test", "192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("port", [80, 443, 5002])
def test_urls_made_without_a_parser_are_as_the_parser_has_them(host: str, port: int) -> None:
    """The URL of the first hop has the scheme, host, port, Host field and path that httpx reads from its text."""
    url = KnownUrl.http(host, port, "/.well-known/acme-challenge/token-1_")
    parsed = httpx.URL(str(url))
    assert url == (parsed.scheme, parsed.raw_host, parsed.port, parsed.netloc, parsed.raw_path)
