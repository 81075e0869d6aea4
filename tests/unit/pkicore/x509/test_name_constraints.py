"""Which names a CA may certify (RFC 5280 §4.2.1.10)."""

from __future__ import annotations

import pytest

from pkicore.errors import ProfileError
from pkicore.x509.name_constraints import check_name_constraints, parse_name_constraints
from pkicore.x509.names import Names

CONSTRAINTS = parse_name_constraints(
    [
        "dns:corp.example",
        "ip:10.0.0.0/8",
        "ip:2001:db8::/32",
        "uri:corp.example",
        "uri:.svc.example",
        "email:.m.example",
    ],
    ["dns:secret.corp.example", "ip:10.9.0.0/16"],
)


@pytest.mark.parametrize(
    "names",
    [
        {"dns": ["corp.example", "a.corp.example", "*.b.corp.example"]},
        {"ip": ["10.1.2.3", "2001:db8::1"]},
        {"uri": ["spiffe://corp.example/workload/a"]},
        {"uri": ["spiffe://a.svc.example/workload/a"]},
        {"email": ["a@b.m.example"]},
        {},
    ],
)
def test_names_within(names: dict[str, list[str]]) -> None:
    """A name or network and what lies below it; a host of URIs and mailboxes exactly, or below a leading dot."""
    check_name_constraints(CONSTRAINTS, Names.build(**names))


@pytest.mark.parametrize(
    "names",
    [
        {"dns": ["example"]},
        {"dns": ["xcorp.example"]},
        {"dns": ["corp.example.evil.example"]},
        {"dns": ["secret.corp.example"]},
        {"dns": ["a.secret.corp.example"]},
        {"dns": ["*.secret.corp.example"]},
        {"dns": ["corp.example", "other.example"]},
        {"ip": ["11.0.0.1"]},
        {"ip": ["10.9.0.1"]},
        {"ip": ["2001:db9::1"]},
        {"ip": ["::ffff:11.0.0.1"]},
        {"uri": ["spiffe://evil.example/corp.example"]},
        {"uri": ["spiffe://a.corp.example/workload/a"]},
        {"uri": ["https://corp.example@evil.example/"]},
        {"email": ["a@m.example"]},
        {"email": ["a@xm.example"]},
    ],
)
def test_names_without(names: dict[str, list[str]]) -> None:
    """A neighbour, a longer name that ends alike without a dot, what is excluded, and tricks with user information."""
    with pytest.raises(ProfileError, match="issuer is"):
        check_name_constraints(CONSTRAINTS, Names.build(**names))


@pytest.mark.parametrize("kind", ["dns", "ip", "uri", "email"])
def test_a_type_that_is_not_spoken_of(kind: str) -> None:
    """What a CA may certify must be said for every type of name, or it could certify any."""
    entries = {"dns": "dns:a.example", "ip": "ip:10.0.0.0/8", "uri": "uri:a.example", "email": "email:a.example"}
    said = [entry for of, entry in entries.items() if of != kind]
    with pytest.raises(ProfileError, match=kind):
        parse_name_constraints(said, [])
    parse_name_constraints(said, [entries[kind]])
