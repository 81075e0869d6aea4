from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.acme.client_address import ProxyHeader, TrustedProxies, client_address
from services.chassis.asgi import Request

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("2001:db8:a::/48")]
PROXY = "10.0.0.1"
CLIENT = "192.0.2.7"


async def seen(peer: str | None, header: ProxyHeader, *values: str, name: str = "") -> str:
    """The address that the application sees."""
    found: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401, ARG001 - ASGI's own types
        found.append(client_address(Request(scope, receive, "id")))

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "client": (peer, 4711) if peer else None,
        "headers": [((name or header).encode(), value.encode("latin-1")) for value in values],
    }
    await TrustedProxies(application, TRUSTED, header)(scope, None, None)  # type: ignore[arg-type] # neither is used
    return found[0]


@pytest.mark.parametrize(
    ("peer", "values", "address"),
    [
        (PROXY, (CLIENT,), CLIENT),
        (PROXY, (), PROXY),
        (CLIENT, ("198.51.100.1",), CLIENT),  # nobody's proxy may say who it is
        (PROXY, ("198.51.100.1, 192.0.2.7",), CLIENT),  # what the client itself wrote stands further left
        (PROXY, ("198.51.100.1", CLIENT), CLIENT),  # two headers are one (RFC 9110 §5.3)
        (PROXY, ("192.0.2.7, 10.0.0.2,10.9.9.9",), CLIENT),
        (PROXY, ("10.0.0.3, 10.0.0.2",), "10.0.0.3"),  # proxies alone: the farthest of them
        (PROXY, ("192.0.2.7:5000",), CLIENT),
        (PROXY, ("2001:DB8::7",), "2001:db8::7"),
        (PROXY, ("[2001:db8::7]:5000",), "2001:db8::7"),
        ("2001:db8:a::1", (CLIENT,), CLIENT),
        ("::ffff:10.0.0.1", ("::ffff:192.0.2.7",), CLIENT),
        (None, (CLIENT,), "unknown"),
        ("/run/socket", (CLIENT,), "/run/socket"),
    ],
)
async def test_x_forwarded_for(peer: str | None, values: tuple[str, ...], address: str) -> None:
    """The client is the rightmost address that is no trusted proxy, and only a trusted proxy is asked."""
    assert await seen(peer, "x-forwarded-for", *values) == address


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("for=192.0.2.7", CLIENT),
        ('For="192.0.2.7:5000";proto=https;by=10.0.0.1', CLIENT),
        ('proto=https;for="[2001:db8::7]:5000"', "2001:db8::7"),
        ("for=198.51.100.1, for=192.0.2.7 , for=10.0.0.2", CLIENT),
        ('for=192.0.2.7;host="a,b;for=1.1.1.1", for=10.0.0.2', CLIENT),
    ],
)
async def test_forwarded(value: str, address: str) -> None:
    """RFC 7239's header is read the same way, quoted or not."""
    assert await seen(PROXY, "forwarded", value) == address


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("x-forwarded-for", "unknown"),
        ("x-forwarded-for", ""),
        ("x-forwarded-for", "192.0.2.7, garbage"),
        ("x-forwarded-for", "192.0.2.7,"),
        ("x-forwarded-for", "192.0.2.007"),
        ("x-forwarded-for", "192.0.2.7; DROP"),
        ("x-forwarded-for", "fe80::1%eth0"),
        ("x-forwarded-for", "[192.0.2.7"),
        ("x-forwarded-for", "٣.1.1.1"),
        ("forwarded", "for=_hidden"),
        ("forwarded", "for=unknown"),
        ("forwarded", "proto=https"),
        ("forwarded", "192.0.2.7"),
        ("forwarded", 'for="192.0.2.7'),
        ("forwarded", "for=192.0.2.7, by=10.0.0.2"),
        ("forwarded", "for=192.0.2.7 for=192.0.2.8"),
        ("forwarded", "for=192.0.2.7;For=192.0.2.8"),
        ("forwarded", "for=192.0.2.7;for=192.0.2.8, for=10.0.0.2"),
    ],
)
async def test_what_is_no_address_is_the_proxys(header: ProxyHeader, value: str) -> None:
    """Where a trusted proxy writes what is no address, or nothing, it is the client itself."""
    assert await seen(PROXY, header, value.encode().decode("latin-1")) == PROXY


async def test_the_other_header_is_not_looked_at() -> None:
    """A proxy that writes one of the headers passes the other one on as its client sent it."""
    assert await seen(PROXY, "forwarded", "198.51.100.1", name="x-forwarded-for") == PROXY
    assert await seen(PROXY, "x-forwarded-for", "for=198.51.100.1", name="forwarded") == PROXY


@given(
    st.sampled_from(["x-forwarded-for", "forwarded"]),
    st.text(max_size=80).map(lambda text: text.encode().decode("latin-1")),
)
async def test_noise(header: ProxyHeader, noise: str) -> None:
    """Whatever stands left of what the proxy added changes nothing."""
    last = CLIENT if header == "x-forwarded-for" else f"for={CLIENT}"
    found = await seen(PROXY, header, noise, last)
    assert found == CLIENT or (header == "forwarded" and found == PROXY)  # a broken header is believed nowhere


async def test_a_long_row_is_not_walked_for_ever() -> None:
    """After sixteen proxies in a row the search ends at the last of them."""
    assert await seen(PROXY, "x-forwarded-for", CLIENT + ", 10.0.0.2" * 40) == "10.0.0.2"
    assert await seen(PROXY, "forwarded", f"for={CLIENT}" + ", for=10.0.0.2" * 40) == "10.0.0.2"
