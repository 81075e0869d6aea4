"""TSTInfo and the certificates of authorities."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from pkicore.clock import SystemClock
from pkicore.encoding import NULL, explicit, extension, integer, object_identifier, octet_string, sequence, tlv
from pkicore.errors import BadCertificateError, MalformedError, PkiError, UnsupportedError
from pkicore.tsp import MessageImprint, TstInfo, check_authority, prepare_token
from tests.support.signing_pki import TIME_STAMPING, SigningPki

PKI = SigningPki.make("ecdsa-p256", SystemClock().now())
IMPRINT = MessageImprint.of("sha256", bytes(32))
MOMENT = datetime(2026, 11, 22, 9, 58, 55, tzinfo=UTC)
TIME = tlv(0x18, b"20261122095855Z")
POLICY = object_identifier("1.2.3")


def tst_info(*rest: bytes, version: int = 1, imprint: bytes = IMPRINT.der, time: bytes = TIME) -> bytes:
    """TSTInfo with whatever follows the time."""
    return sequence(integer(version), POLICY, imprint, integer(5), time, *rest)


@given(
    serial=st.integers(0, 2**159),
    moment=st.datetimes(datetime(2000, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds the zone
    accuracy=st.none() | st.timedeltas(timedelta(microseconds=1), timedelta(days=1)),
    nonce=st.none() | st.integers(-(2**64), 2**64),
)
def test_what_is_written_is_read(serial: int, moment: datetime, accuracy: timedelta | None, nonce: int | None) -> None:
    """Every field survives; the time in whole seconds."""
    whole = moment.replace(microsecond=0)
    info = TstInfo("1.2.3.4", IMPRINT, serial, whole, accuracy, nonce)
    assert TstInfo.parse(info.to_der()) == info


def test_foreign_fields_are_read() -> None:
    """Fractions of a second, ordering, the authority's name and harmless extensions."""
    name = PKI.root.certificate.subject.public_bytes()
    parts = (
        sequence(integer(1), tlv(0x80, b"\x01"), tlv(0x81, b"\x00\x80")),
        b"\x01\x01\xff",
        integer(9),
        explicit(0, tlv(0xA4, name)),
        tlv(0xA1, extension("1.3.6.1.5.5.7.1.3", b"")),
    )
    found = TstInfo.parse(tst_info(*parts, time=tlv(0x18, b"20261122095855.25Z")))
    assert found.gen_time == MOMENT.replace(microsecond=250_000)
    assert found.accuracy == timedelta(seconds=1, milliseconds=1, microseconds=128)
    assert (found.nonce, found.authority) == (9, name)


@pytest.mark.parametrize(
    "der",
    [
        b"",
        tst_info() + tst_info(),
        tst_info() + b"\x00",
        tst_info(NULL),
        tst_info(time=tlv(0x17, b"261122095855Z")),
        tst_info(time=tlv(0x18, b"20261122095855+0100")),
        tst_info(time=tlv(0x18, b"202611220958Z")),
        tst_info(time=TIME + TIME),
        tst_info(sequence(integer(-1))),
        tst_info(sequence(integer(86_401))),
        tst_info(sequence(tlv(0x80, b"\x03\xe8"))),
        tst_info(sequence(tlv(0x81, b"\xff"))),
        tst_info(sequence(tlv(0x80, b""))),
        tst_info(sequence(tlv(0x81, b"\x01"), tlv(0x80, b"\x01"))),
        tst_info(integer(1), integer(2)),
        tst_info(imprint=sequence(sequence(object_identifier("2.16.840.1.101.3.4.2.1")), octet_string(bytes(31)))),
        tst_info(tlv(0xA1, extension("1.2.3", b"") * 17)),
        tlv(0x30, bytes(17_000)),
    ],
)
def test_what_is_no_tst_info_is_refused(der: bytes) -> None:
    """Two of them, bytes behind, local times, accuracies that make no sense, fields twice, too large."""
    with pytest.raises(MalformedError):
        TstInfo.parse(der)


@pytest.mark.parametrize(
    "der",
    [
        tst_info(version=2),
        tst_info(tlv(0xA1, extension("1.2.3", b"", critical=True))),
        tst_info(explicit(0, tlv(0x82, b"tsa.example"))),
        tst_info(imprint=sequence(sequence(object_identifier("1.3.14.3.2.26")), octet_string(bytes(20)))),
    ],
)
def test_what_is_not_understood_is_refused(der: bytes) -> None:
    """Another version or hash, a critical extension, an authority by DNS name."""
    with pytest.raises(UnsupportedError):
        TstInfo.parse(der)


@given(st.binary(max_size=60))
def test_noise_is_refused(noise: bytes) -> None:
    """Nothing but our own errors; and what passes as trailing fields must be such fields."""
    with pytest.raises(PkiError):
        TstInfo.parse(noise)


def test_the_same_token_is_prepared_twice() -> None:
    """No clock and no chance in it: what is signed depends on the arguments alone."""
    authority = PKI.issue("ecdsa-p256", TIME_STAMPING)
    info = TstInfo("1.2.3", IMPRINT, 1, MOMENT, nonce=5)
    one, two = (prepare_token(info, authority.certificate) for _ in range(2))
    assert (one.message, one.content) == (two.message, two.content)


def test_an_authority_is_for_time_stamping_alone() -> None:
    """Critically so, and at that time."""
    good = PKI.issue("ecdsa-p256", TIME_STAMPING).certificate
    check_authority(good, PKI.now)
    check_authority(good, good.not_valid_before_utc)
    check_authority(good, good.not_valid_after_utc)
    for moment in (good.not_valid_before_utc - timedelta(seconds=1), good.not_valid_after_utc + timedelta(seconds=1)):
        with pytest.raises(BadCertificateError, match="not in force"):
            check_authority(good, moment)


BOTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING])
ANY = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
TWICE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.TIME_STAMPING])


@pytest.mark.parametrize(
    ("usage", "critical"), [(None, True), (TIME_STAMPING, False), (BOTH, True), (ANY, True), (TWICE, True)]
)
def test_others_are_no_authorities(usage: x509.ExtendedKeyUsage | None, *, critical: bool) -> None:
    """No usage, one that may be overlooked, another one beside it, any, or the same twice (RFC 3161 §2.3)."""
    with pytest.raises(BadCertificateError):
        check_authority(PKI.issue("ecdsa-p256", usage, critical=critical).certificate, PKI.now)
