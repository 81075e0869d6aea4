"""`POST /v1/signatures`: what is to be signed, by whom, in which formats, with which documents beside it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast, get_args

import orjson

from pkicore.errors import MalformedError
from pkicore.jose.strict import strict_object
from services.chassis.fields import checked_base64, checked_text
from services.signer_hsm.wire import split_key_id
from services.signing.provenance import member_bytes
from services.signing.statements import Subject, read_subjects

Format = Literal["raw", "dsse", "bundle", "jws", "cms", "composite"]
"""What signatures are delivered in."""

FORMATS: Final[tuple[Format, ...]] = get_args(Format)
OF_ARTEFACTS: Final[frozenset[Format]] = frozenset({"raw", "bundle", "cms"})
"""What is made around a signature of an artefact's digest, which the caller gives."""
OF_STATEMENTS: Final[frozenset[Format]] = frozenset({"dsse", "bundle", "jws", "composite"})
"""What is made around a signature of a statement, which this service makes."""
MAX_REQUEST: Final = 1024 * 1024  # octets of the JSON
MAX_DOCUMENT: Final = 64 * 1024 * 1024  # octets of an uploaded SBOM
_MEMBERS: Final = frozenset(
    {"subjects", "profile", "key", "formats", "identity", "sbom", "provenance", "context", "mu"}
)
_DOCUMENT: Final = frozenset({"media_type", "content"})
_MAX_CONTEXT: Final = 32  # members
_MAX_KEYS: Final = 8
_MAX_MEDIA_TYPE: Final = 200  # characters
_MAX_IDEMPOTENCY_KEY: Final = 200
_MU_BYTES: Final = 64
_PROFILE: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_CONTEXT: Final = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Document:
    """A document that stands in the request itself: its exact bytes, and the media type it was declared to be of."""

    content: bytes = field(repr=False)
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class SignatureRequest:
    """`POST /v1/signatures`.

    Attributes:
        subjects: the artefacts, by digest.
        profile: of the caller's tenant; None where `key` is, or `identity`.
        key: TENANT.NAME.
        formats: None: those of the profile.
        identity: sign with a key of this moment and a short-lived certificate for the caller's OIDC identity.
        sbom: None where there is none, or it is a part of the upload.
        provenance: likewise.
        context: ticket, justification: kept with the record.
        mu: by key id: what stands for the artefact in a raw ML-DSA signature (FIPS 204 §6.2), 64 octets.
    """

    subjects: tuple[Subject, ...]
    profile: str | None = None
    key: str | None = None
    formats: tuple[Format, ...] | None = None
    identity: bool = False
    sbom: Document | None = None
    provenance: Document | None = None
    context: Mapping[str, str] = field(default_factory=dict)
    mu: Mapping[str, bytes] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The request body; documents stand in it as base64."""
        body: dict[str, Any] = {
            "subjects": [{"name": subject.name, "digest": dict(subject.digest)} for subject in self.subjects]
        }
        body |= {name: value for name in ("profile", "key") if (value := getattr(self, name)) is not None}
        if self.formats is not None:
            body["formats"] = list(self.formats)
        if self.identity:
            body["identity"] = True
        for name in ("sbom", "provenance"):
            document: Document | None = getattr(self, name)
            if document is not None:
                body[name] = {"media_type": document.media_type, "content": _base64(document.content)}
        if self.context:
            body["context"] = dict(self.context)
        if self.mu:
            body["mu"] = {key_id: _base64(mu) for key_id, mu in self.mu.items()}
        return orjson.dumps(body)

    @classmethod
    def from_json(cls, data: bytes) -> SignatureRequest:
        """Read a request body; every member of every object stands in it once.

        Raises:
            MalformedError: not the JSON of such a request; the sentence names the field.
        """
        if len(data) > MAX_REQUEST:
            raise MalformedError(f"the request is longer than {MAX_REQUEST} octets")
        body = strict_object(data, "the request")
        if unknown := body.keys() - _MEMBERS:
            raise MalformedError(f"unknown field {min(unknown)[:40]!a}")
        subjects = read_subjects(body.get("subjects"))
        profile, key, identity = body.get("profile"), body.get("key"), body.get("identity", False)
        if not isinstance(identity, bool):
            raise MalformedError("identity must be true or false")
        if (profile is not None) + (key is not None) + identity != 1:
            raise MalformedError("give one of profile, key and identity, and only one of them")
        if profile is not None and not (isinstance(profile, str) and _PROFILE.fullmatch(profile)):
            raise MalformedError("profile must be [a-z0-9][a-z0-9-]{0,62}")
        if key is not None:
            split_key_id(key)
        return cls(
            subjects,
            profile,
            key,
            _formats(body.get("formats")),
            identity,
            _document(data, body, "sbom"),
            _document(data, body, "provenance"),
            _context(body.get("context")),
            _mu(body.get("mu")),
        )


def checked_idempotency_key(value: str) -> str:
    """The value of an Idempotency-Key header.

    Raises:
        MalformedError: empty, too long, or with other than printable ASCII characters.
    """
    if not 0 < len(value) <= _MAX_IDEMPOTENCY_KEY or not (value.isascii() and value.isprintable()):
        raise MalformedError(f"Idempotency-Key must be 1 to {_MAX_IDEMPOTENCY_KEY} printable ASCII characters")
    return value


def _formats(value: object) -> tuple[Format, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or any(one not in FORMATS for one in value):
        raise MalformedError(f"formats must be a list of {', '.join(FORMATS)}")
    if len(set(value)) < len(value):
        raise MalformedError("formats names one twice")
    return cast("tuple[Format, ...]", tuple(value))


def _document(data: bytes, body: Mapping[str, Any], name: str) -> Document | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, dict) or "content" not in value or value.keys() - _DOCUMENT:
        raise MalformedError(f"{name} must be an object of media_type and content")
    media_type, content = value.get("media_type"), value["content"]
    if media_type is not None:
        checked_text(media_type, f"{name}.media_type", _MAX_MEDIA_TYPE)
    if isinstance(content, dict):
        return Document(member_bytes(member_bytes(data, name), "content"), media_type)
    if not isinstance(content, str) or not content:
        raise MalformedError(f"{name}.content must be a JSON object, or a string of base64")
    return Document(checked_base64(content, f"{name}.content"), media_type)


def _context(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > _MAX_CONTEXT:
        raise MalformedError(f"context must be an object of at most {_MAX_CONTEXT} strings")
    for name, text in value.items():
        if not _CONTEXT.fullmatch(name):
            raise MalformedError("the names in context must be [a-z][a-z0-9_]{0,63}")
        checked_text(text, f"context.{name}")
    return value


def _mu(value: object) -> dict[str, bytes]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not 0 < len(value) <= _MAX_KEYS:
        raise MalformedError(f"mu must be an object of 1 to {_MAX_KEYS} members, by key id")
    found = {}
    for key_id, text in value.items():
        split_key_id(key_id)
        found[key_id] = checked_base64(checked_text(text, "mu", 128), "mu")
        if len(found[key_id]) != _MU_BYTES:
            raise MalformedError(f"mu must have {_MU_BYTES} octets")
    return found


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
