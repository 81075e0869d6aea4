"""SPIFFE IDs."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from pkicore.errors import IdentityError
from pkicore.identity import SpiffeId, spiffe_id_of
from tests.support.pki import Hierarchy


@pytest.mark.parametrize("text", ["spiffe://td/service/ca", "spiffe://a.b-c_d/x/Y.z", "spiffe://td/..."])
def test_good_ids_keep_their_spelling(text: str) -> None:
    """Parsing and printing is the identity."""
    assert str(SpiffeId.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "spiffe://td",
        "spiffe://td/",
        "spiffe:///path",
        "SPIFFE://td/a",
        "https://td/a",
        "spiffe://TD/a",
        "spiffe://td:443/a",
        "spiffe://user@td/a",
        "spiffe://td/a/",
        "spiffe://td//a",
        "spiffe://td/./a",
        "spiffe://td/../a",
        "spiffe://td/a?b",
        "spiffe://td/a#b",
        "spiffe://td/a%2fb",
        "spiffe://td/ä",
        "spiffe://td/a\n",
        "spiffe://td/a\x00",
        "spiffe://" + "t" * 256 + "/a",
        "spiffe://td/" + "a" * 2048,
    ],
)
def test_every_other_spelling_is_refused(text: str) -> None:
    """Nothing is repaired: SPIFFE-ID §2.1 to §2.4."""
    with pytest.raises(IdentityError):
        SpiffeId.parse(text)


def test_an_upper_case_trust_domain_is_told_to_be_in_lower_case() -> None:
    """SPIFFE-ID §2.1; the sentence says what to change."""
    with pytest.raises(IdentityError, match="lower case"):
        SpiffeId.parse("spiffe://Td/workload/a")


@given(st.text(max_size=60))
def test_parsing_is_total(path: str) -> None:
    """Any path gives an ID that prints as it was, or an identity error."""
    try:
        found = SpiffeId.parse(f"spiffe://td/{path}")
    except IdentityError:
        return
    assert str(found) == f"spiffe://td/{path}"


def test_constructors_refuse_to_be_talked_into_other_paths() -> None:
    """A name cannot climb out of its kind, and traversal is no name."""
    assert str(SpiffeId.service("td", "ca")) == "spiffe://td/service/ca"
    assert SpiffeId.workload("td", "a").path == "/workload/a"
    assert SpiffeId.operator("td", "a").path == "/operator/a"
    for name in ("", "..", "a b", "a\x00"):
        with pytest.raises(IdentityError):
            SpiffeId.workload("td", name)


async def test_the_id_of_a_certificate(ecdsa: Hierarchy) -> None:
    """The one URI name is the identity; a certificate without URI names has none."""
    service = await ecdsa.service("acme")
    assert spiffe_id_of(service.certificate) == SpiffeId.service("pqcpki.internal", "acme")
    assert spiffe_id_of((await ecdsa.server("a.example")).certificate) is None
    assert spiffe_id_of(ecdsa.root.certificate) is None


@pytest.mark.parametrize("uris", [["spiffe://td/a", "spiffe://td/b"], ["https://td/a"], ["spiffe://td/a", "https://x"]])
def test_ambiguous_certificates_have_no_identity(ecdsa: Hierarchy, uris: list[str]) -> None:
    """X509-SVID §2: several URI names, or one that is no SPIFFE ID, are refused, not ignored."""
    now = ecdsa.clock.now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ecdsa.issuing.certificate.subject)
        .public_key(ecdsa.root_key.public_key)
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(u) for u in uris]), critical=True)
        .create_unsigned()
    )
    with pytest.raises(IdentityError):
        spiffe_id_of(certificate)
