"""The last look: each rule is broken once, and says so by the name of its source."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.encoding import SEQUENCE, DerReader, integer, sequence, tlv
from pkicore.errors import LintError, PkiError
from pkicore.x509.capture import CAPTURING_KEYS
from pkicore.x509.lint import TbsLint, lint_tbs
from pkicore.x509.names import Names
from pkicore.x509.profiles import Profile
from pkicore.x509.tbs import Issuer, build_tbs, random_serial, validity
from tests.support.clock import ManualClock
from tests.support.pki import PROFILES, Hierarchy

SERVER = PROFILES["server"]
KEY = generate_private_key(ALGORITHMS["ecdsa-p256"])


def tbs_of(hierarchy: Hierarchy | SimpleNamespace, profile: Profile = SERVER, **changes: Any) -> bytes:  # noqa: ANN401 - one field each
    """What `build_tbs` makes of a good request, with some fields changed."""
    not_before, not_after = validity(profile, hierarchy.issuing, hierarchy.clock.now())
    fields: dict[str, Any] = {
        "issuer": hierarchy.issuing,
        "serial": random_serial() | 1 << 150,
        "not_before": not_before,
        "not_after": not_after,
        "public_key": KEY.public_key(),
        "common_name": None,
        "names": Names.build(dns=["a.example", "b.example"]),
    }
    fields.update(changes)
    return build_tbs(profile, **fields)


def findings(tbs: bytes, issuer: Issuer | None, profile: Profile = SERVER) -> str:
    """What the lint says, in one text; the one that remembers what is alike says the same."""
    with pytest.raises(LintError) as caught:
        lint_tbs(tbs, profile, issuer)
    if issuer is not None:
        assert set(findings_of_one_that_remembers(tbs, issuer, profile)) == set(caught.value.findings)
    return "\n".join(caught.value.findings)


def findings_of_one_that_remembers(tbs: bytes, issuer: Issuer, profile: Profile) -> tuple[str, ...]:
    """What a lint says that has seen a good certificate of this profile and issuer, where there is such a thing."""
    lint, good = TbsLint(), SimpleNamespace(issuing=issuer, clock=ManualClock())
    with suppress(PkiError):
        lint.lint(tbs_of(good, profile), profile, issuer)
    try:
        lint.lint(tbs, profile, issuer)
    except LintError as error:
        return error.findings
    return ()


def with_fields(tbs: bytes, change: Callable[[list[bytes]], None]) -> bytes:
    """The same TBSCertificate after a change of its encoded fields: version, serial, signature, issuer, validity..."""
    reader, fields = DerReader(tbs).enter(), list[bytes]()
    while not reader.at_end:
        fields.append(reader.read_element())
    change(fields)
    return sequence(*fields)


def rebuilt(
    hierarchy: Hierarchy,
    *,
    subject: str | None = "a.example",
    replace_extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    drop: tuple[type[x509.ExtensionType], ...] = (),
) -> bytes:
    """A good server certificate rebuilt by cryptography's builder with other extensions."""
    good = x509.load_der_x509_certificate(sequence(tbs_of(hierarchy), _ALGORITHM, b"\x03\x01\x00"))
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, subject)] if subject is not None else []
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(attributes))
        .issuer_name(good.issuer)
        .serial_number(good.serial_number)
        .not_valid_before(good.not_valid_before_utc)
        .not_valid_after(good.not_valid_after_utc)
        .public_key(good.public_key())
    )
    replacing = {type(value): (value, critical) for value, critical in replace_extensions}
    for extension in good.extensions:
        if type(extension.value) not in drop:
            builder = builder.add_extension(
                *replacing.pop(type(extension.value), (extension.value, extension.critical))
            )
    for value, critical in replacing.values():
        builder = builder.add_extension(value, critical=critical)
    key = CAPTURING_KEYS["ecdsa-p256"]
    return builder.sign(key, ALGORITHMS["ecdsa-p256"].signature_hash).tbs_certificate_bytes  # type: ignore[arg-type]  # the table's hash


_ALGORITHM = bytes.fromhex("300a06082a8648ce3d040302")


def test_what_we_build_passes(hierarchy: Hierarchy) -> None:
    """The builder's own work is in order, for the family's keys."""
    key = generate_private_key(hierarchy.issuing_key.algorithm).public_key()
    lint_tbs(tbs_of(hierarchy, public_key=key), SERVER, hierarchy.issuing)


def test_rebuilding_changes_nothing(ecdsa: Hierarchy) -> None:
    """The helper that breaks rules below starts from a certificate that breaks none."""
    lint_tbs(rebuilt(ecdsa), SERVER, ecdsa.issuing)


@pytest.mark.parametrize(
    ("index", "element", "expected"),
    [
        (0, tlv(0xA0, integer(1)), "§4.1.2.1"),
        (1, integer(-5), "§4.1.2.2"),
        (1, integer(0), "§4.1.2.2"),
        (1, tlv(2, b"\x7f" + bytes(20)), "§4.1.2.2"),
        (1, integer(1 << 62), "BR §7.1"),
        (2, bytes.fromhex("300a06082a8648ce3d040303"), "§4.1.2.3"),
        (3, sequence(), "§4.1.2.4"),
        (3, b"\x05\x00", "§4.1"),
    ],
)
def test_encodings(ecdsa: Hierarchy, index: int, element: bytes, expected: str) -> None:
    """Version, serial number, algorithm and issuer name, as bytes."""

    def change(fields: list[bytes]) -> None:
        fields[index] = element

    assert expected in findings(with_fields(tbs_of(ecdsa), change), ecdsa.issuing)


def test_generalized_time_before_2050(ecdsa: Hierarchy) -> None:
    """RFC 5280 §4.1.2.5 has one form for each year."""

    def change(fields: list[bytes]) -> None:
        times = DerReader(fields[4]).enter()
        fields[4] = tlv(SEQUENCE, tlv(0x18, b"20" + times.read(0x17)) + times.read_element())

    assert "§4.1.2.5" in findings(with_fields(tbs_of(ecdsa), change), ecdsa.issuing)


def test_validity_rules(ecdsa: Hierarchy) -> None:
    """A second too long, outside the issuer's period, or the wrong way round."""
    start, end = validity(SERVER, ecdsa.issuing, ecdsa.clock.now() + timedelta(hours=2))
    lint_tbs(tbs_of(ecdsa, not_before=start, not_after=end), SERVER, ecdsa.issuing)
    longer = tbs_of(ecdsa, not_before=start, not_after=end + timedelta(seconds=1))
    assert "valid longer" in findings(longer, ecdsa.issuing)
    issuer = ecdsa.issuing.certificate
    early = tbs_of(ecdsa, not_before=issuer.not_valid_before_utc - timedelta(seconds=1), not_after=end)
    assert "outside the issuer's" in findings(early, ecdsa.issuing)
    late = issuer.not_valid_after_utc + timedelta(seconds=1)
    assert "outside the issuer's" in findings(tbs_of(ecdsa, not_before=end, not_after=late), ecdsa.issuing)


def test_another_issuer(ecdsa: Hierarchy, mldsa: Hierarchy) -> None:
    """Bytes made for one issuer do not pass for another: name, algorithm, key identifier, family, URLs."""
    found = findings(tbs_of(ecdsa), mldsa.issuing)
    for expected in ("§4.1.2.3", "§4.1.2.4", "§4.2.1.1:", "§4.2.1.13", "§4.2.2.1", "family mldsa"):
        assert expected in found


def test_a_ca_below_an_issuing_ca(ecdsa: Hierarchy) -> None:
    """The path length of the issuing CA allows none."""
    profile = PROFILES["issuing-ca"]
    tbs = tbs_of(ecdsa, profile, common_name="Sub CA", names=Names())
    assert "path length allows no CA" in findings(tbs, ecdsa.issuing, profile)


def test_a_leaf_as_issuer(ecdsa: Hierarchy) -> None:
    """A certificate that is no CA issues nothing (RFC 5280 §4.2.1.9)."""
    leaf = asyncio.run(ecdsa.server("evil.example")).certificate
    issuer = replace(ecdsa.issuing, certificate=leaf)
    assert "no CA" in findings(tbs_of(ecdsa, issuer=issuer), issuer)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"keys": frozenset({"ml-dsa-65"})}, "not in the profile"),
        ({"families": {"ecdsa": "mldsa"}}, "not issued by the family"),
        ({"extended_key_usage": ("clientAuth",)}, "§4.2.1.12"),
        ({"key_usage": frozenset({"digitalSignature", "contentCommitment"})}, "§4.2.1.3"),
        ({"validity": timedelta(days=89)}, "valid longer"),
        ({"max_names": 1}, "at most 1"),
        ({"names": dict.fromkeys(("dns", "ip", "uri", "email"), "forbidden")}, "allows no dns"),
        ({"names": {**SERVER.names, "uri": "one"}}, "needs a uri"),
        ({"crl": False, "ocsp": False}, "has no place"),
        ({"ocsp_no_check": True}, "is missing"),
        ({"ca": True}, "§4.2.1.9"),
        ({"subject": "empty"}, "must be empty"),
    ],
)
def test_the_profile_is_the_measure(ecdsa: Hierarchy, changes: dict[str, Any], expected: str) -> None:
    """Bytes that fit one profile do not pass for a profile that differs in a single field."""
    assert expected in findings(tbs_of(ecdsa), ecdsa.issuing, replace(SERVER, **changes))


ENCIPHER = x509.KeyUsage(True, False, True, False, False, False, False, False, False)
SIGN_CERTIFICATES = x509.KeyUsage(True, False, False, False, False, True, False, False, False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"subject": "evil.example"}, "BR §7.1.4.3"),
        ({"subject": None}, "critical exactly"),
        ({"drop": (x509.SubjectAlternativeName,)}, "2.5.29.17 is missing"),
        ({"drop": (x509.SubjectKeyIdentifier,)}, "2.5.29.14 is missing"),
        ({"drop": (x509.CRLDistributionPoints,)}, "2.5.29.31 is missing"),
        ({"replace_extensions": ((ENCIPHER, True),)}, "RFC 8813"),
        ({"replace_extensions": ((SIGN_CERTIFICATES, True),)}, "§4.2.1.3"),
        ({"replace_extensions": ((x509.BasicConstraints(True, None), True),)}, "§4.2.1.9"),
        ({"replace_extensions": ((x509.BasicConstraints(False, None), False),)}, "criticality of 2.5.29.19"),
        (
            {
                "replace_extensions": (
                    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.OCSP_SIGNING]), False),
                )
            },
            "§4.2.1.12",
        ),
        ({"replace_extensions": ((x509.SubjectKeyIdentifier(bytes(20)), False),)}, "§4.2.1.2"),
        ({"replace_extensions": ((x509.AuthorityKeyIdentifier(bytes(20), None, None), False),)}, "§4.2.1.1"),
        ({"replace_extensions": ((x509.OCSPNoCheck(), False),)}, "has no place"),
        ({"replace_extensions": ((x509.TLSFeature([x509.TLSFeatureType.status_request]), False),)}, "has no place"),
        (
            {"replace_extensions": ((x509.SubjectAlternativeName([x509.DNSName("A.example")]), False),)},
            "canonical form",
        ),
        (
            {
                "replace_extensions": (
                    (x509.SubjectAlternativeName([x509.DNSName("b.example"), x509.DNSName("a.example")]), False),
                )
            },
            "canonical form",
        ),
        ({"replace_extensions": ((x509.SubjectAlternativeName([x509.DNSName("a_b.example")]), False),)}, "§4.1"),
        (
            {
                "replace_extensions": (
                    (
                        x509.SubjectAlternativeName(
                            [
                                x509.UniformResourceIdentifier("spiffe://td/a"),
                                x509.UniformResourceIdentifier("spiffe://td/b"),
                            ]
                        ),
                        False,
                    ),
                )
            },
            "X509-SVID",
        ),
    ],
)
def test_contents(ecdsa: Hierarchy, changes: dict[str, Any], expected: str) -> None:
    """Subject, usages, constraints, identifiers, criticality and names, each bent by another builder."""
    assert expected in findings(rebuilt(ecdsa, **changes), ecdsa.issuing)


def test_weak_keys_do_not_get_this_far(ecdsa: Hierarchy) -> None:
    """The key rules are looked at again, whatever the caller did before."""
    key = generate_private_key(ALGORITHMS["ecdsa-p521"]).public_key()

    def change(fields: list[bytes]) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        fields[6] = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    assert "not offered for certificates" in findings(with_fields(tbs_of(ecdsa), change), ecdsa.issuing)


@given(st.binary(max_size=200))
def test_lint_is_total_on_rubbish(data: bytes) -> None:
    """Bytes that are no TBSCertificate are a finding, not a crash."""
    with pytest.raises(LintError):
        lint_tbs(data, PROFILES["root"], None)


def test_no_octet_goes_unseen_by_one_that_remembers(ecdsa: Hierarchy) -> None:
    """Whichever octet of a certificate is another, both lints say the same of it."""
    profile, issuer, lint = PROFILES["short-lived"], ecdsa.issuing, TbsLint()
    good = tbs_of(ecdsa, profile, serial=(1 << 158) + 7)  # of 20 octets
    lint.lint(good, profile, issuer)
    passed = []
    for index in range(len(good)):
        bent = good[:index] + bytes((good[index] ^ 1,)) + good[index + 1 :]
        said: list[tuple[str, ...]] = []
        for look in (lint.lint, lint_tbs):
            try:
                look(bent, profile, issuer)
            except LintError as error:
                said.append(error.findings)
            else:
                said.append(())
        assert set(said[0]) == set(said[1])
        if not said[1]:
            passed.append(index)
    serial = good.index(b"\x02\x14") + 2
    assert set(range(serial + 1, serial + 20)) <= set(passed)  # any serial is as good as another
    assert len(passed) < 60  # the rest: a shorter period


def test_a_shape_is_of_one_profile_and_issuer(ecdsa: Hierarchy) -> None:
    """A profile or issuer that took another's name is held against every rule."""
    lint, tbs = TbsLint(), tbs_of(ecdsa)
    lint.lint(tbs, SERVER, ecdsa.issuing)
    with pytest.raises(LintError, match="extended key usage"):
        lint.lint(tbs, replace(SERVER, extended_key_usage=("clientAuth",)), ecdsa.issuing)
    with pytest.raises(LintError, match="CRL distribution point"):
        lint.lint(tbs, SERVER, replace(ecdsa.issuing, crl_url="http://elsewhere.example/crl"))
    lint.lint(tbs, SERVER, ecdsa.issuing)


def test_a_shard_is_the_serials(ecdsa: Hierarchy) -> None:
    """The URL of another shard's CRL is found, whichever shards were seen before."""
    issuer, lint = replace(ecdsa.issuing, crl_shards=2), TbsLint()
    serials = [(1 << 150) + shard for shard in range(2)]
    first, second = (tbs_of(ecdsa, issuer=issuer, serial=serial) for serial in serials)
    for tbs in (first, second):
        lint.lint(tbs, SERVER, issuer)
    swapped = first.replace(integer(serials[0]), integer(serials[1]))
    with pytest.raises(LintError, match="CRL distribution point"):
        lint.lint(swapped, SERVER, issuer)
