"""Names in their canonical form."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from pkicore.errors import BadCsrError
from pkicore.x509.names import Names, canonical_dns, names_of


def test_names_are_canonical() -> None:
    """Case, trailing dots, duplicates and order do not make a difference."""
    one = Names.build(dns=["B.example.", "a.EXAMPLE", "b.example"], ip=["10.0.0.2", "::1", "10.0.0.1"])
    two = Names.build(dns=["a.example", "b.example"], ip=["10.0.0.1", "10.0.0.2", "0:0::1"])
    assert one == two
    assert one.dns == ("a.example", "b.example")
    assert one.ip == (IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"), IPv6Address("::1"))
    assert one.count == 5
    assert not one.is_empty
    assert Names().is_empty


@pytest.mark.parametrize(
    "name", ["localhost", "xn--bcher-kva.example", "*.a.example", "1.example", "a" * 63 + ".b", "*.localhost"]
)
def test_good_dns_names(name: str) -> None:
    """Single labels, A-labels, digits and a leftmost wildcard are fine in a private PKI."""
    assert canonical_dns(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a.example..",
        "-a.example",
        "a-.example",
        "a_b.example",
        "a b.example",
        "*",
        "*.",
        "a.*.example",
        "*.*.example",
        "f*.example",
        "*a.example",
        "bücher.example",
        "a.example\x00.evil.example",
        "a.example\n",
        "10.0.0.1",
        "1.2.3.4.",
        "[::1]",
        "::1",
        "a.example:443",
        "https://a.example",
        "a/b",
        "a" * 64 + ".example",
        ".".join(["a" * 60] * 5),
        "\u212a.example",  # KELVIN SIGN, whose lower case is the ASCII letter k
    ],
)
def test_hostile_dns_names(name: str) -> None:
    """None of these may stand in a certificate."""
    with pytest.raises(BadCsrError):
        Names.build(dns=[name])


@pytest.mark.parametrize(
    "bad",
    [
        {"ip": ["10.0.0.1/8"]},
        {"ip": ["fe80::1%eth0"]},
        {"ip": ["010.0.0.1"]},
        {"uri": ["no uri"]},
        {"uri": ["spiffe://td/a b"]},
        {"uri": ["spiffe://td/" + "a" * 2048]},
        {"uri": ["javascript\x00://x"]},
        {"email": ["nobody"]},
        {"email": ["a@b@c"]},
        {"email": ["@a.example"]},
        {"email": ["a@*.example"]},
        {"email": ["a" * 250 + "@a.example"]},
    ],
)
def test_hostile_names_of_other_types(bad: dict[str, list[str]]) -> None:
    """Networks, zones, spaces, control characters and overlong names are refused."""
    with pytest.raises(BadCsrError):
        Names.build(**bad)


def test_wildcards_are_reported() -> None:
    """A CA that forbids them, or demands dns-01 for them, can see them."""
    assert Names.build(dns=["a.example", "*.a.example"]).wildcards == ("*.a.example",)


def test_error_sentences_are_short() -> None:
    """A hostile name of kilobytes is not echoed whole."""
    with pytest.raises(BadCsrError) as caught:
        Names.build(uri=["x" * 5000])
    assert len(str(caught.value)) < 300


@given(st.text(max_size=300))
def test_canonical_dns_is_total_and_stable(name: str) -> None:
    """Any text is refused, or its canonical form is ASCII and canonical itself."""
    try:
        found = canonical_dns(name)
    except BadCsrError:
        return
    assert found.isascii()
    assert canonical_dns(found) == found
    assert x509.DNSName(found).value == found


def test_general_names_there_and_back() -> None:
    """What goes into a certificate reads back as the same names."""
    names = Names.build(dns=["a.example"], ip=["::1"], uri=["spiffe://td/a"], email=["a@B.example"])
    assert names_of(names.general_names()) == names


def test_other_general_names_are_refused() -> None:
    """Directory names, other names and registered ids do not pass unseen."""
    for name in (x509.RegisteredID(x509.ObjectIdentifier("1.2.3")), x509.DirectoryName(x509.Name([]))):
        with pytest.raises(BadCsrError, match="not offered"):
            names_of([name])
