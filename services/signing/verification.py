"""Believe a signature that this service made, offline, or raise: for `pqcsign verify`, and for the tests.

Certificate mode, in this order:

1. a trusted time-stamping authority says when the signature existed (RFC 3161, over the signature's octets);
2. at that time the leaf led to a trusted CA, was for code signing, and a trusted log had promised to remember it (SCT);
3. its one name and the OIDC issuer are those expected;
4. a trusted log holds the entry about exactly this signature, digest and leaf, under a checkpoint that it signed;
5. the leaf's key made the signature, over this artefact, or over a Statement that names it.

Key mode is 5 with a key known beforehand, and 1 and 4 where a trusted root is given. A hybrid is an envelope that every
key of the policy has signed; a composite is one signature by two keys. Signatures in files of their own are believed in
`services.signing.detached`. What is not in the trusted root counts for nothing; revocation is not asked about, since
short-lived certificates have none.

VerificationError
├─ NoTimestampError       no time-stamp by a trusted authority
├─ WrongIdentityError     signed by somebody else than expected
├─ NoLogEntryError        no entry of a trusted log about this signature
└─ WrongArtefactError     about another artefact
and those of `pkicore.errors`: MalformedError, UnsupportedError, BadSignatureError, BadCertificateError, ProofError.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509

from pkicore.algorithms import PublicKey, algorithm_of, known_public_key, verify_signature
from pkicore.cms.der import UTF8_STRING
from pkicore.composite import CompositePublicKey
from pkicore.ct.sct import SignedCertificateTimestamp
from pkicore.ct.verify import verify_embedded_sct
from pkicore.dsse import IN_TOTO_PAYLOAD, MAX_ENVELOPE_BYTES, Envelope, pae, verify_all
from pkicore.encoding import tlv
from pkicore.errors import BadCertificateError, PkiError, ProofError, UnsupportedError
from pkicore.jose.strict import strict_object
from pkicore.tlog.checkpoint import verify_checkpoint
from pkicore.tlog.merkle import leaf_hash
from pkicore.tlog.proofs import verify_inclusion
from pkicore.tsp import MessageImprint, token_of, verify_token
from pkicore.x509 import PARSE_ERRORS
from pkicore.x509.chain import verify_chain
from services.signing.formats import composite, raw
from services.signing.formats.log_entry import entry_digest_name, hashed_rekord
from services.signing.formats.unverified_bundle import MessageSignature, UnverifiedBundle, UnverifiedLogEntry
from services.signing.statements import STATEMENT_TYPE
from services.signing.trusted_root import TrustedAuthority, TrustedLog, TrustedRoot

ISSUER_OID: Final = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_SHORT: Final = 128


class VerificationError(Exception):
    """What was given is well-formed and proves something, but not what was asked."""


class NoTimestampError(VerificationError):
    """No trusted authority says when the signature existed."""


class WrongIdentityError(VerificationError):
    """Signed by somebody else than expected."""


class NoLogEntryError(VerificationError):
    """No trusted log holds an entry about this signature."""


class WrongArtefactError(VerificationError):
    """The signature is about another artefact."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who must have signed.

    Attributes:
        name: the certificate's one subjectAltName, a URI or an e-mail address; compared to the letter.
        issuer: the OIDC issuer that vouched for it.
    """

    name: str
    issuer: str


@dataclass(frozen=True, slots=True)
class Verified:
    """What may be believed.

    Attributes:
        public_key: that signed.
        signed_before: the signature existed at this time; None where no time was asked for.
        log_index: of the log entry; None where no log was asked for.
        payload_type: of the payload; None for a signature over an artefact.
        payload: what was signed; None for a signature over an artefact.
    """

    public_key: PublicKey = field(repr=False)
    signed_before: datetime | None
    log_index: int | None
    payload_type: str | None
    payload: bytes | None = field(repr=False)


def verify_hybrid(
    data: bytes,
    keys: Sequence[PublicKey],
    digests: Mapping[str, bytes] | None = None,
    *,
    max_bytes: int = MAX_ENVELOPE_BYTES,
) -> Envelope:
    """The envelope that every one of these keys has signed.

    Args:
        data: a DSSE envelope.
        keys: the policy; of a hybrid one both.
        digests: of the artefact that its Statement must name, by the name of the hash; None for any.
        max_bytes: of the envelope.

    Raises:
        MalformedError: it does not parse.
        BadSignatureError: a key has not signed it.
        WrongArtefactError: it is about another artefact.
    """
    envelope = Envelope.parse(data, max_bytes=max_bytes)
    verify_all(envelope, keys)
    if digests is not None:
        check_statement(envelope.payload_type, envelope.payload, digests)
    return envelope


def verify_composite(
    data: bytes,
    keys: CompositePublicKey,
    digests: Mapping[str, bytes] | None = None,
    *,
    max_bytes: int = MAX_ENVELOPE_BYTES,
) -> Envelope:
    """The envelope that both halves of a composite key have signed (draft -19).

    Args:
        data: a DSSE envelope.
        keys: both halves.
        digests: as for `verify_hybrid`.
        max_bytes: of the envelope.

    Raises:
        MalformedError: it does not parse.
        BadSignatureError: the key has not signed it.
        WrongArtefactError: it is about another artefact.
    """
    envelope = Envelope.parse(data, max_bytes=max_bytes)
    composite.verify_envelope(envelope, keys)
    if digests is not None:
        check_statement(envelope.payload_type, envelope.payload, digests)
    return envelope


def verify_with_key(
    data: bytes,
    public_key: PublicKey,
    digests: Mapping[str, bytes] | None = None,
    *,
    root: TrustedRoot | None = None,
    max_bytes: int = MAX_ENVELOPE_BYTES,
) -> Verified:
    """Believe a bundle of a key that is known beforehand; the hint in it decides nothing.

    Args:
        data: the bundle.
        public_key: that must have signed.
        digests: of the artefact, by the name of the hash; needed where the bundle carries no envelope.
        root: demands an entry of one of its logs, and verifies the time-stamps that are there.
        max_bytes: of the bundle.

    Raises:
        VerificationError: see the tree above.
        PkiError: likewise.
    """
    bundle = UnverifiedBundle.parse(data, max_bytes=max_bytes)
    if bundle.certificate is not None:
        raise WrongIdentityError("the bundle is of a certificate, not of a key: say whose certificate is expected")
    signed_before, log_index = None, None
    if root is not None:
        if bundle.timestamps:
            signed_before = _time_of(bundle, root.timestamp_authorities)
        log_index = _index_of(bundle, public_key, root.logs, signed_before)
    return _believe(bundle, public_key, digests, signed_before, log_index)


def verify_with_certificate(
    data: bytes,
    identity: Identity,
    root: TrustedRoot,
    digests: Mapping[str, bytes] | None = None,
    *,
    max_bytes: int = MAX_ENVELOPE_BYTES,
) -> Verified:
    """Believe a bundle of a short-lived certificate; the steps are numbered above.

    Args:
        data: the bundle.
        identity: who must have signed.
        root: what is trusted.
        digests: of the artefact, by the name of the hash; needed where the bundle carries no envelope.
        max_bytes: of the bundle.

    Raises:
        VerificationError: see the tree above.
        PkiError: likewise.
    """
    bundle = UnverifiedBundle.parse(data, max_bytes=max_bytes)
    if bundle.certificate is None:
        raise WrongIdentityError("the bundle is of a key, not of a certificate: give the key that is expected")
    signed_before = _time_of(bundle, root.timestamp_authorities)
    verify_leaf(bundle.certificate, root, signed_before)
    check_identity(bundle.certificate, identity)
    public_key = known_public_key(bundle.certificate.public_key())
    log_index = _index_of(bundle, public_key, root.logs, signed_before)
    return _believe(bundle, public_key, digests, signed_before, log_index)


def verify_leaf(certificate: x509.Certificate, root: TrustedRoot, at: datetime) -> SignedCertificateTimestamp:
    """The leaf led to a trusted CA at this time, is for code signing, and a trusted log has promised to keep it.

    Raises:
        BadCertificateError: no such path, or not for code signing.
        ProofError: no timestamp of a trusted log in it.
        BadSignatureError: the timestamp is not the log's.
    """
    chain = _chain(certificate, root.authorities, at)
    _check_usage(certificate)
    failure: PkiError = ProofError("no certificate log is trusted at this time")
    for log in root.ct_logs:
        try:
            sct = verify_embedded_sct(certificate, chain[1], log.public_key, at)
        except PkiError as error:
            failure = error
            continue
        if log.period.covers(datetime.fromtimestamp(sct.timestamp / 1000, at.tzinfo)):
            return sct
    raise failure


def check_identity(certificate: x509.Certificate, identity: Identity) -> None:
    """The certificate has this one name and was made for a token of this issuer.

    Raises:
        WrongIdentityError: it is another's.
        BadCertificateError: it does not say, or its extensions do not parse.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        issuer = certificate.extensions.get_extension_for_oid(ISSUER_OID).value
    except (x509.ExtensionNotFound, *PARSE_ERRORS) as error:
        raise BadCertificateError("the certificate does not say whose it is, or who vouched for that") from error
    found = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier | x509.RFC822Name)]
    if len(names) != 1 or found != [identity.name]:
        raise WrongIdentityError(f"signed by {', '.join(found)[:_SHORT]!a}, not by {identity.name!a}")
    expected = tlv(UTF8_STRING, identity.issuer.encode())
    if not isinstance(issuer, x509.UnrecognizedExtension) or issuer.value != expected:
        raise WrongIdentityError(f"the signer's identity is not one that {identity.issuer!a} vouched for")


def _chain(
    certificate: x509.Certificate, authorities: Sequence[TrustedAuthority], at: datetime
) -> tuple[x509.Certificate, ...]:
    failure = BadCertificateError("no certificate authority is trusted at this time")
    for authority in authorities:
        if not authority.period.covers(at):
            continue
        try:
            return verify_chain(certificate, authority.chain[:-1], authority.chain[-1:], at, "code-signing")
        except BadCertificateError as error:
            failure = error
    raise failure


def _check_usage(certificate: x509.Certificate) -> None:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, *PARSE_ERRORS) as error:
        raise BadCertificateError("the certificate does not say what its key is for") from error
    if not usage.digital_signature:
        raise BadCertificateError("the certificate's key is not for signatures")


def verified_time(tokens: Iterable[bytes], signature: bytes, authorities: Sequence[TrustedAuthority]) -> datetime:
    """Rule 1: the earliest time of those that are vouched for.

    Args:
        tokens: of RFC 3161, in DER.
        signature: whose octets they are about.
        authorities: that are trusted.

    Raises:
        NoTimestampError: no trusted authority vouches for a time.
    """
    times = []
    reason: Exception = NoTimestampError("there is none, or no authority is trusted")
    for token in tokens:
        for authority in authorities:
            try:
                times.append(_time(token, signature, authority))
            except (PkiError, NoTimestampError) as error:
                reason = error
    if not times:
        raise NoTimestampError(f"no time-stamp by a trusted authority: {reason}") from reason
    return min(times)


def _time_of(bundle: UnverifiedBundle, authorities: Sequence[TrustedAuthority]) -> datetime:
    tokens = []
    for response in bundle.timestamps:
        with suppress(PkiError):  # what is no response, or a refusal, vouches for nothing
            tokens.append(token_of(response))
    return verified_time(tokens, bundle.signature, authorities)


def _time(token: bytes, signature: bytes, authority: TrustedAuthority) -> datetime:
    imprint = MessageImprint.of("sha256", hashlib.sha256(signature).digest())
    verified = verify_token(token, imprint, authority=authority.chain[0])
    if verified.certificate != authority.chain[0] or not authority.period.covers(verified.gen_time):
        raise NoTimestampError("the time-stamping authority is not trusted, or was not at its time")
    verify_chain(verified.certificate, authority.chain[1:-1], authority.chain[-1:], verified.gen_time, "time-stamping")
    return verified.gen_time


def verified_index(
    entries: Sequence[UnverifiedLogEntry], leaf: bytes, logs: Sequence[TrustedLog], at: datetime | None
) -> int:
    """Rule 4: where in a trusted log the entry is.

    Args:
        entries: what is said to be it; one.
        leaf: made anew of what was signed, so that the log holds this and nothing else.
        logs: that are trusted.
        at: when; None: no time is known.

    Raises:
        NoLogEntryError: there is none, it is about another signature, or of another log.
        PkiError: it is not in the tree of a checkpoint that the log signed.
    """
    if not entries:
        raise NoLogEntryError("the bundle has no log entry")
    (entry,) = entries
    log = _log_of(entry, logs, at)
    if not hmac.compare_digest(leaf, entry.body):
        raise NoLogEntryError("the log entry is about another signature")
    checkpoint = verify_checkpoint(entry.checkpoint, log.origin, [log.note_key])
    verify_inclusion(leaf_hash(leaf), entry.index, checkpoint.size, entry.hashes, checkpoint.root)
    return entry.index


def _index_of(bundle: UnverifiedBundle, public_key: PublicKey, logs: Sequence[TrustedLog], at: datetime | None) -> int:
    if not bundle.log_entries:
        raise NoLogEntryError("the bundle has no log entry")
    name = entry_digest_name(algorithm_of(public_key))
    leaf = hashed_rekord(public_key, bundle.signature, name, _entry_digest(bundle, name), bundle.certificate)
    return verified_index(bundle.log_entries, leaf, logs, at)


def _log_of(entry: UnverifiedLogEntry, logs: Sequence[TrustedLog], at: datetime | None) -> TrustedLog:
    for log in logs:
        if hmac.compare_digest(log.log_id, entry.log_id) and (at is None or log.period.covers(at)):
            return log
    raise NoLogEntryError("the log entry is of a log that is not trusted")


def _entry_digest(bundle: UnverifiedBundle, name: str) -> bytes:
    if isinstance(bundle.content, Envelope):
        return hashlib.new(name, pae(bundle.content.payload_type, bundle.content.payload)).digest()
    if bundle.content.digest_name != name:
        raise NoLogEntryError(f"the bundle does not have the {name} digest that its log entry is about")
    return bundle.content.digest


def _believe(
    bundle: UnverifiedBundle,
    public_key: PublicKey,
    digests: Mapping[str, bytes] | None,
    signed_before: datetime | None,
    log_index: int | None,
) -> Verified:
    """Rule 5."""
    content = bundle.content
    if isinstance(content, MessageSignature):
        _verify_message(content, public_key, digests)
        return Verified(public_key, signed_before, log_index, None, None)
    message = pae(content.payload_type, content.payload)
    verify_signature(public_key, content.signatures[0].signature, message)
    if digests is not None:
        check_statement(content.payload_type, content.payload, digests)
    return Verified(public_key, signed_before, log_index, content.payload_type, content.payload)


def _verify_message(content: MessageSignature, public_key: PublicKey, digests: Mapping[str, bytes] | None) -> None:
    if digests is None:
        raise WrongArtefactError("the bundle is a signature over an artefact: give the artefact, or its digest")
    if content.digest_name is not None:
        own = digests.get(content.digest_name)
        if own is None or not hmac.compare_digest(own, content.digest):
            raise WrongArtefactError("the bundle is about another artefact")
    raw.verify(public_key, content.signature, digests)


def check_statement(payload_type: str, payload: bytes, digests: Mapping[str, bytes]) -> None:
    """The Statement names the artefact; matched by SHA-256 alone, as in-toto's verifiers do.

    Raises:
        WrongArtefactError: it does not, or is no Statement.
        UnsupportedError: the artefact's SHA-256 is not given.
        MalformedError: it does not parse.
    """
    if payload_type != IN_TOTO_PAYLOAD:
        raise WrongArtefactError(f"the payload is {payload_type!a}, which names no artefact")
    statement = strict_object(payload, "the Statement")
    subjects = statement.get("subject")
    if statement.get("_type") != STATEMENT_TYPE or not isinstance(subjects, list):
        raise WrongArtefactError("the payload is no in-toto Statement of version 1")
    if "sha256" not in digests:
        raise UnsupportedError("a Statement names artefacts by their sha256, which is not given")
    wanted = digests["sha256"].hex()
    for subject in subjects:
        digest = subject.get("digest") if isinstance(subject, dict) else None
        if isinstance(digest, dict) and digest.get("sha256") == wanted:
            return
    raise WrongArtefactError("the Statement is about other artefacts")
