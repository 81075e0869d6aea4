"""A made-up device with real encodings; real devices, and Yubico's real roots, are unseen here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pkicore.algorithms import PublicKey
from services.signer_hsm.attestation.yubihsm import verify_yubihsm2
from services.signer_hsm.errors import AttestationError

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SERIAL = 7654321
SIGN_ECDSA, EXPORTABLE_UNDER_WRAP = 1 << 7, 1 << 16
DEVICE_NAME = f"YubiHSM Attestation ({SERIAL})"

Extensions = Sequence[tuple[int, bytes]]


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:  # noqa: ARG001 -- the cache tells keys apart by it
    """One key for each name in the chain."""
    return rsa.generate_private_key(65537, 2048)


@cache
def ec_key(name: str) -> ec.EllipticCurvePrivateKey:  # noqa: ARG001 -- likewise, by name
    """One key for each name of a key in the device."""
    return ec.generate_private_key(ec.SECP384R1())


def bits(value: int, octets: int) -> bytes:
    """A BIT STRING of whole octets."""
    return asn1.encode_der(asn1.BitString(value.to_bytes(octets, "big"), 0))


@dataclass(frozen=True)
class Made:
    """A certificate to be made; each test changes what it is about."""

    subject: str
    issuer: str
    public_key: PublicKey
    signing_key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    authority: bool | None = True
    extensions: Extensions = ()
    begin: datetime = NOW - DAY
    end: datetime = NOW + DAY
    digest: hashes.SHA224 | hashes.SHA256 = field(default_factory=hashes.SHA256)

    def certificate(self) -> x509.Certificate:
        """The signed certificate."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.issuer)]))
            .public_key(self.public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.begin)
            .not_valid_after(self.end)
        )
        if self.authority is not None:
            builder = builder.add_extension(x509.BasicConstraints(self.authority, None), critical=True)
        for last, value in self.extensions:
            oid = x509.ObjectIdentifier(f"1.3.6.1.4.1.41482.4.{last}")
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        return builder.sign(self.signing_key, self.digest)

    def der(self) -> bytes:
        """Its DER."""
        return self.certificate().public_bytes(Encoding.DER)


def of_a_key(
    *, firmware: tuple[int, ...] = (2, 4, 1), serial: int = SERIAL, origin: int = 1, capabilities: int = SIGN_ECDSA
) -> Extensions:
    """The extensions of a key attestation."""
    return (
        (1, asn1.encode_der(bytes(firmware))),
        (2, asn1.encode_der(serial)),
        (3, bits(origin, 1)),
        (4, bits(1, 2)),
        (5, bits(capabilities, 8)),
        (6, asn1.encode_der(0x1234)),
        (9, asn1.encode_der("ca.issuing.v1" + "\0" * 27)),
    )


ROOT = Made("Root", "Root", rsa_key("root").public_key(), rsa_key("root"))
INTERMEDIATE = Made("Intermediate", "Root", rsa_key("intermediate").public_key(), rsa_key("root"))
DEVICE = Made(
    DEVICE_NAME,
    "Intermediate",
    rsa_key("device").public_key(),
    rsa_key("intermediate"),
    extensions=((1, asn1.encode_der(bytes((2, 4, 1)))), (2, asn1.encode_der(SERIAL))),
)
ATTESTATION = Made(
    "YubiHSM Attestation id:0x1234",
    DEVICE_NAME,
    ec_key("ours").public_key(),
    rsa_key("device"),
    authority=None,
    extensions=of_a_key(),
)
KEY = ec_key("ours").public_key()


def chain(attestation: Made = ATTESTATION, device: Made = DEVICE, intermediate: Made = INTERMEDIATE) -> list[bytes]:
    """The three certificates that come with a key."""
    return [attestation.der(), device.der(), intermediate.der()]


def roots() -> list[x509.Certificate]:
    """What the operator supplied."""
    return [ROOT.certificate()]


def attested(**changes: object) -> list[bytes]:
    """A chain whose attestation says something else."""
    return chain(replace(ATTESTATION, extensions=of_a_key(**changes)))  # type: ignore[arg-type]  # each test its own


def test_a_good_chain_says_what_the_device_says() -> None:
    """The claims are the device's, the label without its padding."""
    found = verify_yubihsm2(chain(), KEY, roots(), NOW, serial=SERIAL)
    assert (found.format, found.by, found.verified) == ("yubihsm2", "device", True)
    assert found.claims == {
        "serial": SERIAL,
        "firmware": "2.4.1",
        "origin": "generated",
        "exportable_under_wrap": False,
        "domains": "0001",
        "capabilities": "0000000000000080",
        "object_id": 0x1234,
        "label": "ca.issuing.v1",
    }
    assert len(found.chain) == 3


def test_the_root_may_come_with_the_chain() -> None:
    """A chain that ends with the operator's own root is as good as one that stops before it."""
    trusted = roots()
    whole = [*chain(), trusted[0].public_bytes(Encoding.DER)]
    assert verify_yubihsm2(whole, KEY, trusted, NOW).verified


def test_a_device_key_on_a_curve_is_understood() -> None:
    """Chains of ECDSA keys verify too."""
    device = replace(DEVICE, public_key=ec_key("device").public_key())
    attestation = replace(ATTESTATION, signing_key=ec_key("device"))
    assert verify_yubihsm2(chain(attestation, device), KEY, roots(), NOW).verified


def own_attesting_key() -> list[bytes]:
    """An attestation that another key than the device's has signed, under the device's name."""
    return chain(replace(ATTESTATION, signing_key=rsa_key("attacker")))


def key_that_vouches() -> list[bytes]:
    """A key of the device, rightly attested, signs an attestation of a key made outside."""
    holder = replace(ATTESTATION, subject="Holder", public_key=ec_key("holder").public_key())
    forged = replace(ATTESTATION, issuer="Holder", signing_key=ec_key("holder"))
    return [forged.der(), holder.der(), DEVICE.der(), INTERMEDIATE.der()]


def weak_hash() -> list[bytes]:
    """An attestation with a hash that is not taken."""
    return chain(replace(ATTESTATION, digest=hashes.SHA224()))


def padded_bits() -> list[bytes]:
    """An origin of seven bits."""
    odd = [(last, value if last != 3 else asn1.encode_der(asn1.BitString(b"\x02", 1))) for last, value in of_a_key()]
    return chain(replace(ATTESTATION, extensions=odd))


def garbled_serial() -> list[bytes]:
    """A serial number that is no INTEGER."""
    odd = [(last, value if last != 2 else b"\x04\x01\x01") for last, value in of_a_key()]
    return chain(replace(ATTESTATION, extensions=odd))


REFUSALS: dict[str, tuple[Callable[[], list[bytes]], str]] = {
    "imported": (lambda: attested(origin=0x02), "not generated in the device alone: its origin is 0x02"),
    "imported wrapped": (lambda: attested(origin=0x11), "its origin is 0x11"),
    "no origin at all": (lambda: attested(origin=0), "its origin is 0x00"),
    "exportable": (lambda: attested(capabilities=SIGN_ECDSA | EXPORTABLE_UNDER_WRAP), "may leave the device"),
    "old firmware": (lambda: attested(firmware=(2, 1, 9)), "firmware 2.1.9 is older than 2.2.0"),
    "firmware of four numbers": (lambda: attested(firmware=(9, 9, 9, 9)), "firmware"),
    "another device": (lambda: attested(serial=1), "of device 1, its certificate of device 7654321"),
    "own attesting key": (own_attesting_key, "is not signed by"),
    "a key of the device vouches for another": (key_that_vouches, "attests a key itself and cannot vouch"),
    "a weak hash": (weak_hash, "is not signed by"),
    "odd bits": (padded_bits, "no whole octets"),
    "garbled serial": (garbled_serial, "unreadable extension"),
    "a gap in the chain": (lambda: chain()[:2], "no root that the operator supplied"),
    "the order reversed": (lambda: chain()[::-1], "is not signed by"),
    "no extensions": (lambda: chain(replace(ATTESTATION, extensions=())), "lacks the extension"),
    "a device without serial": (lambda: chain(device=replace(DEVICE, extensions=())), "lacks the extension"),
    "an intermediate that is none": (
        lambda: chain(intermediate=replace(INTERMEDIATE, authority=False)),
        "no certification authority",
    ),
    "an intermediate without constraints": (
        lambda: chain(intermediate=replace(INTERMEDIATE, authority=None)),
        "no certification authority",
    ),
    "an expired device": (lambda: chain(device=replace(DEVICE, end=NOW - timedelta(hours=1))), "is not valid at"),
    "an attestation from the future": (
        lambda: chain(replace(ATTESTATION, begin=NOW + timedelta(hours=1))),
        "is not valid at",
    ),
    "the attestation alone": (lambda: chain()[:1], "2 to 6 certificates"),
    "nothing": (list, "2 to 6 certificates"),
    "a long chain": (lambda: [*chain(), *chain(), *chain()], "2 to 6 certificates"),
    "garbage": (lambda: [b"\x30\x03\x02\x01\x01", *chain()[1:]], "no certificate"),
    "a huge certificate": (lambda: [b"\0" * 9000, *chain()[1:]], "more than 8192 octets"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_refused(what: str) -> None:
    """Each thing that is wrong is refused with a sentence of its own."""
    make, sentence = REFUSALS[what]
    with pytest.raises(AttestationError, match=sentence):
        verify_yubihsm2(make(), KEY, roots(), NOW)


def test_another_key_is_refused() -> None:
    """An attestation of one key says nothing of another."""
    with pytest.raises(AttestationError, match="about another key"):
        verify_yubihsm2(chain(), ec_key("other").public_key(), roots(), NOW)


def test_a_root_of_the_same_name_is_refused() -> None:
    """A root is its key, not its name; and no root at all vouches for nothing."""
    fake = replace(ROOT, public_key=rsa_key("attacker").public_key(), signing_key=rsa_key("attacker")).certificate()
    for trusted in ([fake], []):
        with pytest.raises(AttestationError, match="no root that the operator supplied"):
            verify_yubihsm2(chain(), KEY, trusted, NOW)


def test_a_root_out_of_date_is_refused() -> None:
    """The operator's root must be valid at the time too."""
    old = replace(ROOT, end=NOW - timedelta(hours=1)).certificate()
    with pytest.raises(AttestationError, match="is not valid at"):
        verify_yubihsm2(chain(), KEY, [old], NOW)


def test_a_device_that_is_not_enrolled_is_refused() -> None:
    """Where the caller knows the device, another one of the same maker will not do."""
    with pytest.raises(AttestationError, match="7654321; 42 is enrolled"):
        verify_yubihsm2(chain(), KEY, roots(), NOW, serial=42)


def test_the_floor_is_the_callers() -> None:
    """A firmware floor above the device's firmware refuses it; its own firmware is enough."""
    assert verify_yubihsm2(chain(), KEY, roots(), NOW, firmware_floor=(2, 4, 1)).verified
    with pytest.raises(AttestationError, match=r"2\.4\.1 is older than 2\.4\.2"):
        verify_yubihsm2(chain(), KEY, roots(), NOW, firmware_floor=(2, 4, 2))


def test_a_hostile_name_stays_one_short_line() -> None:
    """What an uploaded certificate calls itself cannot break a log line."""
    loud = replace(ATTESTATION, subject="a\nlevel=info " + "b" * 50, signing_key=rsa_key("attacker"))
    with pytest.raises(AttestationError) as refusal:
        verify_yubihsm2(chain(loud), KEY, roots(), NOW)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


def test_python_yubihsm_reads_the_same() -> None:
    """The encodings made up here are those that Yubico's own library reads."""
    try:
        from yubihsm.objects import AttestationExtensions
    except ImportError:
        pytest.skip("not run: yubihsm missing (pip install yubihsm)")
    theirs = AttestationExtensions.parse(ATTESTATION.certificate())
    ours = verify_yubihsm2(chain(), KEY, roots(), NOW).claims
    assert ours["serial"] == theirs.serial
    assert ours["firmware"] == ".".join(map(str, theirs.firmware_version))
    assert ours["object_id"] == theirs.object_id
    assert int(theirs.origin) == 1
    assert ours["domains"] == f"{int(theirs.domains):04x}"
    assert ours["capabilities"] == f"{int(theirs.capabilities):016x}"
    assert str(theirs.label).split("\0", 1)[0] == ours["label"]
