"""What verifiers are told to trust, in Sigstore's own forms: `trusted_root.json`, and a signing configuration.

Private by default: with this one file cosign, sigstore-python and `services.signing.verification` verify offline, and
nobody outside the premises is asked. It is believed for the way it came (a package, a repository, a TLS connection to
this service); nothing in it proves itself.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import NameOID

from pkicore.algorithms import PublicKey, algorithm_of, known_public_key
from pkicore.errors import BadCertificateError, MalformedError, UnsupportedError
from pkicore.jose.strict import strict_object
from pkicore.tlog.keys import NoteKey
from pkicore.x509 import PARSE_ERRORS
from pkicore.x509.certificate import load_der
from services.chassis.fields import Fields
from services.signing.formats.key_details import key_details

TRUSTED_ROOT_TYPE: Final = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
"""The one that cosign 3 and sigstore-python 4 both read; they refuse 0.2."""
SIGNING_CONFIG_TYPE: Final = "application/vnd.dev.sigstore.signingconfig.v0.2+json"
CLIENT_TRUST_CONFIG_TYPE: Final = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
MAX_TRUSTED_ROOT: Final = 1 << 20  # octets
_READABLE: Final = (TRUSTED_ROOT_TYPE, "application/vnd.dev.sigstore.trustedroot.v0.2+json")
_MAX_ITEMS: Final = 64
_MAX_CHAIN: Final = 8
_LEAST_TSA_CHAIN: Final = 2
_MAX_URL: Final = 2048  # characters


@dataclass(frozen=True, slots=True)
class Period:
    """When something is trusted, both ends included; without an end until further notice."""

    start: datetime
    end: datetime | None = None

    def covers(self, moment: datetime) -> bool:
        """Whether the moment is within it."""
        return self.start <= moment and (self.end is None or moment <= self.end)

    def members(self) -> dict[str, str]:
        """TimeRange."""
        ends = {"start": self.start} if self.end is None else {"start": self.start, "end": self.end}
        return {name: f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" for name, moment in ends.items()}


@dataclass(frozen=True, slots=True)
class TrustedLog:
    """A transparency log, of artefacts or of certificates.

    Attributes:
        base_url: where it is; its host, without port and path, is the origin of the log's checkpoints.
        public_key: that signs them, or the log's certificate timestamps.
        period: when the key is trusted.
    """

    base_url: str
    public_key: PublicKey
    period: Period

    @property
    def origin(self) -> str:
        """First line of its checkpoints, and the name of the key in them, as Sigstore's verifiers expect both."""
        return urlsplit(self.base_url).hostname or ""

    @property
    def note_key(self) -> NoteKey:
        """The key as it signs checkpoints.

        Raises:
            UnsupportedError: this kind of key signs none.
            MalformedError: the URL has no host.
        """
        if not isinstance(self.public_key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
            raise UnsupportedError("checkpoints are signed with Ed25519 or ECDSA")
        return NoteKey(self.origin, self.public_key)

    @property
    def log_id(self) -> bytes:
        """32 octets: of an Ed25519 key the one that C2SP derives from name and key, else SHA-256 of the SPKI."""
        if isinstance(self.public_key, ed25519.Ed25519PublicKey):
            return self.note_key.log_id
        return hashlib.sha256(_spki(self.public_key)).digest()

    def members(self) -> dict[str, Any]:
        """TransparencyLogInstance."""
        return {
            "baseUrl": self.base_url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": {
                "rawBytes": _text(_spki(self.public_key)),
                "keyDetails": key_details(algorithm_of(self.public_key)),
                "validFor": self.period.members(),
            },
            "logId": {"keyId": _text(self.log_id)},
        }


@dataclass(frozen=True, slots=True)
class TrustedAuthority:
    """A certificate authority, or a time-stamping one.

    Attributes:
        uri: where it is; a name, nobody fetches anything.
        chain: from the issuing CA (or the time-stamping certificate) to the root, both included.
        period: when it is trusted.
    """

    uri: str
    chain: tuple[x509.Certificate, ...]
    period: Period

    def members(self) -> dict[str, Any]:
        """CertificateAuthority."""
        return {
            "subject": _subject(self.chain[-1]),
            "uri": self.uri,
            "certChain": {"certificates": [{"rawBytes": _text(one.public_bytes(Encoding.DER))} for one in self.chain]},
            "validFor": self.period.members(),
        }


@dataclass(frozen=True, slots=True)
class TrustedRoot:
    """All that is trusted.

    Attributes:
        logs: of artefacts.
        authorities: that issue short-lived certificates.
        ct_logs: of those certificates.
        timestamp_authorities: that vouch for times.

    Raises:
        BadCertificateError: a chain that does not end in a root, or a time-stamping chain that is a lone certificate.
    """

    logs: tuple[TrustedLog, ...] = ()
    authorities: tuple[TrustedAuthority, ...] = ()
    ct_logs: tuple[TrustedLog, ...] = ()
    timestamp_authorities: tuple[TrustedAuthority, ...] = ()

    def __post_init__(self) -> None:
        for authority in (*self.authorities, *self.timestamp_authorities):
            if not authority.chain or authority.chain[-1].subject != authority.chain[-1].issuer:
                raise BadCertificateError(f"the chain of {authority.uri or 'an authority'} does not end in a root")
        for authority in self.timestamp_authorities:
            if len(authority.chain) < _LEAST_TSA_CHAIN:
                raise BadCertificateError("a time-stamping chain is a certificate and a root at least")

    def to_json(self) -> bytes:
        """The file, in protobuf JSON."""
        members = {
            "mediaType": TRUSTED_ROOT_TYPE,
            "tlogs": [log.members() for log in self.logs],
            "certificateAuthorities": [authority.members() for authority in self.authorities],
            "ctlogs": [log.members() for log in self.ct_logs],
            "timestampAuthorities": [authority.members() for authority in self.timestamp_authorities],
        }
        return orjson.dumps(members, option=orjson.OPT_INDENT_2)

    @classmethod
    def parse(cls, data: bytes) -> TrustedRoot:
        """Read the file, ours or that of another deployment.

        Raises:
            MalformedError: larger than 1 MiB, or not that; a log whose id is not that of its key.
            UnsupportedError: a key of a kind that is not offered.
            BadCertificateError: a chain that does not end in a root.
        """
        if len(data) > MAX_TRUSTED_ROOT:
            raise MalformedError(f"the trusted root is larger than {MAX_TRUSTED_ROOT} octets")
        members = strict_object(data, "the trusted root")
        if members.get("mediaType") not in _READABLE:
            raise UnsupportedError("the trusted root is of another media type")
        return cls(
            logs=tuple(map(_log, _items(members, "tlogs"))),
            authorities=tuple(map(_authority, _items(members, "certificateAuthorities"))),
            ct_logs=tuple(map(_log, _items(members, "ctlogs"))),
            timestamp_authorities=tuple(map(_authority, _items(members, "timestampAuthorities"))),
        )


@dataclass(frozen=True, slots=True)
class Service:
    """Something that a signing client may call.

    Attributes:
        url: where it is.
        period: when it may be called.
        version: of its API, the major number.
    """

    url: str
    period: Period
    version: int = 1

    def members(self, operator: str) -> dict[str, Any]:
        """Service."""
        found = {"url": self.url, "majorApiVersion": self.version, "validFor": self.period.members()}
        return {**found, "operator": operator}


def signing_config(operator: str, *, timestamps: Sequence[Service] = (), issuers: Sequence[Service] = ()) -> bytes:
    """Where foreign clients may have things done; they then ask nobody else.

    Certificates and log entries are made by this service's own call alone, which is neither Fulcio's nor Rekor's: so
    both lists are empty, and a client with a key of its own gets our time-stamps.

    Args:
        operator: whose services these are; one name.
        timestamps: RFC 3161 authorities.
        issuers: OIDC issuers whose tokens this service takes.
    """
    members = {
        "mediaType": SIGNING_CONFIG_TYPE,
        "caUrls": [],
        "oidcUrls": [service.members(operator) for service in issuers],
        "rekorTlogUrls": [],
        "rekorTlogConfig": {"selector": "ANY"},
        "tsaUrls": [service.members(operator) for service in timestamps],
        "tsaConfig": {"selector": "ANY"},
    }
    return orjson.dumps(members, option=orjson.OPT_INDENT_2)


def client_trust_config(trusted_root: bytes, signing_configuration: bytes) -> bytes:
    """Both in one file, as `sigstore --trust-config` takes it (ClientTrustConfig), each of them octet for octet.

    Raises:
        MalformedError: the signing configuration is no JSON object of its type.
    """
    if strict_object(signing_configuration, "the signing configuration").get("mediaType") != SIGNING_CONFIG_TYPE:
        raise MalformedError("the signing configuration is of another media type")
    head = b'{"mediaType":"%b","trustedRoot":' % CLIENT_TRUST_CONFIG_TYPE.encode()
    return head + trusted_root + b',"signingConfig":' + signing_configuration + b"}"


def _spki(public_key: PublicKey) -> bytes:
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _subject(certificate: x509.Certificate) -> dict[str, str]:
    """DistinguishedName; a name that lacks one of its two members has it empty."""

    def first(oid: x509.ObjectIdentifier) -> str:
        found = certificate.subject.get_attributes_for_oid(oid)
        return str(found[0].value) if found else ""

    return {"organization": first(NameOID.ORGANIZATION_NAME), "commonName": first(NameOID.COMMON_NAME)}


def _items(members: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = members.get(name, [])
    if not isinstance(found, list) or len(found) > _MAX_ITEMS or not all(isinstance(item, dict) for item in found):
        raise MalformedError(f"{name} must be a list of at most {_MAX_ITEMS} objects")
    return found


def _log(members: Mapping[str, Any]) -> TrustedLog:
    key = Fields.of(members.get("publicKey"))
    try:
        public_key = known_public_key(load_der_public_key(key.binary("rawBytes")))
    except (ValueError, *PARSE_ERRORS) as error:
        raise MalformedError("the public key of a log does not parse") from error
    log = TrustedLog(Fields.of(members).text("baseUrl", _MAX_URL), public_key, _period(key.members.get("validFor")))
    if Fields.of(members.get("logId")).binary("keyId") != log.log_id:
        raise MalformedError(f"the id of the log {log.base_url!a} is not that of its key")
    if key.members.get("keyDetails") != key_details(algorithm_of(public_key)):
        raise UnsupportedError(f"the key of the log {log.base_url!a} is of another kind than it says")
    return log


def _authority(members: Mapping[str, Any]) -> TrustedAuthority:
    chain = Fields.of(members.get("certChain")).objects("certificates")
    if not 1 <= len(chain) <= _MAX_CHAIN:
        raise MalformedError(f"a chain has 1 to {_MAX_CHAIN} certificates")
    certificates = tuple(load_der(Fields.of(one).binary("rawBytes")) for one in chain)
    uri = Fields.of(members).optional_text("uri", _MAX_URL) or ""
    return TrustedAuthority(uri, certificates, _period(members.get("validFor")))


def _period(members: object) -> Period:
    fields = Fields.of(members)
    end = fields.optional_text("end")
    return Period(_moment(fields.text("start")), None if end is None else _moment(end))


def _moment(text: str) -> datetime:
    """RFC 3339 in UTC, with or without a fraction."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise MalformedError("a validity period has a time that is none") from error
    if moment.tzinfo is None:
        raise MalformedError("a validity period has a time without a time zone")
    return moment.astimezone(UTC)
