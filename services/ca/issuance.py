"""Issuing a certificate, in nine steps; `docs/architecture.md` numbers them alike.

Where the profile says `sct = true`, step 5 has the CT log enter the linted bytes, embeds its timestamp and lints again;
step 8 verifies that timestamp in the certificate.

1. Verify the CSR.                4. Build the to-be-signed bytes.   7. Sign through the key interface.
2. Authorise the caller.          5. Lint them.                      8. Verify the signature and the bytes.
3. Reserve the serial (commit).   6. Record the intent (commit).     9. Store (commit) and answer.

Steps 7 to 9 need nothing but the recorded intent. So a process that dies between 6 and 9 leaves no certificate unknown
and no request stuck: at the next start, or when the request comes again, the *recorded* bytes are signed.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pkicore.clock import Clock, unix
from pkicore.ct.precertificate import may_have_sct_list, sct_list_of
from pkicore.encoding import canonical_json, pem_join
from pkicore.errors import BadCertificateError, BadSignatureError, MalformedError, ProofError
from pkicore.identity import SpiffeId
from pkicore.keys import SigningKey
from pkicore.weak_keys import PublishedKeys
from pkicore.x509.certificate import Signer, load_der, to_pem
from pkicore.x509.csr import UnverifiedCsr, VerifiedCsr
from pkicore.x509.lint import TbsLint, unsigned
from pkicore.x509.names import Names, names_of
from pkicore.x509.tbs import Issuer, random_serial
from pkicore.x509.template import Templates
from services.ca.authorization import Authorizer, IssuanceRequest
from services.ca.ct.log import CertificateLog, Entered
from services.ca.errors import (
    BlockedAccountError,
    BlockedKeyError,
    IdempotencyConflictError,
    NoLogError,
    NotAuthorisedError,
    RevokedIntentError,
    ValidityError,
    WrongSignatureError,
)
from services.ca.ledger.names import names_text
from services.ca.linters import Linter
from services.ca.settings import IssuerState
from services.ca.store import CaStore, Intent
from services.ca.wire import CertificateRequest, IssuedCertificate, format_serial
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError, DuplicateError

_NO_LINTERS: Final[Mapping[str, Linter]] = MappingProxyType({})
SERIAL_BATCH: Final = 64  # serials reserved by one commit
_NO_LOG: Final = "this certificate is logged, and this CA has no log: set ct_log_key and ct_log_public_key"
_BLOCKED: Final = "this key was reported compromised; make a new one"
_BLOCKED_ACCOUNT: Final = "the key of this account is on the block list of the CA: make an account with another key"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class IssuingCa:
    """An issuer that this process can sign for; `signer` verifies what its key has signed.

    `chain_pem` is its own chain, without the root; `alternates_pem` are others of its own, to other roots.

    One that is not active completes what was recorded and speaks for what it has issued; it gets no new requests.
    """

    issuer: Issuer
    key: SigningKey
    signer: Signer
    chain_pem: str
    state: IssuerState = "active"
    alternates_pem: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        issuer: Issuer,
        key: SigningKey,
        *,
        state: IssuerState = "active",
        alternates: Sequence[Sequence[x509.Certificate]] = (),
    ) -> "IssuingCa":
        """Pair an issuer with its key, and with chains of its own beside the one that the issuer names."""
        others = tuple(to_pem(chain).decode() for chain in alternates)
        return cls(issuer, key, Signer.of(issuer.certificate), to_pem(issuer.chain).decode(), state, others)


@dataclass(frozen=True)
class Outcome:
    """The answer to a request; `created` is False where an earlier request had made the certificate already."""

    answer: IssuedCertificate
    created: bool


class SerialPool:
    """Step 3: committed serials, handed out once each. What is left at the end of the process is never used."""

    def __init__(self, store: CaStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._filling = asyncio.Lock()
        self._fresh: list[int] = []

    async def take(self) -> int:
        """A serial that is committed as reserved."""
        while not self._fresh:
            async with self._filling:
                if not self._fresh:
                    await self._fill()
        return self._fresh.pop()

    async def _fill(self) -> None:
        batch = [random_serial() for _ in range(SERIAL_BATCH)]
        await self._store.reserve_serials(batch, unix(self._clock.now()))
        self._fresh = batch


class Issuance:
    """The nine steps over one store and the issuing CAs of this process."""

    def __init__(  # noqa: PLR0913 - what issuing takes, each by its name
        self,
        *,
        store: CaStore,
        authorizer: Authorizer,
        serials: SerialPool,
        cas: Mapping[str, IssuingCa],
        clock: Clock,
        log: CertificateLog | None = None,
        published: PublishedKeys | None = None,
        linters: Mapping[str, Linter] = _NO_LINTERS,
        for_cas: bool = False,
    ) -> None:
        self._log = log
        self._published = PublishedKeys() if published is None else published
        self._linters = linters
        self._for_cas = for_cas
        self._store = store
        self._authorizer = authorizer
        self._serials = serials
        self._cas = cas
        self._clock = clock
        self._templates = Templates()
        self._tbs_lint = TbsLint()
        self._running: dict[tuple[str, str], asyncio.Future[None]] = {}

    async def issue(self, caller: SpiffeId, request: CertificateRequest, *, below: str | None = None) -> Outcome:
        """The certificate for this request; asked again with the same idempotency key, the same certificate.

        Args:
            caller: who asks.
            request: what for.
            below: the issuing CA of its family that issues it, retired or not; only a part of this process says so.

        Raises:
            MalformedError, BadCsrError, BadKeyError, BadSignatureError, UnsupportedError: step 1.
            RefusedError, ProfileError: step 2.
            LintError, TileLogError: step 5.
            BlockedKeyError: the key was reported compromised.
            BlockedAccountError: the key that the requester signed with was.
            IdempotencyConflictError: the idempotency key stands for another request.
            RevokedIntentError: the intent of this request was revoked before it was completed.
            DatabaseError, KeyAccessError, WrongSignatureError: nothing is lost; the same request completes it later.
        """
        csr = UnverifiedCsr.parse(request.csr).verify(for_ca=self._for_cas)  # 1
        self._published.check(csr.public_key)
        issuer = None if below is None else self._cas[below].issuer
        try:
            authorised = self._authorizer.authorise(caller, csr, request, issuer)  # 2
        except ValidityError:  # what could be given once is still the answer to that request
            asked = _Asked.of(caller, csr, request)
            if not await self._was_asked(asked):
                raise
            async with self._alone(asked):
                return await self._earlier(asked)
        asked = _Asked.of(caller, csr, request)
        await self._check_renewal(authorised)
        async with self._alone(asked):
            if authorised.profile.sct and await self._was_asked(asked):
                return await self._earlier(asked)  # and is not entered in the log again
            try:
                intent = await self._prepare(authorised, asked)  # 3 to 6
            except DuplicateError:
                return await self._earlier(asked)
            return Outcome(await self._complete(intent), created=True)  # 7 to 9

    async def recover(self, *, recorded_before: int | None = None) -> int:
        """Complete every intent that a dead process, or a signer that did not answer, left behind; how many there were.

        With `recorded_before` (Unix seconds), only older ones: those that are being completed now are left alone.
        An intent that has expired, or whose key was reported compromised since, stays what it is: known and revocable.

        Raises:
            DatabaseError: the database cannot be read or written.
            KeyAccessError: an issuing key cannot be used.
        """
        now = unix(self._clock.now())
        left = [row for row in await self._store.open_intents() if row.intent.issuer in self._cas and not row.blocked]
        due = [row.intent for row in left if recorded_before is None or row.intent.recorded_at < recorded_before]
        completed = 0
        for intent in (item for item in due if item.not_after > now):
            facts = {"serial": format_serial(intent.serial), "caller": intent.caller}
            try:
                async with self._alone(_Asked(intent.caller, intent.idempotency_key, intent.request_hash)):
                    if not await self._is_open(intent):
                        continue
                    await self._complete(intent)
            except (WrongSignatureError, NoLogError) as error:  # one bad row must not keep the CA from starting
                _log.error("intent not completed", **facts, error=str(error))
            else:
                completed += 1
                _log.info("intent completed", **facts)
        return completed

    async def _check_renewal(self, request: IssuanceRequest) -> None:
        """What is renewed is of this CA, not revoked, and of the same profile, key and subject.

        One that has run out is renewed, too: what ends a key is revocation, and then of all its certificates.
        """
        if request.renews is None:
            return
        row = await self._store.by_serial(request.renews)
        if (
            row is None
            or row.certificate is None
            or row.revoked_at is not None
            or row.blocked
            or row.intent.profile != request.profile.name
            or row.intent.key_hash != _key_hash(request.csr)
            or _subject(load_der(row.certificate)) != (request.common_name, request.names)
        ):
            raise NotAuthorisedError(
                f"{format_serial(request.renews)} is no certificate of profile {request.profile.name} for this key and "
                "subject that could be renewed: it must be of this CA, and not revoked"
            )

    async def _prepare(self, request: IssuanceRequest, asked: "_Asked") -> Intent:
        serial = await self._serials.take()  # 3
        tbs = self._templates.build(  # 4
            request.profile,
            request.issuer,
            serial=serial,
            not_before=request.not_before,
            not_after=request.not_after,
            public_key=request.csr.public_key,
            spki=request.csr.spki,
            common_name=request.common_name,
            names=request.names,
            claims=request.claims,
        )
        await self._lint(request, tbs)  # 5
        entered = await self._entered(request, tbs)
        found_by = _found_by(request)
        intent = Intent(
            serial=serial,
            issuer=request.issuer.id,
            profile=request.profile.name,
            caller=asked.caller,
            idempotency_key=asked.idempotency_key,
            request_hash=asked.request_hash,
            key_hash=_key_hash(request.csr),
            not_before=unix(request.not_before),
            not_after=unix(request.not_after),
            recorded_at=unix(self._clock.now()),
            tbs=tbs if entered is None else entered.tbs,
            shard=request.issuer.shard_of(serial) if request.profile.crl else 0,
            account=request.requester.get("account", ""),
            requester=canonical_json({**request.requester, **request.grounds}).decode(),
            names=names_text(found_by),
            algorithm=request.csr.algorithm.name,
        )
        try:
            event = _intent_event(intent, request, entered)
            await self._store.record_intent(intent, event, found_by, request.account_key)  # 6
        except ConflictError as error:
            if error.write == 0:
                raise BlockedKeyError(_BLOCKED) from error
            raise BlockedAccountError(_BLOCKED_ACCOUNT) from error
        return intent

    async def _entered(self, request: IssuanceRequest, tbs: bytes) -> Entered | None:
        """What the log has made of linted bytes, linted anew; None where the profile has nothing logged."""
        if not request.profile.sct:
            return None
        if self._log is None:
            raise NoLogError(_NO_LOG)
        entered = await self._log.enter(tbs, request.issuer.certificate)
        await self._lint(request, entered.tbs, logged=True)
        return entered

    async def _lint(self, request: IssuanceRequest, tbs: bytes, *, logged: bool = False) -> None:
        self._tbs_lint.lint(tbs, request.profile, request.issuer, claims=request.claims, logged=logged)
        for name in request.profile.lint:
            await self._linters[name].lint(unsigned(tbs))

    async def _complete(self, intent: Intent) -> IssuedCertificate:
        ca = self._cas[intent.issuer]
        try:
            certificate = await ca.signer.certify(intent.tbs, ca.key)  # 7 and 8
            if may_have_sct_list(intent.tbs):
                self._verify_timestamp(certificate, ca)
        except (BadSignatureError, BadCertificateError, MalformedError, ProofError) as error:
            _log.error("wrong signature", serial=format_serial(intent.serial), key=ca.key.uri, error=str(error))
            raise WrongSignatureError(f"the key of {intent.issuer} made no valid signature; try again") from error
        der = certificate.public_bytes(Encoding.DER)
        detail = {"serial": format_serial(intent.serial), "sha256": hashlib.sha256(der).hexdigest()}
        event = AuditEvent("certificate.issued", intent.caller, detail)
        try:
            await self._store.store_certificate(intent.serial, der, event)  # 9
        except ConflictError:
            return await self._stored(intent)
        return self._answer(intent, certificate.public_bytes(Encoding.PEM))

    def _verify_timestamp(self, certificate: x509.Certificate, ca: IssuingCa) -> None:
        if sct_list_of(certificate.tbs_certificate_bytes) is None:
            return
        if self._log is None:
            raise NoLogError(_NO_LOG)
        self._log.verify(certificate, ca.issuer.certificate)

    async def _was_asked(self, asked: "_Asked") -> bool:
        return await self._store.by_idempotency_key(asked.caller, asked.idempotency_key) is not None

    async def _is_open(self, intent: Intent) -> bool:
        """Whether it still waits: the request may have come again meanwhile, or another replica was quicker."""
        row = await self._store.by_serial(intent.serial)
        return row is not None and row.certificate is None and row.revoked_at is None

    async def _stored(self, intent: Intent) -> IssuedCertificate:
        """Another replica completed this intent first: its certificate is the certificate."""
        row = await self._store.by_serial(intent.serial)
        if row is None or row.certificate is None:
            raise RuntimeError("a completed intent has no certificate")
        return self._answer(intent, pem_join("CERTIFICATE", row.certificate))

    async def _earlier(self, asked: "_Asked") -> Outcome:
        """What this idempotency key stands for, completed if it was left behind."""
        row = await self._store.by_idempotency_key(asked.caller, asked.idempotency_key)
        if row is None or row.intent.request_hash != asked.request_hash:
            raise IdempotencyConflictError("this idempotency key stands for another request; use a new one")
        if row.intent.issuer not in self._cas:
            raise IdempotencyConflictError("this idempotency key stands for a certificate of long ago; use a new one")
        if row.certificate is not None:
            return Outcome(self._answer(row.intent, pem_join("CERTIFICATE", row.certificate)), created=False)
        if row.revoked_at is not None:
            raise RevokedIntentError("this request was revoked before it was completed; ask anew")
        if row.blocked:
            raise BlockedKeyError(_BLOCKED)
        return Outcome(await self._complete(row.intent), created=False)

    def _answer(self, intent: Intent, pem: bytes) -> IssuedCertificate:
        certificate, ca = pem.decode(), self._cas[intent.issuer]
        alternates = tuple(certificate + chain for chain in ca.alternates_pem)
        serial = format_serial(intent.serial)
        return IssuedCertificate(serial, certificate, certificate + ca.chain_pem, intent.not_after, alternates)

    def _alone(self, asked: "_Asked") -> "_Turn":
        return _Turn(self._running, (asked.caller, asked.idempotency_key))


@dataclass(frozen=True, slots=True)
class _Asked:
    """By what a request is known again."""

    caller: str
    idempotency_key: str
    request_hash: bytes

    @classmethod
    def of(cls, caller: SpiffeId, csr: VerifiedCsr, request: CertificateRequest) -> "_Asked":
        """Its claims are only hashed once they were judged."""
        return cls(str(caller), request.idempotency_key, _request_hash(csr, request))


class _Turn:
    """One at a time per idempotency key, so that no bytes are signed twice."""

    def __init__(self, running: dict[tuple[str, str], asyncio.Future[None]], key: tuple[str, str]) -> None:
        self._running = running
        self._key = key

    async def __aenter__(self) -> None:
        while (other := self._running.get(self._key)) is not None:
            await asyncio.wait([other])
        self._running[self._key] = asyncio.get_running_loop().create_future()

    async def __aexit__(self, *_: object) -> None:
        self._running.pop(self._key).set_result(None)


def _request_hash(csr: VerifiedCsr, request: CertificateRequest) -> bytes:
    """What makes two requests the same: profile, CSR (and so key and names), claims, and the times asked for."""
    end = b"" if request.not_after is None else b"%d" % request.not_after
    rest = [canonical_json(request.extensions)] if request.extensions else []
    if request.not_before is not None:
        rest.append(b"from %d" % request.not_before)
    return hashlib.sha256(b"\0".join((request.profile.encode(), end, csr.der, *rest))).digest()


def _subject(certificate: x509.Certificate) -> tuple[str | None, Names]:
    common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    try:
        names = names_of(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        names = Names()
    return (str(common_names[0].value) if common_names else None), names


def _found_by(request: IssuanceRequest) -> list[tuple[str, str]]:
    """Kind and name of what the certificate will be found by."""
    names = request.names
    found = [("dns", name) for name in names.dns] + [("ip", str(name)) for name in names.ip]
    found += [("uri", name) for name in names.uri] + [("email", name) for name in names.email]
    return found + ([("common_name", request.common_name)] if request.common_name else [])


def _key_hash(csr: VerifiedCsr) -> bytes:
    return hashlib.sha256(csr.spki).digest()


def _intent_event(intent: Intent, request: IssuanceRequest, entered: Entered | None) -> AuditEvent:
    names = request.names
    detail: dict[str, Any] = {
        "serial": format_serial(intent.serial),
        "issuer": intent.issuer,
        "profile": intent.profile,
        "names": [*names.dns, *map(str, names.ip), *names.uri, *names.email],
        "not_after": intent.not_after,
        "tbs_sha256": hashlib.sha256(intent.tbs).hexdigest(),
        "requester": dict(request.requester),
        **request.grounds,
    }
    if request.renews is not None:
        detail["renews"] = format_serial(request.renews)
    if request.claims:
        detail["claims"] = dict(request.claims)
    if entered is not None:
        detail["ct_log"] = {"id": entered.log_id.hex(), "index": entered.index}
    return AuditEvent("certificate.intent", intent.caller, detail, logged=False)  # the certificate's event is
