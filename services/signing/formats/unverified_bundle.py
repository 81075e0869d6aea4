"""Sigstore bundles v0.3 as they come, with nothing in them believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509

from pkicore.dsse import MAX_ENVELOPE_BYTES, Envelope
from pkicore.errors import MalformedError, UnsupportedError
from pkicore.jose.strict import strict_object
from pkicore.tlog.proofs import MAX_PROOF
from pkicore.x509.certificate import load_der
from services.chassis.fields import Fields, checked_base64
from services.signing.formats.bundle import MEDIA_TYPE
from services.signing.formats.key_details import HASH_NAMES
from services.signing.formats.log_entry import KIND, KIND_VERSION
from services.signing.provenance import member_bytes

MAX_TIMESTAMPS: Final = 32
MAX_LOG_ENTRY: Final = 256 * 1024  # octets of one in a file of its own
_MEDIA_TYPES: Final = (MEDIA_TYPE, "application/vnd.dev.sigstore.bundle+json;version=0.3")
_HASHES: Final = {name: ours for ours, name in HASH_NAMES.items()}
_MAX_INDEX_DIGITS: Final = 19
_MAX_BODY: Final = 64 * 1024  # characters of base64
_MAX_NOTE: Final = 64 * 1024  # characters


@dataclass(frozen=True, slots=True)
class UnverifiedLogEntry:
    """What a log is said to hold.

    Attributes:
        log_id: of the log's key.
        index: of the entry in the tree of the checkpoint.
        hashes: of the inclusion proof.
        checkpoint: the signed note.
        body: the leaf.
    """

    log_id: bytes
    index: int
    hashes: tuple[bytes, ...] = field(repr=False)
    checkpoint: bytes = field(repr=False)
    body: bytes = field(repr=False)

    @classmethod
    def parse(cls, data: bytes) -> UnverifiedLogEntry:
        """Read one that stands in a file of its own (TransparencyLogEntry).

        Raises:
            MalformedError: larger than 256 KiB, or not that.
            UnsupportedError: another kind of entry.
        """
        if len(data) > MAX_LOG_ENTRY:
            raise MalformedError(f"the log entry is larger than {MAX_LOG_ENTRY} octets")
        return _log_entry(Fields.of(strict_object(data, "the log entry")))


@dataclass(frozen=True, slots=True)
class MessageSignature:
    """A signature over an artefact that is elsewhere.

    Attributes:
        digest_name: hash of the digest; None where the bundle does not say which artefact it is about.
        digest: of the artefact, for identification alone.
        signature: its octets.
    """

    digest_name: str | None
    digest: bytes
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class UnverifiedBundle:
    """One signature and what speaks for it.

    Attributes:
        certificate: the leaf; None in key mode.
        hint: which key it is, in key mode.
        content: what was signed.
        log_entries: of transparency logs.
        timestamps: TimeStampResp in DER, each.
    """

    certificate: x509.Certificate | None
    hint: str | None
    content: MessageSignature | Envelope
    log_entries: tuple[UnverifiedLogEntry, ...] = field(repr=False)
    timestamps: tuple[bytes, ...] = field(repr=False)

    @property
    def signature(self) -> bytes:
        """The octets of the one signature."""
        return self.content.signatures[0].signature if isinstance(self.content, Envelope) else self.content.signature

    @classmethod
    def parse(cls, data: bytes, *, max_bytes: int = MAX_ENVELOPE_BYTES) -> UnverifiedBundle:
        """Read a bundle.

        Raises:
            MalformedError: larger than `max_bytes`, not a bundle, a member twice at any depth; no or several contents
                or kinds of key, several log entries, more than 32 timestamps or the same one twice.
            UnsupportedError: another version than 0.3, an envelope with several signatures, another kind of log entry.
        """
        if len(data) > max_bytes:
            raise MalformedError(f"the bundle is larger than {max_bytes} octets")
        members = strict_object(data, "the bundle")
        if members.get("mediaType") not in _MEDIA_TYPES:
            raise UnsupportedError("the bundle is not of version 0.3")
        material = Fields.of(members.get("verificationMaterial")).members
        certificate, hint = _key(material)
        return cls(
            certificate,
            hint,
            _content(data, members, max_bytes),
            _log_entries(material),
            _timestamps(material),
        )


def _key(material: Mapping[str, Any]) -> tuple[x509.Certificate | None, str | None]:
    if "x509CertificateChain" in material:
        raise UnsupportedError("a bundle of version 0.3 has its leaf in `certificate`, without a chain")
    if ("certificate" in material) == ("publicKey" in material):
        raise MalformedError("a bundle has either a certificate or a public key's hint")
    if "certificate" in material:
        return load_der(Fields.of(material["certificate"]).binary("rawBytes")), None
    return None, Fields.of(material["publicKey"]).optional_text("hint") or ""


def _content(data: bytes, members: Mapping[str, Any], max_bytes: int) -> MessageSignature | Envelope:
    if ("messageSignature" in members) == ("dsseEnvelope" in members):
        raise MalformedError("a bundle has either a message signature or an envelope")
    if "messageSignature" in members:
        return _message(Fields.of(members["messageSignature"]))
    envelope = Envelope.parse(member_bytes(data, "dsseEnvelope"), max_bytes=max_bytes)
    if len(envelope.signatures) != 1:
        raise UnsupportedError("the envelope of a bundle has one signature")
    return envelope


def _message(fields: Fields) -> MessageSignature:
    if fields.members.get("messageDigest") is None:
        return MessageSignature(None, b"", fields.binary("signature"))
    digest = Fields.of(fields.members["messageDigest"])
    name = digest.text("algorithm")
    if name not in _HASHES:
        raise UnsupportedError(f"the digest of a bundle is of {', '.join(_HASHES)}")
    return MessageSignature(_HASHES[name], digest.binary("digest"), fields.binary("signature"))


def _timestamps(material: Mapping[str, Any]) -> tuple[bytes, ...]:
    if material.get("timestampVerificationData") is None:
        return ()
    data = Fields.of(material["timestampVerificationData"])
    found = data.objects("rfc3161Timestamps") if "rfc3161Timestamps" in data.members else []
    if len(found) > MAX_TIMESTAMPS:
        raise MalformedError(f"a bundle has at most {MAX_TIMESTAMPS} time-stamps")
    timestamps = tuple(Fields.of(one).binary("signedTimestamp") for one in found)
    if len(set(timestamps)) != len(timestamps):
        raise MalformedError("a bundle has the same time-stamp twice")
    return timestamps


def _log_entries(material: Mapping[str, Any]) -> tuple[UnverifiedLogEntry, ...]:
    found = Fields.of(material).objects("tlogEntries") if "tlogEntries" in material else []
    if len(found) > 1:
        raise MalformedError("a bundle has one log entry at most")
    return tuple(_log_entry(Fields.of(one)) for one in found)


def _log_entry(entry: Fields) -> UnverifiedLogEntry:
    kind = Fields.of(entry.members.get("kindVersion"))
    if (kind.text("kind"), kind.text("version")) != (KIND, KIND_VERSION):
        raise UnsupportedError(f"log entries are of the kind {KIND} {KIND_VERSION}")
    proof = Fields.of(entry.members.get("inclusionProof"))
    index = _number(entry, "logIndex")
    if _number(proof, "logIndex") != index:
        raise MalformedError("a log entry has two indexes")
    hashes = proof.texts("hashes") if "hashes" in proof.members else []
    if len(hashes) > MAX_PROOF:
        raise MalformedError(f"an inclusion proof has at most {MAX_PROOF} hashes")
    return UnverifiedLogEntry(
        log_id=Fields.of(entry.members.get("logId")).binary("keyId"),
        index=index,
        hashes=tuple(checked_base64(one, "a hash of the proof") for one in hashes),
        checkpoint=Fields.of(proof.members.get("checkpoint")).text("envelope", _MAX_NOTE).encode(),
        body=entry.binary("canonicalizedBody", _MAX_BODY),
    )


def _number(fields: Fields, name: str) -> int:
    """A 64-bit integer, which protobuf JSON writes as a string; left out where it is 0."""
    text = fields.optional_text(name, _MAX_INDEX_DIGITS) or "0"
    if not text.isascii() or not text.isdigit():
        raise MalformedError(f"{name} must be a whole number in a string")
    return int(text)
