from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.acme.identifiers import BadNameError, Identifier, canonical_dns_name


@pytest.mark.requirement("rfc8555-7.1.4-03")
@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("a.example", "a.example"),
        ("A.Example", "a.example"),
        ("localhost", "localhost"),
        ("*.a.example", "*.a.example"),
        ("1.example", "1.example"),
        ("a-b.example", "a-b.example"),
        ("arpa.in-addr.example", "arpa.in-addr.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        (f"{'a' * 63}.example", f"{'a' * 63}.example"),
    ],
)
def test_names(text: str, canonical: str) -> None:
    """Host names and wildcards have one written form."""
    assert canonical_dns_name(text) == canonical


NOT_HOST_NAMES = ["", ".", "a.", "a..b", ".a", "-a.b", "a-.b", "a_b.c", "a b.c", "ä.example", "\u212a.example", "a\0.b"]
NOT_NAMES_AT_ALL = ["a\n.b", "a.b/c", "a.b:80", f"{'a' * 64}.b", ".".join(["a" * 60] * 5)]
REVERSE = ["1.0.0.10.in-addr.arpa", "IN-ADDR.ARPA", "*.10.in-addr.arpa", "8.b.d.0.1.0.0.2.ip6.arpa", "ip6.arpa"]
ADDRESSES = ["10.0.0.1", "1.2", "::1", "[::1]", "a.1"]
BAD_WILDCARDS = ["*", "*.com", "*.*.a.b", "a.*.b", "*a.b.c"]
BAD_A_LABELS = ["xn--a.example", "xn--.example", "ab--cd.example", "XN--0.example"]


@pytest.mark.requirement("rfc8555-7.1.4-05")
@pytest.mark.parametrize("text", NOT_HOST_NAMES + NOT_NAMES_AT_ALL + REVERSE + ADDRESSES + BAD_WILDCARDS + BAD_A_LABELS)
def test_names_that_are_refused(text: str) -> None:
    """What is no host name, could be an address, or hides another name is refused with a sentence."""
    with pytest.raises(BadNameError) as refused:
        canonical_dns_name(text)
    assert str(refused.value)


@pytest.mark.parametrize("text", ["10.0.0.1", "::1"])
def test_an_address_is_ordered_as_one(text: str) -> None:
    """The refusal of an address among DNS names says which type it has."""
    with pytest.raises(BadNameError, match="order it with type ip"):
        canonical_dns_name(text)


@given(st.text(max_size=80))
def test_canonical_is_stable(text: str) -> None:
    """Whatever passes is ASCII, lower case, and passes again unchanged."""
    try:
        name = canonical_dns_name(text)
    except BadNameError:
        return
    assert name.isascii()
    assert name == name.lower() == canonical_dns_name(name)


def test_wildcards_and_their_base() -> None:
    """An authorization is for the name below the wildcard label."""
    wildcard, plain = Identifier("dns", "*.a.example"), Identifier("dns", "a.example")
    assert (wildcard.is_wildcard, wildcard.base) == (True, plain)
    assert (plain.is_wildcard, plain.base) == (False, plain)
    assert plain.document() == {"type": "dns", "value": "a.example"}
