"""Key attestations of a YubiHSM 2, verified offline.

What is verified, in this order:

1 the chain (attestation, device certificate, intermediates) is short, and each certificate is signed by the next one;
2 it ends at a root that the operator supplied: Yubico's, fetched and checked by hand;
3 every certificate is valid at the given time;
4 nothing but the first certificate attests a key: a key that the device merely holds can sign whatever its owner wants,
  a certificate that looks like an attestation too, and must not vouch for another;
5 the attested key is the one in question;
6 it was generated in the device, and nowhere else before;
7 it cannot leave the device wrapped;
8 attestation and device certificate name the same device, and the enrolled one where the caller knows it;
9 the firmware is not older than the floor.

Neither revocation (Yubico publishes none) nor the FIPS mode is looked at. The rules of web certificates do not fit
these (no SAN, no EKU), so `cryptography.x509.verification` cannot be used.
Source: Yubico, YubiHSM 2 User Guide, "Attestation"; extensions below 1.3.6.1.4.1.41482.4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import PublicKey
from services.signer_hsm.backends import Attestation
from services.signer_hsm.errors import AttestationError

FORMAT: Final = "yubihsm2"

_ARC: Final = "1.3.6.1.4.1.41482.4"
_FIRMWARE, _SERIAL, _ORIGIN, _DOMAINS, _CAPABILITIES, _OBJECT_ID, _LABEL = (
    x509.ObjectIdentifier(f"{_ARC}.{last}") for last in (1, 2, 3, 4, 5, 6, 9)
)
_OF_A_KEY: Final = frozenset({_ORIGIN, _DOMAINS, _CAPABILITIES, _OBJECT_ID, _LABEL})
_GENERATED: Final = 0x01
_EXPORTABLE_UNDER_WRAP: Final = 1 << 16
_MAX_CHAIN: Final = 6
_MIN_CHAIN: Final = 2
_MAX_CERTIFICATE: Final = 8192
_MAX_NAME: Final = 80
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)

Value = TypeVar("Value")


@dataclass(frozen=True)
class _Statement:
    firmware: tuple[int, ...]
    serial: int
    origin: int
    domains: int
    capabilities: int
    object_id: int
    label: str


def verify_yubihsm2(
    chain: Sequence[bytes],
    public_key: PublicKey,
    roots: Sequence[x509.Certificate],
    at: datetime,
    *,
    serial: int | None = None,
    firmware_floor: tuple[int, int, int] = (2, 2, 0),
) -> Attestation:
    """What the device says of the key, after all nine checks.

    Args:
        chain: DER certificates: the attestation, the device certificate, intermediates; the root may be left out.
        public_key: of the key that is to be attested.
        roots: those that the operator supplied.
        at: the time at which all must be valid, aware.
        serial: of the enrolled device, where one is.
        firmware_floor: the oldest firmware that is believed.

    Raises:
        AttestationError: the first check that fails, as one sentence.
    """
    certificates = _parse(chain)
    root = _verify_chain(certificates, roots)
    for certificate in (*certificates, root):
        if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
            raise AttestationError(f"the certificate {_name(certificate)} is not valid at {at:%Y-%m-%d}")
    for issuer in (*certificates[1:], root):
        if _OF_A_KEY & {extension.oid for extension in issuer.extensions}:
            raise AttestationError(f"{_name(issuer)} attests a key itself and cannot vouch for another")
    statement = _statement_of(certificates[0])
    if _spki(certificates[0]) != public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise AttestationError("the attestation is about another key")
    _check_statement(statement, firmware_floor)
    _check_device(statement, certificates[1], serial)
    return Attestation(FORMAT, "device", verified=True, claims=_claims(statement), chain=tuple(chain))


def _parse(chain: Sequence[bytes]) -> list[x509.Certificate]:
    if not _MIN_CHAIN <= len(chain) <= _MAX_CHAIN:
        raise AttestationError(f"an attestation comes with {_MIN_CHAIN} to {_MAX_CHAIN} certificates, not {len(chain)}")
    if any(len(der) > _MAX_CERTIFICATE for der in chain):
        raise AttestationError(f"a certificate of the attestation has more than {_MAX_CERTIFICATE} octets")
    try:
        certificates = [x509.load_der_x509_certificate(der) for der in chain]
        for certificate in certificates:
            _ = certificate.extensions, certificate.subject, certificate.issuer  # they are parsed when first read
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise AttestationError("the attestation holds something that is no certificate") from error
    return certificates


def _verify_chain(certificates: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]) -> x509.Certificate:
    for child, parent in pairwise(certificates):
        if not _issued(child, parent):
            raise AttestationError(f"{_name(child)} is not signed by {_name(parent)}")
    last = certificates[-1]
    root = next((root for root in roots if root == last or _issued(last, root)), None)
    if root is None:
        raise AttestationError("the chain ends at no root that the operator supplied")
    for issuer in (*certificates[2:], root):
        if not _is_authority(issuer):
            raise AttestationError(f"{_name(issuer)} is no certification authority")
    return root


def _issued(child: x509.Certificate, parent: x509.Certificate) -> bool:
    try:
        if not isinstance(child.signature_hash_algorithm, _HASHES):
            return False
        child.verify_directly_issued_by(parent)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _check_statement(statement: _Statement, firmware_floor: tuple[int, int, int]) -> None:
    if statement.origin != _GENERATED:
        raise AttestationError(f"the key was not generated in the device alone: its origin is {statement.origin:#04x}")
    if statement.capabilities & _EXPORTABLE_UNDER_WRAP:
        raise AttestationError("the key may leave the device under wrap")
    if len(statement.firmware) != len(firmware_floor) or statement.firmware < firmware_floor:
        floor = _dotted(firmware_floor)
        raise AttestationError(f"the device's firmware {_dotted(statement.firmware)} is older than {floor}")


def _check_device(statement: _Statement, device: x509.Certificate, serial: int | None) -> None:
    named = _value(device, _SERIAL, int)
    if named != statement.serial:
        raise AttestationError(f"the attestation is of device {statement.serial}, its certificate of device {named}")
    if serial is not None and serial != statement.serial:
        raise AttestationError(f"the attestation is of device {statement.serial}; {serial} is enrolled")


def _statement_of(certificate: x509.Certificate) -> _Statement:
    return _Statement(
        firmware=tuple(_value(certificate, _FIRMWARE, bytes)),
        serial=_value(certificate, _SERIAL, int),
        origin=_bits(certificate, _ORIGIN),
        domains=_bits(certificate, _DOMAINS),
        capabilities=_bits(certificate, _CAPABILITIES),
        object_id=_value(certificate, _OBJECT_ID, int),
        label=_value(certificate, _LABEL, str).split("\0", 1)[0],  # the device fills up with zeros
    )


def _bits(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> int:
    string = _value(certificate, oid, asn1.BitString)
    if string.padding_bits():
        raise AttestationError(f"{_name(certificate)} has no whole octets in its extension {oid.dotted_string}")
    return int.from_bytes(string.as_bytes(), "big")


def _value(certificate: x509.Certificate, oid: x509.ObjectIdentifier, kind: type[Value]) -> Value:
    try:
        extension = certificate.extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound as error:
        raise AttestationError(f"{_name(certificate)} lacks the extension {oid.dotted_string}") from error
    try:
        return asn1.decode_der(kind, extension.public_bytes())
    except ValueError as error:
        raise AttestationError(f"{_name(certificate)} has an unreadable extension {oid.dotted_string}") from error


def _claims(statement: _Statement) -> dict[str, str | int | bool | None]:
    return {
        "serial": statement.serial,
        "firmware": _dotted(statement.firmware),
        "origin": "generated",
        "exportable_under_wrap": False,
        "domains": f"{statement.domains:04x}",
        "capabilities": f"{statement.capabilities:016x}",
        "object_id": statement.object_id,
        "label": statement.label,
    }


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _name(certificate: x509.Certificate) -> str:
    return f"{certificate.subject.rfc4514_string()[:_MAX_NAME]!a}"
