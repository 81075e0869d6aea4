"""Rules of the linter that concern single profiles: identities, constrained CAs, short lives, staples, policies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.encoding import NULL, DerReader, sequence, tlv
from pkicore.errors import LintError
from pkicore.x509.capture import CAPTURING_KEYS
from pkicore.x509.lint import TbsLint, lint_tbs, unsigned
from pkicore.x509.names import Names
from pkicore.x509.profiles import Profile
from pkicore.x509.tbs import NO_REV_AVAIL, Issuer, build_tbs, random_serial, validity
from tests.support.pki import PROFILES, TRUST_DOMAIN, Hierarchy

KEY = generate_private_key(ALGORITHMS["ecdsa-p256"])
SPIFFE = Names.build(uri=[f"spiffe://{TRUST_DOMAIN}/workload/a"])
DNS = Names.build(dns=["a.example"])
Change = tuple[x509.ExtensionType, bool]


def tbs_of(hierarchy: Hierarchy, profile: Profile, names: Names, issuer: Issuer | None = None) -> bytes:
    """What `build_tbs` makes of a good request."""
    above = issuer or hierarchy.issuing
    not_before, not_after = validity(profile, above, hierarchy.clock.now())
    return build_tbs(
        profile,
        above,
        serial=random_serial() | 1 << 150,
        not_before=not_before,
        not_after=not_after,
        public_key=KEY.public_key(),
        common_name="CA" if profile.subject == "required" else None,
        names=names,
    )


def bent(tbs: bytes, *changes: Change, drop: tuple[type[x509.ExtensionType], ...] = ()) -> bytes:
    """The same certificate by cryptography's builder, with other extensions."""
    good = x509.load_der_x509_certificate(unsigned(tbs))
    builder = (
        x509.CertificateBuilder()
        .subject_name(good.subject)
        .issuer_name(good.issuer)
        .serial_number(good.serial_number)
        .not_valid_before(good.not_valid_before_utc)
        .not_valid_after(good.not_valid_after_utc)
        .public_key(good.public_key())
    )
    changed = {value.oid: (value, critical) for value, critical in changes}
    for extension in good.extensions:
        if type(extension.value) not in drop:
            builder = builder.add_extension(*changed.pop(extension.oid, (extension.value, extension.critical)))
    for value, critical in changed.values():
        builder = builder.add_extension(value, critical=critical)
    key = CAPTURING_KEYS["ecdsa-p256"]
    return builder.sign(key, ALGORITHMS["ecdsa-p256"].signature_hash).tbs_certificate_bytes  # type: ignore[arg-type]  # the table's hash


def findings(tbs: bytes, profile: Profile, issuer: Issuer) -> str:
    """What the lint says, in one text; the one that remembers what is alike says the same."""
    with pytest.raises(LintError) as caught:
        lint_tbs(tbs, profile, issuer)
    remembering = TbsLint()
    for _ in range(2):
        with pytest.raises(LintError) as again:
            remembering.lint(tbs, profile, issuer)
        assert again.value.findings == caught.value.findings
    return "\n".join(caught.value.findings)


def usage(*, sign: bool = True, certificates: bool = False, crls: bool = False) -> x509.KeyUsage:
    """A key usage."""
    return x509.KeyUsage(sign, False, False, False, False, certificates, crls, False, False)


def uris(*names: str) -> x509.SubjectAlternativeName:
    """URI names."""
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) for name in names])


SVID_CASES: dict[str, tuple[tuple[Change, ...], str]] = {
    "two URIs": (((uris(f"spiffe://{TRUST_DOMAIN}/workload/a", f"spiffe://{TRUST_DOMAIN}/workload/b"), True),), "§2"),
    "no URI": (((x509.SubjectAlternativeName([x509.DNSName("a.example")]), True),), "§2"),
    "another scheme": (((uris("https://a.example/"), True),), "§2"),
    "the root's path": (((uris(f"spiffe://{TRUST_DOMAIN}"), True),), "§2"),
    "an empty path": (((uris(f"spiffe://{TRUST_DOMAIN}/"), True),), "§2"),
    "a port": (((uris(f"spiffe://{TRUST_DOMAIN}:443/workload/a"), True),), "§2"),
    "a query": (((uris(f"spiffe://{TRUST_DOMAIN}/workload/a?b"), True),), "§2"),
    "a CA": (((x509.BasicConstraints(True, None), True),), "§4.1"),
    "no digitalSignature": (((usage(sign=False, crls=True), True),), "§4.3"),
    "keyCertSign": (((usage(certificates=True), True),), "§4.3"),
    "cRLSign": (((usage(crls=True), True),), "§4.3"),
    "key usage not critical": (((usage(), False),), "§4.3"),
    "serverAuth alone": (((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),), "§4.4"),
    "clientAuth alone": (((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),), "§4.4"),
}


@pytest.mark.parametrize("case", list(SVID_CASES))
def test_x509_svid(ecdsa: Hierarchy, case: str) -> None:
    """Each rule of the standard is named by its section when it is broken."""
    profile, (changes, section) = PROFILES["workload"], SVID_CASES[case]
    tbs = tbs_of(ecdsa, profile, SPIFFE)
    lint_tbs(bent(tbs), profile, ecdsa.issuing)
    assert f"X509-SVID {section}" in findings(bent(tbs, *changes), profile, ecdsa.issuing)


def test_the_subject_of_an_svid_may_be_empty(ecdsa: Hierarchy) -> None:
    """Then the names are critical (X509-SVID §2, RFC 5280 §4.2.1.6)."""
    profile = PROFILES["workload"]
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(SPIFFE.uri[0])])
    assert "§4.2.1.6" in findings(bent(tbs_of(ecdsa, profile, SPIFFE), (names, False)), profile, ecdsa.issuing)


def other_value(content: bytes) -> x509.UnrecognizedExtension:
    """A noRevAvail with something in it."""
    return x509.UnrecognizedExtension(NO_REV_AVAIL.oid, content)


NO_REV_CASES: dict[str, tuple[tuple[Change, ...], str]] = {
    "no NULL": (((other_value(b"\x01\x01\xff"), False),), "RFC 9608 §2"),
    "empty": (((other_value(b""), False),), "RFC 9608 §2"),
    "critical": (((NO_REV_AVAIL, True),), "criticality of 2.5.29.56"),
    "a CA": (((x509.BasicConstraints(True, None), True),), "RFC 9608 §3"),
    "with a CRL": (
        (
            (
                x509.CRLDistributionPoints(
                    [x509.DistributionPoint([x509.UniformResourceIdentifier("http://a.example/")], None, None, None)]
                ),
                False,
            ),
        ),
        "RFC 9608 §3",
    ),
    "with a delta": (
        (
            (
                x509.FreshestCRL(
                    [x509.DistributionPoint([x509.UniformResourceIdentifier("http://a.example/")], None, None, None)]
                ),
                False,
            ),
        ),
        "RFC 9608 §3",
    ),
    "with a responder": (
        (
            (
                x509.AuthorityInformationAccess(
                    [
                        x509.AccessDescription(
                            AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier("http://a.example/")
                        )
                    ]
                ),
                False,
            ),
        ),
        "RFC 9608 §3",
    ),
}


@pytest.mark.parametrize("case", list(NO_REV_CASES))
def test_no_rev_avail(ecdsa: Hierarchy, case: str) -> None:
    """The value is NULL, it is not critical, no CA has it, and nothing beside it points to a status."""
    profile, (changes, section) = PROFILES["short-lived"], NO_REV_CASES[case]
    tbs = tbs_of(ecdsa, profile, DNS)
    lint_tbs(bent(tbs), profile, ecdsa.issuing)
    assert section in findings(bent(tbs, *changes), profile, ecdsa.issuing)


def test_no_rev_avail_is_as_the_rfc_has_it(ecdsa: Hierarchy) -> None:
    """The short-lived profile carries 2.5.29.56 with NULL, and no URL of a status at all."""
    certificate = asyncio.run(ecdsa.issue("short-lived", names=DNS)).certificate
    found = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier("2.5.29.56"))
    assert (found.critical, found.value) == (False, x509.UnrecognizedExtension(found.oid, NULL))
    assert b"http://" not in certificate.tbs_certificate_bytes
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc < timedelta(days=7)


def test_it_has_no_place_elsewhere(ecdsa: Hierarchy) -> None:
    """A server with a CRL does not also say that there is none."""
    profile = PROFILES["server"]
    found = findings(bent(tbs_of(ecdsa, profile, DNS), (NO_REV_AVAIL, False)), profile, ecdsa.issuing)
    assert "2.5.29.56 has no place" in found
    assert "RFC 9608 §3" in found


def test_policies(ecdsa: Hierarchy) -> None:
    """The policies are the profile's, in its order (RFC 5280 §4.2.1.4)."""
    profile = replace(PROFILES["server"], policies=("1.3.6.1.4.1.99999.1", "1.3.6.1.4.1.99999.2"))
    tbs = tbs_of(ecdsa, profile, DNS)
    lint_tbs(tbs, profile, ecdsa.issuing)
    other = replace(profile, policies=("1.3.6.1.4.1.99999.1",))
    assert "§4.2.1.4" in findings(tbs, other, ecdsa.issuing)
    assert "2.5.29.32 has no place" in findings(tbs, PROFILES["server"], ecdsa.issuing)


def test_must_staple(ecdsa: Hierarchy) -> None:
    """A profile may have servers staple (RFC 7633), and then by this feature alone."""
    profile = replace(PROFILES["server"], must_staple=True)
    tbs = tbs_of(ecdsa, profile, DNS)
    lint_tbs(tbs, profile, ecdsa.issuing)
    other = x509.TLSFeature([x509.TLSFeatureType.status_request_v2])
    assert "RFC 7633 §4" in findings(bent(tbs, (other, False)), profile, ecdsa.issuing)
    assert "is missing" in findings(bent(tbs, drop=(x509.TLSFeature,)), profile, ecdsa.issuing)


def test_no_check_is_for_responders(ecdsa: Hierarchy) -> None:
    """RFC 6960 §4.2.2.2.1: nobody else may say that nobody need ask."""
    profile = replace(PROFILES["server"], ocsp_no_check=True)
    assert "RFC 6960 §4.2.2.2.1" in findings(tbs_of(ecdsa, profile, DNS), profile, ecdsa.issuing)


def constrained(ecdsa: Hierarchy) -> Issuer:
    """A CA of another team below the root."""
    profile = PROFILES["sub-ca"]
    tbs = tbs_of(ecdsa, profile, Names(), ecdsa.root)
    lint_tbs(tbs, profile, ecdsa.root)
    certificate = x509.load_der_x509_certificate(unsigned(tbs))
    return replace(ecdsa.issuing, id="sub", certificate=certificate, chain=(certificate,))


def test_names_below_a_constrained_ca(ecdsa: Hierarchy) -> None:
    """RFC 5280 §4.2.1.10 is looked at before the key signs, as every verifier will."""
    issuer, profile = constrained(ecdsa), PROFILES["server"]
    lint_tbs(tbs_of(ecdsa, profile, Names.build(dns=["a.team.example"]), issuer), profile, issuer)
    for names in (DNS, Names.build(ip=["192.0.2.1"]), Names.build(dns=["a.team.example"], ip=["::1"])):
        assert "§4.2.1.10" in findings(tbs_of(ecdsa, profile, names, issuer), profile, issuer)


def test_usages_below_a_constrained_ca(ecdsa: Hierarchy) -> None:
    """A CA for TLS makes no signer of code, and no responder or time-stamper."""
    issuer = constrained(ecdsa)
    for name in ("artefact-signing", "timestamping", "ocsp-responder"):
        profile = PROFILES[name]
        assert "BR §7.1.2.10.6" in findings(tbs_of(ecdsa, profile, Names(), issuer), profile, issuer)


def test_name_constraints_of_another_profile(ecdsa: Hierarchy) -> None:
    """They are the profile's, and critical."""
    profile = PROFILES["sub-ca"]
    tbs = tbs_of(ecdsa, profile, Names(), ecdsa.root)
    wider = x509.NameConstraints([x509.DNSName("example")], None)
    assert "§4.2.1.10" in findings(bent(tbs, (wider, True)), profile, ecdsa.root)
    kept = profile.name_constraints
    assert kept is not None
    assert "criticality of 2.5.29.30" in findings(bent(tbs, (kept, False)), profile, ecdsa.root)


def with_fields(tbs: bytes, change: Callable[[list[bytes]], None]) -> bytes:
    """The same TBSCertificate after a change of its encoded fields."""
    reader, fields = DerReader(tbs).enter(), list[bytes]()
    while not reader.at_end:
        fields.append(reader.read_element())
    change(fields)
    return sequence(*fields)


def test_unique_identifiers(ecdsa: Hierarchy) -> None:
    """RFC 5280 §4.1.2.8: nobody makes them any more."""
    tbs = tbs_of(ecdsa, PROFILES["server"], DNS)
    found = findings(
        with_fields(tbs, lambda fields: fields.insert(7, tlv(0x81, b"\0\1"))), PROFILES["server"], ecdsa.issuing
    )
    assert "§4.1" in found


def test_a_key_in_another_form(ecdsa: Hierarchy) -> None:
    """RFC 5280 §4.1.2.7: a compressed point is the same key, and is not how we write it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    point = KEY.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    def change(fields: list[bytes]) -> None:
        algorithm = DerReader(fields[6]).enter().read_element()
        fields[6] = sequence(algorithm, tlv(3, b"\0" + point))

    tbs = with_fields(tbs_of(ecdsa, PROFILES["server"], DNS), change)
    assert "§4.1.2.7" in findings(tbs, PROFILES["server"], ecdsa.issuing)


@pytest.mark.parametrize("profile", sorted(name for name, one in PROFILES.items() if not one.fulcio and name != "root"))
def test_every_packaged_profile_passes_its_own_lint(ecdsa: Hierarchy, profile: str) -> None:
    """What the profiles of a new deployment make breaks none of the rules."""
    chosen = PROFILES[profile]
    wants_uri = chosen.names["uri"] == "one"
    names = SPIFFE if wants_uri else Names() if set(chosen.names.values()) == {"forbidden"} else DNS
    issuer = ecdsa.root if chosen.ca else ecdsa.issuing
    lint_tbs(tbs_of(ecdsa, chosen, names, issuer), chosen, issuer)
