"""Time-stamp requests (RFC 3161 §2.4.1), as an authority meets them and as a client makes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from pkicore.cms.der import only, read_boolean, read_oid
from pkicore.cms.digests import check_digest, digest_identifier, read_digest_identifier
from pkicore.encoding import INTEGER, OCTET_STRING, OID, DerReader, integer, object_identifier, octet_string, sequence
from pkicore.errors import MalformedError, TimestampRefusedError, UnsupportedError

MAX_REQUEST_BYTES: Final = 4096
_MAX_NONCE_BITS: Final = 256  # usual are 64; whatever comes is echoed
_EXTENSIONS: Final = 0xA0
_TRUE: Final = b"\x01\x01\xff"
_WHAT: Final = "the time-stamp request"


@dataclass(frozen=True, slots=True)
class MessageImprint:
    """The digest that a time-stamp is about.

    Attributes:
        hash_name: sha256, sha384 or sha512.
        digest: of that length.
        der: as it was asked, so that the token echoes it to the octet (parameters may be NULL or absent).
    """

    hash_name: str
    digest: bytes
    der: bytes = field(compare=False, repr=False)

    @classmethod
    def of(cls, hash_name: str, digest: bytes) -> MessageImprint:
        """The imprint of a digest.

        Raises:
            UnsupportedError: another hash.
            MalformedError: a digest of another length.
        """
        check_digest(hash_name, digest)
        return cls(hash_name, digest, sequence(digest_identifier(hash_name), octet_string(digest)))

    @classmethod
    def parse(cls, der: bytes) -> MessageImprint:
        """From MessageImprint in DER.

        Raises:
            UnsupportedError: another hash.
            MalformedError: not that, or a digest of another length.
        """
        imprint = only(der)
        name, digest = read_digest_identifier(imprint.enter()), imprint.read(OCTET_STRING)
        imprint.finish()
        check_digest(name, digest)
        return cls(name, digest, der)


@dataclass(frozen=True, slots=True)
class TimeStampRequest:
    """What a client asks; nothing in it is authenticated.

    Attributes:
        imprint: what to stamp.
        policy: dotted object identifier of the policy that is wanted; None for any.
        nonce: to be echoed.
        certificates: whether the token must bring the authority's certificates.
    """

    imprint: MessageImprint
    policy: str | None = None
    nonce: int | None = None
    certificates: bool = False

    @classmethod
    def parse(cls, der: bytes) -> TimeStampRequest:
        """From DER of at most 4 KiB.

        Raises:
            TimestampRefusedError: anything else; its `failure` is what to answer: badDataFormat, badRequest for another
                version, badAlg for another hash, unacceptedExtension for any extension.
        """
        with _refusing("badDataFormat", MalformedError):
            if len(der) > MAX_REQUEST_BYTES:
                raise MalformedError(f"{_WHAT} is larger than {MAX_REQUEST_BYTES} octets")
            return cls._read(only(der))

    @classmethod
    def _read(cls, request: DerReader) -> TimeStampRequest:
        if request.read_integer() != 1:
            raise TimestampRefusedError("badRequest", f"{_WHAT} has another version than 1")
        with _refusing("badAlg", UnsupportedError):
            imprint = MessageImprint.parse(request.read_element())
        policy = read_oid(request) if request.next_is(OID) else None
        nonce = request.read_integer() if request.next_is(INTEGER) else None
        if nonce is not None and nonce.bit_length() > _MAX_NONCE_BITS:
            raise MalformedError(f"a nonce has at most {_MAX_NONCE_BITS} bits")
        certificates = read_boolean(request)
        if request.next_is(_EXTENSIONS):
            raise TimestampRefusedError("unacceptedExtension", f"{_WHAT} has extensions, and none is offered")
        request.finish()
        return cls(imprint, policy, nonce, certificates)

    def to_der(self) -> bytes:
        """TimeStampReq in DER."""
        return sequence(
            integer(1),
            self.imprint.der,
            b"" if self.policy is None else object_identifier(self.policy),
            b"" if self.nonce is None else integer(self.nonce),
            _TRUE if self.certificates else b"",
        )


@contextmanager
def _refusing(failure: str, error_type: type[MalformedError | UnsupportedError]) -> Iterator[None]:
    try:
        yield
    except error_type as error:
        raise TimestampRefusedError(failure, str(error)) from error
