"""Time-stamp tokens (RFC 3161 §2.4.2): TSTInfo inside SignedData, by a key that is elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from asn1crypto import core, tsp
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from pkicore.cms import SignedAttributes, SignerInfo, all_digests, assemble, signed_attributes
from pkicore.cms.der import load_der, parsing
from pkicore.encoding import INTEGER, generalized_time, integer, object_identifier, sequence
from pkicore.errors import BadCertificateError, MalformedError, UnsupportedError
from pkicore.tsp.request import MessageImprint
from pkicore.x509 import PARSE_ERRORS

TST_INFO: Final = "1.2.840.113549.1.9.16.1.4"
_MAX_TST_INFO: Final = 16 * 1024  # octets
_MAX_ACCURACY: Final = timedelta(days=1)
_GEN_TIME: Final = re.compile(rb"[0-9]{14}(\.[0-9]{0,5}[1-9])?Z")
_MILLIS: Final = 0x80
_MICROS: Final = 0x81
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
        info = load_der(tsp.TSTInfo, der, _WHAT, max_bytes=_MAX_TST_INFO)
        with parsing(_WHAT):
            if info["version"].native != "v1":
                raise UnsupportedError(f"{_WHAT} has another version than 1")
            if any(extension["critical"].native for extension in info["extensions"]):
                raise UnsupportedError(f"{_WHAT} has a critical extension")
            if not _GEN_TIME.fullmatch(info["gen_time"].contents):
                raise MalformedError(f"the time of {_WHAT} is not in UTC")
            info["ordering"].native  # noqa: B018 - parses it
            return cls(
                policy=info["policy"].dotted,
                imprint=MessageImprint.read(info["message_imprint"]),
                serial=info["serial_number"].native,
                gen_time=info["gen_time"].native,
                accuracy=_accuracy(info["accuracy"]),
                nonce=info["nonce"].native,
                authority=_authority(info["tsa"]),
            )


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
    seconds = accuracy.days * 86400 + accuracy.seconds
    parts = ((INTEGER, seconds), (_MILLIS, millis), (_MICROS, micros))
    return sequence(*(bytes((tag,)) + integer(value)[1:] for tag, value in parts if value))


def _accuracy(accuracy: Any) -> timedelta | None:  # noqa: ANN401 - asn1crypto ships no types
    if isinstance(accuracy, core.Void):
        return None
    seconds, millis, micros = (accuracy[name].native or 0 for name in ("seconds", "millis", "micros"))
    found = timedelta(seconds=seconds, milliseconds=millis, microseconds=micros)
    if not (seconds >= 0 and 0 <= millis < 1000 and 0 <= micros < 1000 and found <= _MAX_ACCURACY):  # noqa: PLR2004 - RFC 3161 §2.4.2
        raise MalformedError(f"{_WHAT} has an accuracy that makes no sense")
    return found


def _authority(name: Any) -> bytes | None:  # noqa: ANN401 - asn1crypto ships no types
    if isinstance(name, core.Void):
        return None
    if name.name != "directory_name":
        raise UnsupportedError(f"{_WHAT} names its authority in another way than by its subject")
    subject: bytes = name.chosen.untag().dump()
    return subject
