"""What the ACME server asks a perspective, and what that answers; read strictly on both sides."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final, get_args

import orjson

from pkicore.errors import MalformedError
from pkicore.jose.strict import strict_object
from services.acme.challenges import CHALLENGE_TYPES, offered
from services.acme.challenges.attempt import Attempt
from services.acme.errors import ValidationError, ValidationFailure
from services.acme.identifiers import BadNameError, Identifier, canonical_address, canonical_dns_name
from services.chassis.fields import Fields

PATH: Final = "/v1/validations"
MAX_QUESTION: Final = 4096  # octets; a name has 253, a URL 1024 at most
MAX_ANSWER: Final = 8192  # octets, head and framing included
MAX_DETAIL: Final = 600  # characters of the sentence that says why there is no proof
_ASKED: Final = ("type", "identifier", "wildcard", "token", "thumbprint", "account_url")
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{22,128}", re.ASCII)  # RFC 8555 §8.3: at least 128 bits
_THUMBPRINT: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)  # SHA-256 (RFC 7638), base64url
_TOKENLESS: Final = "dns-persist-01"
_FAILURES: Final = frozenset(get_args(ValidationFailure))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a perspective saw.

    Attributes:
        question: SHA-256 of the question's octets, hex: an answer to another question counts for nothing.
        error: the ACME error type, None for a proof.
        detail: a sentence, "" for a proof.
    """

    question: str
    error: str | None = None
    detail: str = ""

    @classmethod
    def of(cls, question: bytes, error: ValidationError | None) -> Verdict:
        """The answer to a question."""
        digest = hashlib.sha256(question).hexdigest()
        return cls(digest) if error is None else cls(digest, error.acme_type, error.detail[:MAX_DETAIL])

    def to_json(self) -> bytes:
        """As it is sent."""
        if self.error is None:
            return orjson.dumps({"question": self.question, "valid": True})
        return orjson.dumps({"question": self.question, "valid": False, "error": self.error, "detail": self.detail})

    @classmethod
    def from_json(cls, body: bytes, question: bytes) -> Verdict:
        """Read the answer to a question.

        Raises:
            MalformedError: it is no answer, or one to something else.
        """
        fields = Fields.of(strict_object(body, "the answer"), ("question", "valid", "error", "detail"))
        if fields.text("question") != hashlib.sha256(question).hexdigest():
            raise MalformedError("the answer is to another question")
        if fields.flag("valid"):
            if len(fields.members) > len(("question", "valid")):
                raise MalformedError("a proof has no error")
            return cls.of(question, None)
        error = fields.text("error")
        if error not in _FAILURES:
            raise MalformedError("error must be the type of a failed validation")
        return cls(fields.text("question"), error, fields.text("detail", MAX_DETAIL))


def question_of(attempt: Attempt) -> bytes:
    """The attempt as JSON."""
    return orjson.dumps(
        {
            "type": attempt.type,
            "identifier": attempt.identifier.document(),
            "wildcard": attempt.wildcard,
            "token": attempt.token,
            "thumbprint": attempt.thumbprint,
            "account_url": attempt.account_url,
        }
    )


def attempt_of(question: bytes) -> Attempt:
    """Read a question.

    Raises:
        MalformedError: it is none, or names what cannot be validated.
    """
    fields = Fields.of(strict_object(question, "the question"), _ASKED)
    attempt = Attempt(
        type=fields.text("type"),
        identifier=_identifier(fields.members.get("identifier")),
        wildcard=fields.flag("wildcard"),
        token="" if fields.members.get("token") == "" else fields.text("token"),
        thumbprint=fields.text("thumbprint"),
        account_url=fields.text("account_url"),
    )
    if attempt.type not in CHALLENGE_TYPES:
        raise MalformedError("type is no challenge type")
    if not offered(attempt.identifier, wildcard=attempt.wildcard, allowed=(attempt.type,)):
        raise MalformedError(f"{attempt.type} does not prove control of such an identifier")
    if attempt.token and not _TOKEN.fullmatch(attempt.token):
        raise MalformedError("token is not base64url of at least 128 bits")
    if not attempt.token and attempt.type != _TOKENLESS:
        raise MalformedError(f"{attempt.type} has a token")
    if not _THUMBPRINT.fullmatch(attempt.thumbprint):
        raise MalformedError("thumbprint is not base64url of a SHA-256")
    return attempt


def _identifier(value: object) -> Identifier:
    """In its canonical form and no other, so that what is validated is what was asked for."""
    fields = Fields.of(value, ("type", "value"))
    kind, text = fields.text("type"), fields.text("value")
    try:
        if kind == "dns" and canonical_dns_name(text) == text and not text.startswith("*."):
            return Identifier("dns", text)
        if kind == "ip":
            return Identifier("ip", canonical_address(text))
    except BadNameError as error:
        raise MalformedError(f"identifier: {error}") from error
    raise MalformedError("identifier must be an address, or a canonical name without wildcard label")
