"""A private Sigstore in memory: a CA with a certificate log, a transparency log and a time-stamping authority.

A simulator of what surrounds the formats: keys are in memory, the logs are lists, and nothing is served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pkicore.algorithms import ALGORITHMS, PrivateKey, algorithm_of, generate_private_key, sign_with
from pkicore.cms.der import UTF8_STRING
from pkicore.ct import PrecertificateEntry, SignedCertificateTimestamp, embed
from pkicore.dsse import IN_TOTO_PAYLOAD, pae
from pkicore.encoding import tlv
from pkicore.tlog.checkpoint import Checkpoint
from pkicore.tlog.frontier import Frontier
from pkicore.tlog.keys import NoteKey
from pkicore.tlog.merkle import leaf_hash
from pkicore.tlog.note import Note
from pkicore.tlog.proofs import inclusion_plan
from pkicore.x509.certificate import assemble, to_pem
from services.signing.callers.certificate_identity import CertificateIdentity
from services.signing.certificates import EphemeralKey, certified_key
from services.signing.formats import LogEntry, SignedWith
from services.signing.formats.log_entry import entry_digest_name, hashed_rekord
from services.signing.timestamps import DEFAULT_POLICY, Serials, TimestampAuthority, TimestampPolicy
from services.signing.trusted_root import Period, TrustedAuthority, TrustedLog, TrustedRoot
from tests.support.clock import ManualClock
from tests.support.pki import MemoryKey
from tests.support.signing_pki import CODE_SIGNING, TIME_STAMPING, Extensions, Holder, key_usage

GITHUB = "https://token.actions.githubusercontent.com"
WORKFLOW = "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main"
IDENTITY = CertificateIdentity(
    WORKFLOW,
    None,
    GITHUB,
    {
        "1.3.6.1.4.1.57264.1.8": GITHUB,
        "1.3.6.1.4.1.57264.1.12": "https://github.com/acme/app",
        "1.3.6.1.4.1.57264.1.15": "4711",
    },
)
OLD_ISSUER = "1.3.6.1.4.1.57264.1.1"
ORIGIN = "log.acme.test"
P256 = ALGORITHMS["ecdsa-p256"]


@dataclass
class Counter:
    """A serial store that forgets when the process ends.

    Attributes:
        reserved: how many were reserved so far.
    """

    reserved: int = 0

    async def reserve(self, count: int) -> int:
        """The first of so many."""
        first, self.reserved = self.reserved + 1, self.reserved + count
        return first


@dataclass(frozen=True)
class Inclusion:
    """Where a leaf stands."""

    index: int
    tree_size: int
    hashes: tuple[bytes, ...]


@dataclass
class ListLog:
    """A transparency log that is a list; each entry has a checkpoint of its own."""

    key: MemoryKey
    origin: str = ORIGIN
    leaves: list[bytes] = field(default_factory=list)

    @property
    def note_key(self) -> NoteKey:
        """The key as it signs checkpoints."""
        return NoteKey(self.origin, cast("ec.EllipticCurvePublicKey", self.key.public_key))

    def add(self, entry: bytes) -> LogEntry:
        """Append, and prove it."""
        index = len(self.leaves)
        self.leaves.append(leaf_hash(entry))
        frontier, tiles = Frontier.empty().append(self.leaves)
        proof = inclusion_plan(index, frontier.size).prove(tiles)
        text = Checkpoint(self.origin, frontier.size, frontier.root).text
        signature = self.note_key.assemble(sign_with(self.key.private_key, text.encode()))
        checkpoint = Note(text, (signature,)).to_bytes()
        return LogEntry(index, self.note_key.log_id, entry, Inclusion(index, frontier.size, tuple(proof)), checkpoint)


@dataclass
class SigstoreWorld:
    """Everything that a certificate-mode bundle needs.

    Attributes:
        clock: of all its parts; stands at the real present, since foreign verifiers look at their own clocks.
        lifetime: of the short-lived certificates.
        alter: extensions to put in place of, or beside, what is asked for; by dotted OID, None leaves it out.
        with_sct: whether the certificates carry a timestamp of the log.
    """

    clock: ManualClock = field(default_factory=lambda: ManualClock(datetime.now(UTC)))
    lifetime: timedelta = timedelta(minutes=10)
    alter: Mapping[str, bytes | None] = field(default_factory=dict)
    with_sct: bool = True

    @cached_property
    def root(self) -> Holder:
        """The root CA."""
        return self._authority("Acme Root", "ecdsa-p384", None, 1)

    @cached_property
    def issuing(self) -> Holder:
        """The CA of short-lived certificates."""
        return self._authority("Acme Code Signing", "ecdsa-p256", self.root, 0)

    @cached_property
    def ct_key(self) -> MemoryKey:
        """Of the certificate log."""
        return MemoryKey(generate_private_key(P256))

    @cached_property
    def log(self) -> ListLog:
        """The transparency log; three others have signed before."""
        log = ListLog(MemoryKey(generate_private_key(P256)))
        for entry in (b"one", b"two", b"three"):
            log.add(entry)
        return log

    @cached_property
    def tsa(self) -> Holder:
        """The time-stamping authority's key and certificate."""
        key = generate_private_key(P256)
        extensions: Extensions = [(key_usage(digital_signature=True), True), (TIME_STAMPING, True)]
        return Holder(key, self._leaf(key, "Acme Time", self.issuing, extensions, timedelta(days=365)))

    @cached_property
    def timestamps(self) -> TimestampAuthority:
        """The authority itself."""
        return TimestampAuthority(
            MemoryKey(self.tsa.private_key),
            (self.tsa.certificate, self.issuing.certificate, self.root.certificate),
            policy=TimestampPolicy(DEFAULT_POLICY),
            serials=Serials(Counter()),
            clock=self.clock,
        )

    @cached_property
    def trusted_root(self) -> TrustedRoot:
        """What verifiers are told."""
        since = Period(self.clock.now() - timedelta(hours=1))
        chain = (self.issuing.certificate, self.root.certificate)
        return TrustedRoot(
            logs=(TrustedLog(f"https://{ORIGIN}:7000/v1/log", self.log.key.public_key, since),),
            authorities=(TrustedAuthority("https://ca.acme.test", chain, since),),
            ct_logs=(TrustedLog("https://ca.acme.test/ct", self.ct_key.public_key, since),),
            timestamp_authorities=(
                TrustedAuthority("https://log.acme.test/v1/timestamp", self.timestamps.chain, since),
            ),
        )

    async def issue(self, csr: bytes, identity: CertificateIdentity) -> bytes:
        """The CA: a certificate with the key and the name of the request, logged and with its timestamp in it."""
        request = x509.load_der_x509_csr(csr)
        (name,) = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return self.certify_as(cast("ec.EllipticCurvePublicKey", request.public_key()), name, identity)

    def certify_as(
        self, public_key: ec.EllipticCurvePublicKey, name: x509.GeneralName, identity: CertificateIdentity
    ) -> bytes:
        """A short-lived certificate for this key and name, with the identity's claims; the chain in PEM."""
        claims = {oid: tlv(UTF8_STRING, text.encode()) for oid, text in identity.extensions.items()}
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (key_usage(digital_signature=True), True),
            (CODE_SIGNING, False),
            (x509.SubjectAlternativeName([name]), True),
        ]
        for oid, value in {OLD_ISSUER: identity.issuer.encode(), **claims, **self.alter}.items():
            if value is not None:
                extensions.append((x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), False))
        leaf = self._leaf(public_key, None, self.issuing, extensions, self.lifetime)
        return to_pem([self._logged(leaf) if self.with_sct else leaf, self.issuing.certificate])

    def _logged(self, leaf: x509.Certificate) -> x509.Certificate:
        entry = PrecertificateEntry.of(leaf.tbs_certificate_bytes, self.issuing.certificate)
        milliseconds = int(self.clock.now().timestamp() * 1000)
        signature = sign_with(self.ct_key.private_key, entry.message(milliseconds))
        sct = SignedCertificateTimestamp.assemble(self.ct_key.public_key, milliseconds, b"", signature)
        tbs = embed(leaf.tbs_certificate_bytes, [sct])
        return assemble(tbs, sign_with(self.issuing.private_key, tbs), P256)

    async def sign_message(self, artefact: bytes, identity: CertificateIdentity = IDENTITY) -> SignedWith:
        """An artefact's signature in certificate mode, stamped and logged."""
        async with certified_key(identity, self, self.trusted_root, self.clock) as key:
            digest = hashlib.sha256(artefact).digest()
            return await self.finish(key, await key.sign_reduced("digest", digest), digest)

    async def sign_statement(self, statement: bytes) -> SignedWith:
        """A Statement's signature in certificate mode, stamped and logged."""
        async with certified_key(IDENTITY, self, self.trusted_root, self.clock) as key:
            message = pae(IN_TOTO_PAYLOAD, statement)
            return await self.finish(key, await key.sign(message), hashlib.sha256(message).digest())

    async def finish(self, key: EphemeralKey | MemoryKey, signature: bytes, digest: bytes) -> SignedWith:
        """Stamp and log a signature that was made over something of this digest."""
        chain = key.chain if isinstance(key, EphemeralKey) else ()
        name = entry_digest_name(key.algorithm)
        entry = hashed_rekord(key.public_key, signature, name, digest, chain[0] if chain else None)
        return SignedWith(
            key_id="default.artefact",
            algorithm=key.algorithm,
            public_key=key.public_key,
            signature=signature,
            certificate_chain=chain,
            timestamp=await self.timestamps.timestamp(signature),
            log_entry=self.log.add(entry),
        )

    def certify(self, key: PrivateKey, lifetime: timedelta = timedelta(days=30)) -> tuple[x509.Certificate, ...]:
        """A certificate for an artefact key, as CMS needs it, and the chain above."""
        extensions: Extensions = [(key_usage(digital_signature=True), True), (CODE_SIGNING, False)]
        leaf = self._leaf(key, "Acme Releases", self.issuing, extensions, lifetime)
        return leaf, self.issuing.certificate, self.root.certificate

    def leaf(self, key: PrivateKey, extensions: Extensions) -> x509.Certificate:
        """A certificate of the root with these extensions and no others of note."""
        return self._leaf(key, "Leaf", self.root, extensions, timedelta(days=30))

    def _authority(self, name: str, algorithm: str, issuer: Holder | None, path_length: int) -> Holder:
        key = generate_private_key(ALGORITHMS[algorithm])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        extensions: Extensions = [(x509.BasicConstraints(ca=True, path_length=path_length), True), (usage, True)]
        own = _builder(key, name, issuer, self.clock.now(), timedelta(days=3650), extensions)
        return Holder(key, _signed(own, issuer.private_key if issuer else key))

    def _leaf(
        self,
        key: PrivateKey | ec.EllipticCurvePublicKey,
        name: str | None,
        issuer: Holder,
        extensions: Extensions,
        lifetime: timedelta,
    ) -> x509.Certificate:
        return _signed(_builder(key, name, issuer, self.clock.now(), lifetime, extensions), issuer.private_key)


def _builder(
    key: PrivateKey | ec.EllipticCurvePublicKey,
    name: str | None,
    issuer: Holder | None,
    now: datetime,
    lifetime: timedelta,
    extensions: Extensions,
) -> x509.CertificateBuilder:
    public_key = key if isinstance(key, ec.EllipticCurvePublicKey) else key.public_key()
    subject = x509.Name([] if name is None else [x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_key = public_key if issuer is None else issuer.private_key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=5))
        .not_valid_after(now - timedelta(seconds=5) + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), False)
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder


def _signed(builder: x509.CertificateBuilder, issuer_key: PrivateKey) -> x509.Certificate:
    return builder.sign(issuer_key, cast("hashes.SHA256", algorithm_of(issuer_key.public_key()).signature_hash))
