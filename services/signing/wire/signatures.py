"""What the service answers about a signature: `201` of a request, and `GET /v1/signatures[/{id}]`.

URLs are paths of the service, as `/v1/signatures/{id}/{artefact}`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from pkicore.errors import MalformedError
from services.chassis.fields import Fields
from services.signing.statements import Subject, read_subjects

INLINE_SIGNATURE: Final = 16 * 1024  # octets; a longer one is fetched by its URL


@dataclass(frozen=True, slots=True)
class MadeSignature:
    """One signature.

    Attributes:
        key: TENANT.NAME/VERSION; of a short-lived certificate, `certificate`.
        algorithm: as `pkicore.algorithms` names it.
        format: raw, jws, cms, composite.
        encoding: what its octets are: der, raw, jws, cms.
        subject: name of the artefact it is of; None where it is of all.
        signature: its octets; None where they are longer than 16 KiB.
        url: of the same octets.
        timestamp: URL of the time-stamp over it, where it is not in it.
        log_entry: URL of its entry in the log; of a CMS signature by several keys, the first one's.
    """

    key: str
    algorithm: str
    format: str
    encoding: str
    subject: str | None
    signature: bytes | None
    url: str
    timestamp: str | None = None
    log_entry: str | None = None

    def members(self) -> dict[str, Any]:
        """Its JSON members."""
        return {
            "key": self.key,
            "algorithm": self.algorithm,
            "format": self.format,
            "encoding": self.encoding,
            "subject": self.subject,
            "signature": None if self.signature is None else base64.b64encode(self.signature).decode(),
            "url": self.url,
            "timestamp": self.timestamp,
            "log_entry": self.log_entry,
        }

    @classmethod
    def of(cls, members: object) -> MadeSignature:
        """Read one; MalformedError where it is none."""
        body = Fields.of(members)
        inline = body.members.get("signature")
        return cls(
            body.text("key"),
            body.text("algorithm"),
            body.text("format"),
            body.text("encoding"),
            body.optional_text("subject"),
            None if inline is None else body.binary("signature"),
            body.text("url"),
            body.optional_text("timestamp"),
            body.optional_text("log_entry"),
        )


@dataclass(frozen=True, slots=True)
class MadeBundle:
    """A file with signatures and what they are of.

    Attributes:
        kind: message, sbom, provenance, vsa.
        algorithm: of its signature; `hybrid` where there are several.
        media_type: of the file.
        url: of the file.
        keys: TENANT.NAME/VERSION of each signature in it, in their order.
        timestamps: URLs of the time-stamps over its signatures, in their order, where they are not in it.
        log_entries: URLs of their entries in the log, likewise.
    """

    kind: str
    algorithm: str
    media_type: str
    url: str
    keys: tuple[str, ...] = ()
    timestamps: tuple[str, ...] = ()
    log_entries: tuple[str, ...] = ()

    def members(self) -> dict[str, Any]:
        """Its JSON members."""
        return {
            "kind": self.kind,
            "algorithm": self.algorithm,
            "media_type": self.media_type,
            "url": self.url,
            "keys": list(self.keys),
            "timestamps": list(self.timestamps),
            "log_entries": list(self.log_entries),
        }

    @classmethod
    def of(cls, members: object) -> MadeBundle:
        """Read one; MalformedError where it is none."""
        body = Fields.of(members)
        keys, timestamps, log_entries = (
            tuple(body.texts(name)) if name in body.members else () for name in ("keys", "timestamps", "log_entries")
        )
        return cls(
            body.text("kind"),
            body.text("algorithm"),
            body.text("media_type"),
            body.text("url"),
            keys,
            timestamps,
            log_entries,
        )


@dataclass(frozen=True, slots=True)
class PolicyUsed:
    """The policies that allowed a signature: the hash of the set, its version, and those that decided."""

    sha256: str
    version: int
    determining: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LogPlace:
    """Where in the transparency log a signature is."""

    index: int
    tree_size: int
    origin: str


@dataclass(frozen=True, slots=True)
class SignatureRecord:
    """All that is known of one request that was signed; `sbom` is what the check of the SBOM found."""

    id: str
    created: int
    tenant: str
    caller: str
    subjects: tuple[Subject, ...]
    signatures: tuple[MadeSignature, ...]
    bundles: tuple[MadeBundle, ...]
    urls: Mapping[str, str]
    policy: PolicyUsed
    context: Mapping[str, str] = field(default_factory=dict)
    log: LogPlace | None = None
    sbom: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None

    def to_json(self) -> bytes:
        """The answer body."""
        policy, log = self.policy, self.log
        return orjson.dumps(
            {
                "id": self.id,
                "created": self.created,
                "tenant": self.tenant,
                "caller": self.caller,
                "subjects": [{"name": one.name, "digest": dict(one.digest)} for one in self.subjects],
                "signatures": [one.members() for one in self.signatures],
                "bundles": [one.members() for one in self.bundles],
                "urls": dict(self.urls),
                "policy": {
                    "sha256": policy.sha256,
                    "version": policy.version,
                    "determining": list(policy.determining),
                },
                "context": dict(self.context),
                "log": None if log is None else {"index": log.index, "tree_size": log.tree_size, "origin": log.origin},
                "sbom": self.sbom,
                "provenance": self.provenance,
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> SignatureRecord:
        """Read an answer body; MalformedError where it is none."""
        return cls.of(Fields.parse(data).members)

    @classmethod
    def of(cls, members: object) -> SignatureRecord:
        """Read one out of a page; MalformedError where it is none."""
        body = Fields.of(members)
        log = body.members.get("log")
        return cls(
            id=body.text("id"),
            created=body.time("created"),
            tenant=body.text("tenant"),
            caller=body.text("caller", 4096),
            subjects=read_subjects(body.members.get("subjects")),
            signatures=tuple(map(MadeSignature.of, body.objects("signatures"))),
            bundles=tuple(map(MadeBundle.of, body.objects("bundles"))),
            urls=_texts(body, "urls"),
            policy=_policy(Fields.of(body.members.get("policy"))),
            context=_texts(body, "context"),
            log=None if log is None else _log(Fields.of(log)),
            sbom=_optional_object(body, "sbom"),
            provenance=_optional_object(body, "provenance"),
        )


@dataclass(frozen=True, slots=True)
class SignaturePage:
    """`GET /v1/signatures`: records, the newest first; `next` is the `after` of the following page, None at the end."""

    records: tuple[SignatureRecord, ...]
    next: str | None

    @classmethod
    def from_json(cls, data: bytes) -> SignaturePage:
        """Read an answer body; MalformedError where it is none."""
        body = Fields.parse(data)
        return cls(tuple(map(SignatureRecord.of, body.objects("signatures"))), body.optional_text("next"))


def _policy(body: Fields) -> PolicyUsed:
    return PolicyUsed(body.text("sha256"), body.time("version"), tuple(body.texts("determining")))


def _log(body: Fields) -> LogPlace:
    return LogPlace(body.time("index"), body.time("tree_size"), body.text("origin"))


def _texts(body: Fields, name: str) -> dict[str, str]:
    value = body.members.get(name)
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise MalformedError(f"{name} must be an object of strings")
    return value


def _optional_object(body: Fields, name: str) -> Mapping[str, Any] | None:
    value = body.members.get(name)
    if value is not None and not isinstance(value, dict):
        raise MalformedError(f"{name} must be an object")
    return value
