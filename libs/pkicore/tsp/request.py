"""Time-stamp requests (RFC 3161 §2.4.1), as an authority meets them and as a client makes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from asn1crypto import core, tsp

from pkicore.cms.der import load_der, parsing
from pkicore.cms.digests import check_digest, digest_identifier, read_digest_identifier
from pkicore.encoding import integer, object_identifier, octet_string, sequence
from pkicore.errors import MalformedError, TimestampRefusedError, UnsupportedError

MAX_REQUEST_BYTES: Final = 4096
_MAX_NONCE_BITS: Final = 256  # usual are 64; whatever comes is echoed
_MAX_POLICY: Final = 64  # characters of a dotted object identifier
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
    def read(cls, imprint: tsp.MessageImprint) -> MessageImprint:
        """From the structure, which is DER.

        Raises:
            UnsupportedError: another hash.
            MalformedError: a digest of another length.
        """
        name, digest = read_digest_identifier(imprint["hash_algorithm"]), imprint["hashed_message"].native
        check_digest(name, digest)
        return cls(name, digest, imprint.dump())


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
            request = load_der(tsp.TimeStampReq, der, _WHAT, max_bytes=MAX_REQUEST_BYTES)
            with parsing(_WHAT):
                return cls._read(request)

    @classmethod
    def _read(cls, request: tsp.TimeStampReq) -> TimeStampRequest:
        if request["version"].native != "v1":
            raise TimestampRefusedError("badRequest", f"{_WHAT} has another version than 1")
        with _refusing("badAlg", UnsupportedError):
            imprint = MessageImprint.read(request["message_imprint"])
        if not isinstance(request["extensions"], core.Void):
            raise TimestampRefusedError("unacceptedExtension", f"{_WHAT} has extensions, and none is offered")
        policy, nonce = request["req_policy"].native, request["nonce"].native
        if nonce is not None and nonce.bit_length() > _MAX_NONCE_BITS:
            raise MalformedError(f"a nonce has at most {_MAX_NONCE_BITS} bits")
        if policy is not None and len(policy) > _MAX_POLICY:
            raise MalformedError(f"a policy has at most {_MAX_POLICY} characters")
        return cls(imprint, policy, nonce, request["cert_req"].native)

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
