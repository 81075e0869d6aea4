"""Time-stamp tokens (RFC 3161 §2.4.2): TSTInfo inside SignedData, by a key that is elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from pkicore.cms import SignedAttributes, SignerInfo, all_digests, assemble, signed_attributes
from pkicore.cms.der import only, read_boolean, read_elements, read_oid, read_time
from pkicore.encoding import (
    GENERALIZED_TIME,
    INTEGER,
    SEQUENCE,
    DerReader,
    generalized_time,
    integer,
    object_identifier,
    sequence,
    tlv,
)
from pkicore.errors import BadCertificateError, MalformedError, UnsupportedError
from pkicore.tsp.request import MessageImprint
from pkicore.x509 import PARSE_ERRORS

TST_INFO: Final = "1.2.840.113549.1.9.16.1.4"
_MAX_TST_INFO: Final = 16 * 1024  # octets
_MAX_EXTENSIONS: Final = 16
_UNITS: Final = ((INTEGER, "seconds", 86_400), (0x80, "milliseconds", 999), (0x81, "microseconds", 999))
_AUTHORITY: Final = 0xA0
_DIRECTORY_NAME: Final = 0xA4
_EXTENSIONS: Final = 0xA1
_WHAT: Final = "the TSTInfo"


@dataclass(frozen=True, slots=True)
class TstInfo:
    """What an authority says: this digest existed at this time.

    Attributes:
        policy: dotted object identifier of the policy it holds to.
        imprint: the digest.
        serial: of the token, unique at the authority.
        gen_time: the time, in UTC.
        accuracy: how far it may be off; None where the authority does not say.
        nonce: that of the request.
        authority: subject of the authority in DER; None where it is not named.
    """

    policy: str
    imprint: MessageImprint
    serial: int
    gen_time: datetime
    accuracy: timedelta | None = None
    nonce: int | None = None
    authority: bytes | None = field(default=None, repr=False)

    def to_der(self) -> bytes:
        """TSTInfo in DER, the time in whole seconds, ordering FALSE; without `authority`: the signature names it."""
        return sequence(
            integer(1),
            object_identifier(self.policy),
            self.imprint.der,
            integer(self.serial),
            generalized_time(self.gen_time),
            b"" if self.accuracy is None else _accuracy_der(self.accuracy),
            b"" if self.nonce is None else integer(self.nonce),
        )

    @classmethod
    def parse(cls, der: bytes) -> TstInfo:
        """Read TSTInfo in DER.

        Raises:
            MalformedError: not that.
            UnsupportedError: another version or hash, a critical extension, an authority that is no directory name.
        """
        if len(der) > _MAX_TST_INFO:
            raise MalformedError(f"{_WHAT} is larger than {_MAX_TST_INFO} octets")
        info = only(der)
        if info.read_integer() != 1:
            raise UnsupportedError(f"{_WHAT} has another version than 1")
        policy, imprint, serial = read_oid(info), MessageImprint.parse(info.read_element()), info.read_integer()
        if not info.next_is(GENERALIZED_TIME):
            raise MalformedError(f"{_WHAT} has no GeneralizedTime")
        gen_time = read_time(info)
        accuracy = _read_accuracy(info.enter()) if info.next_is(SEQUENCE) else None
        read_boolean(info)  # ordering
        nonce = info.read_integer() if info.next_is(INTEGER) else None
        authority = _read_authority(info.enter(_AUTHORITY)) if info.next_is(_AUTHORITY) else None
        if info.next_is(_EXTENSIONS):
            _check_extensions(info.enter(_EXTENSIONS))
        info.finish()
        return cls(policy, imprint, serial, gen_time, accuracy, nonce, authority)


@dataclass(frozen=True, slots=True)
class PreparedToken:
    """A token without its signature.

    Attributes:
        content: TSTInfo in DER.
        attributes: what is signed about it.
    """

    content: bytes = field(repr=False)
    attributes: SignedAttributes

    @property
    def message(self) -> bytes:
        """The exact bytes to sign."""
        return self.attributes.message

    def finish(self, signature: bytes, certificates: Iterable[x509.Certificate] = ()) -> bytes:
        """The token in DER.

        Args:
            signature: by the authority's key over `message`.
            certificates: the authority's first, and those above it, where the request wants them; else none.

        Raises:
            BadSignatureError: it is none by this key.
        """
        return assemble([SignerInfo(self.attributes, signature)], certificates=certificates, content=self.content)


def prepare_token(info: TstInfo, certificate: x509.Certificate) -> PreparedToken:
    """What an authority's key must sign; the signature binds the certificate (RFC 5816 §2.2.1).

    Raises:
        UnsupportedError: the key is not in the table.
    """
    content = info.to_der()
    digests = all_digests(content)
    return PreparedToken(
        content, signed_attributes(certificate, digests, signing_time=info.gen_time, content_type=TST_INFO)
    )


def check_authority(certificate: x509.Certificate, at: datetime) -> None:
    """The certificate is for time-stamping, critically, for nothing else (RFC 3161 §2.3), and was in force.

    Raises:
        BadCertificateError: it is not.
    """
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except (x509.ExtensionNotFound, *PARSE_ERRORS) as error:
        raise BadCertificateError("the authority's certificate does not say what it is for") from error
    if not usage.critical or list(usage.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise BadCertificateError("the authority's certificate must be for timeStamping alone, and critically so")
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        raise BadCertificateError("the authority's certificate was not in force")


def _accuracy_der(accuracy: timedelta) -> bytes:
    """Accuracy ::= SEQUENCE { seconds, millis [0] (1..999), micros [1] (1..999) }, each OPTIONAL."""
    millis, micros = divmod(accuracy.microseconds, 1000)
    values = (accuracy.days * 86_400 + accuracy.seconds, millis, micros)
    parts = zip(_UNITS, values, strict=True)
    return sequence(*(tlv(tag, integer(value)[2:]) for (tag, _, _), value in parts if value))


def _read_accuracy(reader: DerReader) -> timedelta:
    found = timedelta()
    for tag, unit, most in _UNITS:
        if reader.next_is(tag):
            value = DerReader(tlv(INTEGER, reader.read(tag))).read_integer()
            if not 0 <= value <= most:
                raise MalformedError(f"{_WHAT} has an accuracy of {unit} that makes no sense")
            found += timedelta(**{unit: value})
    reader.finish()
    return found


def _read_authority(name: DerReader) -> bytes:
    if not name.next_is(_DIRECTORY_NAME):
        raise UnsupportedError(f"{_WHAT} names its authority in another way than by its subject")
    subject = name.read(_DIRECTORY_NAME)
    name.finish()
    return subject


def _check_extensions(extensions: DerReader) -> None:
    """RFC 3161 §2.4.2: what is critical must be understood, and nothing is."""
    for element in read_elements(extensions, _MAX_EXTENSIONS, "extensions"):
        extension = only(element)
        oid = read_oid(extension)
        if read_boolean(extension):
            raise UnsupportedError(f"{_WHAT} has the critical extension {oid}")
