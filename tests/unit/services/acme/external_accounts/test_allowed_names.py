from __future__ import annotations

from typing import Literal

import pytest

from pkicore.errors import MalformedError
from services.acme.external_accounts.allowed_names import AllowedNames, canonical_pattern
from services.acme.identifiers import Identifier


@pytest.mark.parametrize(
    ("pattern", "allowed", "refused"),
    [
        ("a.example", ["a.example"], ["b.a.example", "*.a.example", "xa.example", "example", "a.example.org"]),
        (
            "*.a.example",
            ["b.a.example", "*.a.example"],
            ["a.example", "c.b.a.example", "*.b.a.example", "b.xa.example"],
        ),
        (".a.example", ["b.a.example", "c.b.a.example", "*.b.a.example"], ["a.example", "*.a.example", "xa.example"]),
        ("A.Example", ["a.example"], ["b.example"]),
        ("host", ["host"], ["host.example", "a.host"]),
    ],
)
def test_which_dns_names_a_pattern_allows(pattern: str, allowed: list[str], refused: list[str]) -> None:
    """A name alone, one label below it with its wildcard, or everything below it; nothing beside."""
    names = [Identifier("dns", name) for name in (*allowed, *refused)]
    assert [name.value for name in AllowedNames.parse([pattern]).refused(names)] == refused


@pytest.mark.parametrize(
    ("pattern", "allowed", "refused"),
    [
        ("192.0.2.7", ["192.0.2.7"], ["192.0.2.8"]),
        ("192.0.2.0/24", ["192.0.2.0", "192.0.2.255"], ["192.0.3.0", "2001:db8::1"]),
        ("2001:db8::/32", ["2001:db8:1::1"], ["2001:db9::1", "192.0.2.1"]),
    ],
)
def test_which_addresses_a_network_allows(pattern: str, allowed: list[str], refused: list[str]) -> None:
    """An address alone, or those of a network; a network allows no DNS name."""
    names = [Identifier("ip", name) for name in (*allowed, *refused)] + [Identifier("dns", "a.example")]
    found = AllowedNames.parse([pattern]).refused(names)
    assert [name.value for name in found] == [*refused, "a.example"]


@pytest.mark.parametrize("name", [Identifier("dns", "*.a.example"), Identifier("ip", "::1")])
def test_no_pattern_allows_every_name(name: Identifier) -> None:
    """An external account without names is for any name."""
    assert AllowedNames.parse([]).refused([name]) == []


@pytest.mark.parametrize("kind", ["dns", "ip"])
def test_names_alone_allow_no_address(kind: Literal["dns", "ip"]) -> None:
    """One who lists DNS names has not allowed addresses, and the other way round."""
    patterns = {"dns": "192.0.2.0/24", "ip": ".example"}
    value = {"dns": "a.example", "ip": "192.0.2.1"}
    assert AllowedNames.parse([patterns[kind]]).refused([Identifier(kind, value[kind])]) != []


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "*",
        "*.",
        "..a",
        ".*.a.example",
        "*.*.a",
        "a..b",
        "192.0.2.1/24",
        "192.0.2.0/33",
        "fe80::%eth0/64",
        "::ffff:10.0.0.0/104",
        "a_b.example",
        "ä.example",
    ],
)
def test_what_is_no_pattern(text: str) -> None:
    """It is refused by its own name, not taken for something near it."""
    with pytest.raises(MalformedError):
        canonical_pattern(text)
