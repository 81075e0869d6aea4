from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkicore.errors import MalformedError
from services.ca.ledger.names import MAX_PATH, NamePattern, names_text, path_of

LABELS = st.lists(st.from_regex(r"[a-z]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True), min_size=1, max_size=4)


def _matches(pattern: NamePattern, kind: str, name: str) -> bool:
    return kind == pattern.kind and pattern.matches(path_of(kind, name))


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("WWW.Example.org.", "dns", "www.example.org"),
        ("192.0.2.1", "ip", "192.0.2.1"),
        ("2001:DB8:0::1", "ip", "2001:db8::1"),
        ("a.b@Example.org", "email", "a.b@example.org"),
        ("spiffe://pki.test/workload/1", "uri", "spiffe://pki.test/workload/1"),
        ("*.example.org", "dns", "www.example.org"),
        ("*.example.org", "dns", "*.example.org"),
        ("*.example.org", "dns", "a.b.example.org"),
        ("spiffe://pki.test/workload/*", "uri", "spiffe://pki.test/workload/1/2"),
        ("*@example.org", "email", "a@example.org"),
    ],
)
def test_a_pattern_finds(text: str, kind: str, name: str) -> None:
    """A name as people write it finds the canonical name, and a pattern what is below it."""
    assert _matches(NamePattern.parse(text), kind, name)


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("example.org", "dns", "www.example.org"),
        ("*.example.org", "dns", "example.org"),
        ("*.example.org", "dns", "badexample.org"),
        ("*.example.org", "dns", "www.example-org.test"),
        ("*.example.org", "dns", "example.org.attacker.test"),
        ("spiffe://pki.test/workload/*", "uri", "spiffe://pki.test/workload"),
        ("spiffe://pki.test/workload/*", "uri", "spiffe://pki.test/workloads/1"),
        ("*@example.org", "email", "a@sub.example.org"),
        ("spiffe://pki.test/w%", "uri", "spiffe://pki.test/workload"),
    ],
)
def test_a_pattern_does_not_find(text: str, kind: str, name: str) -> None:
    """A neighbour in spelling is no match, and the wildcards of SQL are letters as any other."""
    assert not _matches(NamePattern.parse(text), kind, name)


@pytest.mark.parametrize(
    "text", ["", "%", "a_b.test", "*.*", "*", "*.", "*@", "' OR 1=1 --", "a b", "www.*.test", "k\u212a.test", "://"]
)
def test_what_is_no_name_is_refused(text: str) -> None:
    """What no certificate can be named is told so, and never reaches the database."""
    with pytest.raises(MalformedError):
        NamePattern.parse(text)


@given(LABELS, LABELS)
def test_below_a_domain_is_what_ends_with_it(domain: list[str], host: list[str]) -> None:
    """The range of a domain holds exactly the names that end with a dot and the domain."""
    within, name = ".".join([*domain, "test"]), ".".join([*host, "test"])
    assert _matches(NamePattern.parse(f"*.{within}"), "dns", name) == name.endswith(f".{within}")


def test_a_path_fits_an_index_entry() -> None:
    """The longest URI that a certificate may carry is cut to what an index entry holds."""
    assert len(path_of("uri", "spiffe://pki.test/" + "a" * 2000)) == MAX_PATH


def test_the_text_of_a_row_names_the_kinds_that_there_are() -> None:
    """Names stand in the row by kind, in their order."""
    assert names_text([("dns", "a.test"), ("dns", "b.test"), ("common_name", "a.test")]) == (
        '{"common_name":["a.test"],"dns":["a.test","b.test"]}'
    )
