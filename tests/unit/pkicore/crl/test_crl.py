"""Revocation lists, byte for byte and against openssl."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from pkicore.crl import (
    REASONS,
    Revocation,
    Scope,
    VerifiedCrl,
    build_crl,
    encode_entry,
    entries_start,
    stated_size,
)
from pkicore.encoding import bit_string, extension, integer, sequence, x509_time
from pkicore.errors import BadSignatureError, MalformedError, StaleStatusError, UnsupportedError
from pkicore.keys.file import FileKey
from pkicore.x509.capture import CAPTURING_KEYS
from pkicore.x509.tbs import random_serial
from tests.support.pki import Hierarchy, MemoryKey

HOUR = timedelta(hours=1)
URLS = ("http://a.example/crl/1", "http://b.example/crl/1")


async def crl_of(hierarchy: Hierarchy, revocations: Sequence[Revocation] = (), **changes: Any) -> bytes:  # noqa: ANN401
    """The issuing CA's list of now, with some fields changed."""
    fields: dict[str, Any] = {
        "number": 7,
        "this_update": hierarchy.clock.now(),
        "next_update": hierarchy.clock.now() + HOUR,
        "distribution_points": URLS,
        "scope": "user",
    }
    fields.update(changes)
    entries = [encode_entry(revocation) for revocation in revocations]
    return await build_crl(hierarchy.issuing.certificate, hierarchy.issuing_key, entries, **fields)


def revocations_of(at: datetime) -> list[Revocation]:
    """One for each reason, with serials of all lengths."""
    return [Revocation(random_serial() >> shift * 8, at, reason) for shift, reason in enumerate(REASONS)]


def built_by_cryptography(
    hierarchy: Hierarchy, revocations: Sequence[Revocation], urls: Sequence[str], scope: Scope | None, number: int
) -> bytes:
    """The to-be-signed bytes of the same list as cryptography's builder writes them."""
    flags = {flag.value: flag for flag in x509.ReasonFlags}
    now = hierarchy.clock.now()
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(hierarchy.issuing.certificate.subject)
        .last_update(now)
        .next_update(now + HOUR)
    )
    for item in revocations:
        entry = x509.RevokedCertificateBuilder().serial_number(item.serial).revocation_date(item.at)
        if item.reason != "unspecified":
            entry = entry.add_extension(x509.CRLReason(flags[item.reason]), critical=False)
        builder = builder.add_revoked_certificate(entry.build())
    identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        hierarchy.issuing.subject_key_identifier
    )
    builder = builder.add_extension(identifier, critical=False).add_extension(x509.CRLNumber(number), critical=False)
    if urls or scope is not None:
        builder = builder.add_extension(
            x509.IssuingDistributionPoint(
                full_name=[x509.UniformResourceIdentifier(url) for url in urls] or None,
                relative_name=None,
                only_contains_user_certs=scope == "user",
                only_contains_ca_certs=scope == "ca",
                only_some_reasons=None,
                indirect_crl=False,
                only_contains_attribute_certs=False,
            ),
            critical=True,
        )
    algorithm = hierarchy.issuing_key.algorithm
    signed = builder.sign(CAPTURING_KEYS[algorithm.name], algorithm.signature_hash)  # type: ignore[arg-type]  # table
    return signed.tbs_certlist_bytes


@pytest.mark.parametrize("urls", [(), URLS[:1], URLS])
@pytest.mark.parametrize("scope", ["user", "ca", None])
@pytest.mark.parametrize("count", [0, 1, 10])
async def test_the_same_bytes_as_cryptography(
    hierarchy: Hierarchy, urls: Sequence[str], scope: Scope | None, count: int
) -> None:
    """For every shape of list our bytes are those of cryptography's builder."""
    found = revocations_of(hierarchy.clock.now())[:count]
    der = await crl_of(hierarchy, found, distribution_points=urls, scope=scope, number=1 << 70)
    expected = built_by_cryptography(hierarchy, found, urls, scope, 1 << 70)
    crl = x509.load_der_x509_crl(der)
    assert crl.tbs_certlist_bytes == expected
    assert crl.is_signature_valid(hierarchy.issuing_key.public_key)


@pytest.mark.requirement("rfc8555-7.6-01")
def test_entries() -> None:
    """RFC 5280 §5.3.1: `unspecified` is left out; reasons are ENUMERATED; times change form in 2050."""
    at = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert encode_entry(Revocation(5, at, "unspecified")).hex() == "3012020105170d3330303130323033303430355a"
    assert encode_entry(Revocation(5, at, "keyCompromise")).hex() == (
        "3020020105170d3330303130323033303430355a300c300a0603551d1504030a0101"
    )
    assert b"\x18\x0f20500101" in encode_entry(Revocation(5, datetime(2050, 1, 1, tzinfo=UTC), "superseded"))
    with pytest.raises(UnsupportedError):
        encode_entry(Revocation(5, at, "keycompromise"))


def test_the_reasons_are_those_of_rfc_5280() -> None:
    """Every name and number agrees with cryptography's table; 7 is not used."""
    for flag in x509.ReasonFlags:
        assert flag.value in REASONS
    assert sorted(REASONS.values()) == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]


async def test_a_list_is_believed(hierarchy: Hierarchy) -> None:
    """Number, times, scope and serials of a good list come out."""
    found = revocations_of(hierarchy.clock.now())
    der = await crl_of(hierarchy, found)
    crl = VerifiedCrl.verify(der, hierarchy.issuing.certificate, hierarchy.clock.now())
    assert crl.der == der
    assert crl.number == 7
    assert crl.serials == {item.serial for item in found}
    assert crl.issuer == hierarchy.issuing.certificate.subject
    assert (crl.this_update, crl.next_update) == (hierarchy.clock.now(), hierarchy.clock.now() + HOUR)
    assert crl.scope == "user"


async def test_times(ecdsa: Hierarchy) -> None:
    """A list holds until its nextUpdate, not beyond, and a list from the future does not hold yet."""
    der, now, issuer = await crl_of(ecdsa), ecdsa.clock.now(), ecdsa.issuing.certificate
    VerifiedCrl.verify(der, issuer, now + HOUR - timedelta(seconds=1))
    for at in (now + HOUR, now - HOUR):
        with pytest.raises(StaleStatusError):
            VerifiedCrl.verify(der, issuer, at)


async def test_lists_of_others(hierarchy: Hierarchy) -> None:
    """A list of another issuer, one with a bent signature, and one of a namesake with another key are not believed."""
    issuer, now = hierarchy.issuing.certificate, hierarchy.clock.now()
    der = await crl_of(hierarchy, revocations_of(now))
    with pytest.raises(BadSignatureError, match="another issuer"):
        VerifiedCrl.verify(der, hierarchy.root.certificate, now)
    for at in (len(der) - 1, der.index(b"http://a.example") + 8):
        bent = der[:at] + bytes((der[at] ^ 1,)) + der[at + 1 :]
        with pytest.raises(BadSignatureError):
            VerifiedCrl.verify(bent, issuer, now)


async def test_another_algorithm_outside_than_inside(ecdsa: Hierarchy) -> None:
    """RFC 5280 §5.1.1.2: both algorithm fields agree, or the list is malformed."""
    der = await crl_of(ecdsa)
    inner = bytes.fromhex("06082a8648ce3d040302")
    outer_at = der.rindex(inner)
    swapped = der[: outer_at + len(inner) - 1] + b"\x03" + der[outer_at + len(inner) :]
    with pytest.raises(MalformedError):
        VerifiedCrl.verify(swapped, ecdsa.issuing.certificate, ecdsa.clock.now())


async def test_a_signer_that_answers_garbage(ecdsa: Hierarchy) -> None:
    """What a stranger's key signs is noticed before it is published."""
    stranger = MemoryKey.generate("ecdsa-p256")
    now = ecdsa.clock.now()
    with pytest.raises(BadSignatureError):
        await build_crl(
            ecdsa.issuing.certificate, stranger, [], number=1, this_update=now, next_update=now + HOUR,
            distribution_points=URLS, scope=None,
        )  # fmt: skip


def handmade(hierarchy: Hierarchy, *extensions: bytes, version: bytes = integer(1), following: bool = True) -> bytes:
    """A correctly signed list with extensions that our builder would not write."""
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    now = hierarchy.clock.now()
    tbs = sequence(
        version,
        algorithm,
        hierarchy.issuing.certificate.subject.public_bytes(),
        x509_time(now),
        x509_time(now + HOUR) if following else b"",
        b"\xa0" + bytes((len(sequence(*extensions)),)) + sequence(*extensions) if extensions else b"",
    )
    return sequence(tbs, algorithm, bit_string(asyncio.run(hierarchy.issuing_key.sign(tbs))))


def test_kinds_of_lists_that_are_not_understood(ecdsa: Hierarchy) -> None:
    """Deltas, indirect and partial lists and unknown critical extensions must not pass for full lists."""
    number, issuer = extension("2.5.29.20", integer(1)), ecdsa.issuing.certificate
    for strange in (
        extension("2.5.29.27", integer(1), critical=True),
        extension("2.5.29.27", integer(1)),
        extension("2.5.29.28", sequence(b"\x84\x01\xff"), critical=True),
        extension("2.5.29.28", sequence(b"\x83\x02\x06\x40"), critical=True),
        extension("2.5.29.28", sequence(b"\x85\x01\xff"), critical=True),
        extension("1.2.3.4", b"\x05\x00", critical=True),
    ):
        with pytest.raises((UnsupportedError, MalformedError)):
            VerifiedCrl.verify(handmade(ecdsa, number, strange), issuer, ecdsa.clock.now())


def test_lists_that_lack_what_they_need(ecdsa: Hierarchy) -> None:
    """No extensions, no AKI, no nextUpdate, version 1, trailing bytes: malformed."""
    number, issuer, now = extension("2.5.29.20", integer(1)), ecdsa.issuing.certificate, ecdsa.clock.now()
    good = asyncio.run(crl_of(ecdsa))
    for der in (
        handmade(ecdsa),
        handmade(ecdsa, number),
        handmade(ecdsa, number, number),
        handmade(ecdsa, number, following=False),
        handmade(ecdsa, number, version=integer(7)),
        good + b"\x00",
        good[:-1],
        b"",
    ):
        with pytest.raises(MalformedError):
            VerifiedCrl.verify(der, issuer, now)


@pytest.fixture(scope="session")
def good_list(ecdsa: Hierarchy) -> bytes:
    """A list with three entries."""
    return asyncio.run(crl_of(ecdsa, revocations_of(ecdsa.clock.now())[:3]))


@given(st.integers(0, 400), st.binary(min_size=1, max_size=4))
def test_verifying_bent_lists_is_total(ecdsa: Hierarchy, good_list: bytes, at: int, piece: bytes) -> None:
    """A list with some bytes changed is never believed, and only errors of our tree come out."""
    bent = good_list[:at] + piece + good_list[at + 1 :]
    if bent != good_list:
        with pytest.raises((MalformedError, BadSignatureError, UnsupportedError, StaleStatusError)):
            VerifiedCrl.verify(bent, ecdsa.issuing.certificate, ecdsa.clock.now())


def test_openssl_reads_and_applies_the_list(ecdsa: Hierarchy, tmp_path: Path) -> None:
    """`openssl crl` verifies it; `openssl verify -crl_check_all` accepts one leaf and refuses the revoked one."""
    issuer, root = ecdsa.issuing, ecdsa.root
    good, revoked = asyncio.run(ecdsa.server("good.example")), asyncio.run(ecdsa.server("revoked.example"))
    crl = x509.load_der_x509_crl(asyncio.run(ecdsa.crl([revoked.certificate.serial_number])))
    root_crl = x509.load_der_x509_crl(asyncio.run(ecdsa.root_crl()))
    for name, value in (
        ("root", root.certificate),
        ("issuing", issuer.certificate),
        ("good", good.certificate),
        ("revoked", revoked.certificate),
        ("crl", crl),
        ("rootcrl", root_crl),
    ):
        (tmp_path / name).write_bytes(value.public_bytes(Encoding.PEM))

    def openssl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["openssl", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)

    shown = openssl("crl", "-in", "crl", "-CAfile", "issuing", "-text", "-noout")
    assert "verify OK" in shown.stderr
    for expected in ("Key Compromise", "X509v3 Issuing Distribution Point: critical", "Only User Certificates"):
        assert expected in shown.stdout
    trust = ["-crl_check_all", "-CAfile", "root", "-untrusted", "issuing", "-CRLfile", "crl", "-CRLfile", "rootcrl"]
    accepted, refused = openssl("verify", *trust, "good"), openssl("verify", *trust, "revoked")
    assert accepted.returncode == 0, accepted.stderr
    assert "certificate revoked" in refused.stderr


async def test_a_large_list_by_a_key_in_a_file_is_as_a_small_one(hierarchy: Hierarchy) -> None:
    """By digest where the algorithm has one; another key's signature is found out."""
    now, certificate = hierarchy.clock.now(), hierarchy.issuing.certificate
    entries = b"".join(encode_entry(Revocation((1 << 152) + number, now, "superseded")) for number in range(6000))
    fields: dict[str, Any] = {"number": 7, "this_update": now, "next_update": now + HOUR}
    fields |= {"distribution_points": URLS, "scope": "user"}
    with ThreadPoolExecutor(1) as pool:
        key, other = (
            FileKey("file:/k", each.private_key, pool) for each in (hierarchy.issuing_key, hierarchy.root_key)
        )
        der = await build_crl(certificate, key, [entries], **fields)
        assert len(der) > 1 << 18
        crl = VerifiedCrl.verify(der, certificate, now)
        with pytest.raises(BadSignatureError):
            await build_crl(certificate, other, [entries], **fields)
    assert (len(crl.serials), crl.number, crl.distribution_points) == (6000, 7, frozenset(URLS))


async def test_where_the_entries_of_a_list_begin(ecdsa: Hierarchy) -> None:
    """Behind the fifth field, whatever the length of the list; what is cut off before that is no list."""
    for count in (1, 3, 400):
        entries = [encode_entry(Revocation(number, ecdsa.clock.now(), "superseded")) for number in range(count)]
        der = await crl_of(ecdsa, [Revocation(number, ecdsa.clock.now(), "superseded") for number in range(count)])
        start = entries_start(der)
        assert der[start:].startswith(b"".join(entries))
        assert stated_size(der[:start]) == stated_size(der) == len(der)
        with pytest.raises(MalformedError):
            entries_start(der[:40])
    for nothing in (b"", b"\x30"):
        with pytest.raises(MalformedError):
            stated_size(nothing)
