"""What certificates contain."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.errors import LintError, ProfileError
from pkicore.x509.lint import lint_tbs
from pkicore.x509.names import Names
from pkicore.x509.tbs import build_tbs, random_serial, validity
from tests.support.clock import ManualClock
from tests.support.pki import PROFILES, Hierarchy, make_hierarchy


def test_serials_are_positive_and_fit_twenty_octets() -> None:
    """RFC 5280 §4.1.2.2, and no two alike."""
    serials = [random_serial() for _ in range(2000)]
    assert all(0 < serial < 1 << 159 for serial in serials)
    assert len(set(serials)) == len(serials)
    assert max(serials).bit_length() > 150


async def test_a_server_certificate(hierarchy: Hierarchy) -> None:
    """First host as subject, not critical names, URLs of the issuer, the key for signatures only."""
    certificate = (await hierarchy.server("b.example", "*.a.example", "a.example")).certificate
    assert certificate.subject.rfc4514_string() == "CN=a.example"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert not names.critical
    assert names.value.get_values_for_type(x509.DNSName) == ["*.a.example", "a.example", "b.example"]
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]
    key_usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert key_usage.digital_signature
    assert not key_usage.key_encipherment
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert [item.access_location.value for item in access] == [hierarchy.issuing.ocsp_url, hierarchy.issuing.aia_url]
    authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier == hierarchy.issuing.subject_key_identifier.digest


async def test_long_names_leave_the_subject_empty(ecdsa: Hierarchy) -> None:
    """No host of at most 64 characters: the subject is empty and the names are critical (RFC 5280 §4.2.1.6)."""
    certificate = (await ecdsa.server("a" * 60 + ".example")).certificate
    assert not list(certificate.subject)
    assert certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


async def test_addresses_alone_leave_the_subject_empty(ecdsa: Hierarchy) -> None:
    """RFC 8738 certificates of an address have no common name."""
    leaf = await ecdsa.issue("server", names=Names.build(ip=["127.0.0.1", "::1"]))
    assert not list(leaf.certificate.subject)


async def test_the_common_name_asked_for_must_be_a_name(ecdsa: Hierarchy) -> None:
    """It is taken where it is one of the DNS names, and passed over where it is not."""
    names = Names.build(dns=["a.example", "b.example"])
    wanted = await ecdsa.issue("server", names=names, common_name="b.example")
    strange = await ecdsa.issue("server", names=names, common_name="evil.example")
    assert wanted.certificate.subject.rfc4514_string() == "CN=b.example"
    assert strange.certificate.subject.rfc4514_string() == "CN=a.example"


async def test_a_service_certificate(hierarchy: Hierarchy) -> None:
    """One SPIFFE ID, both usages, names critical because the subject is empty (X509-SVID §2)."""
    certificate = (await hierarchy.service("acme", ip=["127.0.0.1"])).certificate
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://pqcpki.internal/service/acme"]
    assert len(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == 2


async def test_a_responder_certificate(hierarchy: Hierarchy) -> None:
    """OCSPSigning alone, not to be checked itself (RFC 6960 §4.2.2.2.1), no status URLs."""
    certificate = (await hierarchy.responder()).certificate
    assert not certificate.extensions.get_extension_for_class(x509.OCSPNoCheck).critical
    for absent in (x509.CRLDistributionPoints, x509.AuthorityInformationAccess, x509.SubjectAlternativeName):
        with pytest.raises(x509.ExtensionNotFound):
            certificate.extensions.get_extension_for_class(absent)


def test_the_hierarchy(hierarchy: Hierarchy) -> None:
    """The root issues itself without authority key; the issuing CA may have no CA below it."""
    root, issuing = hierarchy.root.certificate, hierarchy.issuing.certificate
    assert root.issuer == root.subject
    with pytest.raises(x509.ExtensionNotFound):
        root.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    constraints = issuing.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    points = issuing.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert [name.value for point in points for name in point.full_name or ()] == [hierarchy.root.crl_url]


async def test_rsa_keys_encipher_only_where_the_profile_says(ecdsa: Hierarchy) -> None:
    """KeyEncipherment in a profile reaches RSA keys and no others."""
    profile = replace(PROFILES["server"], key_usage=frozenset({"digitalSignature", "keyEncipherment"}))
    names = Names.build(dns=["a.example"])
    for name, expected in (("rsa-2048", True), ("ecdsa-p256", False), ("ed25519", False)):
        leaf = await ecdsa.issue(profile, names=names, key=generate_private_key(ALGORITHMS[name]))
        usage = leaf.certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        assert usage.key_encipherment is expected


async def test_a_ca_without_responder_cannot_serve_a_profile_with_ocsp(ecdsa: Hierarchy) -> None:
    """Better no certificate than one that points nowhere."""
    silent = replace(ecdsa, issuing=replace(ecdsa.issuing, ocsp_url=None))
    with pytest.raises(ProfileError, match="OCSP"):
        await silent.server("a.example")


async def test_a_required_common_name(ecdsa: Hierarchy) -> None:
    """None, an empty one and one of 65 characters are refused."""
    for common_name in (None, "", " ", "two  blanks", "x" * 65, "\u00e9" * 33):
        with pytest.raises(ProfileError, match="common name"):
            await ecdsa.issue("ocsp-responder", common_name=common_name)


def test_validity_counts_both_ends(ecdsa: Hierarchy) -> None:
    """90 days are 90 days to the second, notAfter included (RFC 5280 §4.1.2.5), begun an hour ago."""
    profile, now = PROFILES["server"], ecdsa.clock.now() + timedelta(days=1)
    start, end = validity(profile, ecdsa.issuing, now)
    assert start == now - timedelta(hours=1)
    assert end - start + timedelta(seconds=1) == timedelta(days=90)


def test_validity_stays_within_the_issuer(ecdsa: Hierarchy) -> None:
    """Near its end an issuer issues shorter certificates, right after its birth less backdated ones, then none."""
    profile, issuer = PROFILES["server"], ecdsa.issuing.certificate
    last_day = issuer.not_valid_after_utc - timedelta(days=1)
    assert validity(profile, ecdsa.issuing, last_day)[1] == issuer.not_valid_after_utc
    first = issuer.not_valid_before_utc
    assert validity(profile, ecdsa.issuing, first)[0] == first
    with pytest.raises(ProfileError, match="must end"):
        validity(profile, ecdsa.issuing, issuer.not_valid_after_utc)


def test_an_end_that_was_asked_for(ecdsa: Hierarchy) -> None:
    """An earlier end is granted; a later one, or one in the past, is refused."""
    profile, now = PROFILES["server"], ecdsa.clock.now()
    wanted = now + timedelta(hours=2)
    assert validity(profile, ecdsa.issuing, now, wanted)[1] == wanted
    for bad in (now, now - timedelta(days=1), now + timedelta(days=90)):
        with pytest.raises(ProfileError, match="must end"):
            validity(profile, ecdsa.issuing, now, bad)


def test_a_beginning_that_was_asked_for(ecdsa: Hierarchy) -> None:
    """A later one is granted and moves no end; one before the backdated, or not before the end, is refused."""
    profile, now = PROFILES["server"], ecdsa.clock.now() + timedelta(days=1)
    start, end = validity(profile, ecdsa.issuing, now)
    for wanted in (start, now, end - timedelta(seconds=1)):
        assert validity(profile, ecdsa.issuing, now, not_before=wanted) == (wanted, end)
    for bad in (start - timedelta(seconds=1), end, end + timedelta(days=1)):
        with pytest.raises(ProfileError, match="must begin"):
            validity(profile, ecdsa.issuing, now, not_before=bad)


def test_openssl_verifies_the_chain(ecdsa: Hierarchy, tmp_path: Path) -> None:
    """`openssl verify` with strict checks accepts server and service certificates for their purposes."""
    for name, certificate in (("root", ecdsa.root.certificate), ("issuing", ecdsa.issuing.certificate)):
        (tmp_path / name).write_bytes(certificate.public_bytes(Encoding.PEM))
    trust = ["-CAfile", str(tmp_path / "root"), "-untrusted", str(tmp_path / "issuing")]
    for leaf, purposes in (
        (asyncio.run(ecdsa.server("a.example")), ["sslserver"]),
        (asyncio.run(ecdsa.service("acme")), ["sslserver", "sslclient"]),
    ):
        (tmp_path / "leaf").write_bytes(leaf.certificate.public_bytes(Encoding.PEM))
        for purpose in purposes:
            command = ["openssl", "verify", "-x509_strict", *trust, "-purpose", purpose, str(tmp_path / "leaf")]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stderr


async def test_a_shard_is_fixed_by_the_serial_and_named_in_the_certificate() -> None:
    """Serial modulo the number of shards: CDP and freshest CRL name it, the linter insists on it, and none is zero."""
    hierarchy = await make_hierarchy("ecdsa", ManualClock())
    issuing = replace(hierarchy.issuing, crl_shards=4)
    profile = replace(PROFILES["server"], freshest_crl=True)
    not_before, not_after = validity(profile, issuing, hierarchy.clock.now())
    seen = set()
    for serial in range(1 << 70, (1 << 70) + 8):
        tbs = build_tbs(
            profile,
            issuing,
            serial=serial,
            not_before=not_before,
            not_after=not_after,
            public_key=hierarchy.issuing_key.public_key,
            common_name=None,
            names=Names.build(dns=["a.example"]),
        )
        lint_tbs(tbs, profile, issuing)
        url = f"{issuing.crl_url}/{serial % 4 + 1}"
        seen.add(issuing.shard_of(serial))
        assert (url.encode() in tbs, f"{url}/delta".encode() in tbs) == (True, True)
        with pytest.raises(LintError, match="distribution point"):
            lint_tbs(tbs, profile, hierarchy.issuing)
    assert seen == {1, 2, 3, 4}
    assert hierarchy.issuing.shard_of(1 << 70) == 0
