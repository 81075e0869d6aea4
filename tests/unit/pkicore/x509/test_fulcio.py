"""What an OIDC token said, in a certificate: built, linted, and nothing more than was asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec

from pkicore.encoding import tlv
from pkicore.errors import LintError, ProfileError
from pkicore.x509.fulcio import CLAIMS, ISSUER_CLAIM, MAX_CLAIM, OLD_ISSUER_OID, claim_extensions
from pkicore.x509.lint import lint_tbs
from pkicore.x509.names import Names
from pkicore.x509.tbs import build_tbs, random_serial, validity
from tests.support.pki import PROFILES, Hierarchy

CODE = PROFILES["code-signing"]
ISSUER = "https://issuer.example"
NAMES = Names.build(uri=["https://ci.example/acme/app"])
ALL = {oid: f"value of {name}" for oid, name in CLAIMS.items()} | {ISSUER_CLAIM: ISSUER}


def built(hierarchy: Hierarchy, claims: dict[str, str], names: Names = NAMES) -> bytes:
    """To-be-signed bytes for code, made now."""
    start, end = validity(CODE, hierarchy.issuing, hierarchy.clock.now())
    return build_tbs(
        CODE,
        hierarchy.issuing,
        serial=random_serial(),
        not_before=start,
        not_after=end,
        public_key=ec.generate_private_key(ec.SECP256R1()).public_key(),
        common_name=None,
        names=names,
        claims=claims,
    )


def test_the_arc_is_fulcios() -> None:
    """Sixteen claims, from the issuer to the deployment environment."""
    numbers = [int(oid.rpartition(".")[2]) for oid in CLAIMS]
    assert numbers == list(range(8, 24))
    assert (CLAIMS["1.3.6.1.4.1.57264.1.8"], CLAIMS["1.3.6.1.4.1.57264.1.23"]) == ("issuer", "deployment-environment")


def test_claims_are_utf8_strings_in_order() -> None:
    """Whatever order they were asked for in; the issuer's old form is its octets alone, and comes first."""
    extensions = claim_extensions(dict(reversed(ALL.items())) | {"1.3.6.1.4.1.57264.1.14": "refs/heads/größer"})
    assert [item.oid.dotted_string for item in extensions] == [OLD_ISSUER_OID, *CLAIMS]
    values = {item.oid.dotted_string: item.value for item in extensions}
    assert values[OLD_ISSUER_OID] == ISSUER.encode()
    assert asn1.decode_der(str, values[ISSUER_CLAIM]) == ISSUER
    assert asn1.decode_der(str, values["1.3.6.1.4.1.57264.1.14"]) == "refs/heads/größer"
    assert claim_extensions({}) == []


@pytest.mark.parametrize("oid", [OLD_ISSUER_OID, "1.3.6.1.4.1.57264.1.24", "1.3.6.1.4.1.57264.1", "2.5.29.15", ""])
def test_other_extensions_cannot_be_asked_for(oid: str) -> None:
    """Neither the deprecated ones, nor any that a certificate is read by."""
    with pytest.raises(ProfileError, match="not offered"):
        claim_extensions({oid: "x"})


@pytest.mark.parametrize("value", ["", "x" * (MAX_CLAIM + 1), "ö" * MAX_CLAIM, "a\nb", "a\0b", "\ud800", "\u202e"])
def test_values_that_no_claim_has(value: str) -> None:
    """Empty, too long in octets, or with what cannot be printed (or turns the rest around)."""
    with pytest.raises(ProfileError, match="the value of the extension"):
        claim_extensions({ISSUER_CLAIM: value})


def test_lint_accepts_exactly_what_was_asked_for(ecdsa: Hierarchy) -> None:
    """All claims; fewer, more, or others are findings."""
    tbs = built(ecdsa, ALL)
    lint_tbs(tbs, CODE, ecdsa.issuing, claims=ALL)
    fewer = {oid: value for oid, value in ALL.items() if not oid.endswith(".23")}
    for claims in (fewer, {**ALL, ISSUER_CLAIM: "https://other.example"}, {}):
        with pytest.raises(LintError):
            lint_tbs(tbs, CODE, ecdsa.issuing, claims=claims)
    with pytest.raises(LintError, match="is missing"):
        lint_tbs(built(ecdsa, fewer), CODE, ecdsa.issuing, claims=ALL)


def test_lint_wants_the_issuer_twice_and_alike(ecdsa: Hierarchy) -> None:
    """A verifier that reads the old form and one that reads the new see the same issuer."""
    tbs, new = built(ecdsa, {ISSUER_CLAIM: ISSUER}), tlv(0x0C, ISSUER.encode())
    at = tbs.index(new) + 2
    other = tbs[:at] + ISSUER.replace("issuer", "evil00").encode() + tbs[at + len(ISSUER) :]
    with pytest.raises(LintError, match="as a UTF8String"):
        lint_tbs(other, CODE, ecdsa.issuing, claims={ISSUER_CLAIM: ISSUER})
    with pytest.raises(LintError, match="old form"):
        lint_tbs(other, CODE, ecdsa.issuing, claims={ISSUER_CLAIM: "https://evil00.example"})


def test_lint_wants_timestamps_where_they_belong(ecdsa: Hierarchy) -> None:
    """Bytes that should be logged already and are not."""
    claims = {ISSUER_CLAIM: ISSUER}
    with pytest.raises(LintError, match=r"1\.3\.6\.1\.4\.1\.11129\.2\.4\.2 is missing"):
        lint_tbs(built(ecdsa, claims), CODE, ecdsa.issuing, claims=claims, logged=True)


def test_other_profiles_carry_no_claims(ecdsa: Hierarchy) -> None:
    """Neither built nor linted."""
    plain = replace(CODE, fulcio=False, extended_key_usage=("clientAuth",))
    with pytest.raises(ProfileError, match="takes no extensions"):
        plain.check_claims({ISSUER_CLAIM: ISSUER})
    tbs = built(ecdsa, {ISSUER_CLAIM: ISSUER}, Names.build(email=["a@b.example"]))
    with pytest.raises(LintError, match="has no place"):
        lint_tbs(tbs, plain, ecdsa.issuing, claims={ISSUER_CLAIM: ISSUER})


@pytest.mark.parametrize("uri", ["spiffe://pqcpki.internal/operator/admin", "Spiffe://x/y", "SPIFFE://x"])
def test_a_spiffe_id_is_no_name_of_elsewhere(ecdsa: Hierarchy, uri: str) -> None:
    """In whatever case it is written."""
    with pytest.raises(ProfileError, match="SPIFFE"):
        built(ecdsa, {ISSUER_CLAIM: ISSUER}, Names.build(uri=[uri]))


def test_the_names_of_a_build_are_not_changed(ecdsa: Hierarchy) -> None:
    """A workflow's URI stands in the certificate letter for letter, critical, since there is no subject."""
    uri = "https://github.com/Acme/App/.github/workflows/Release.yml@refs/tags/v1.0"
    tbs = built(ecdsa, {ISSUER_CLAIM: ISSUER}, Names.build(uri=[uri]))
    lint_tbs(tbs, CODE, ecdsa.issuing, claims={ISSUER_CLAIM: ISSUER})
    assert x509.UniformResourceIdentifier(uri).value.encode() in tbs
