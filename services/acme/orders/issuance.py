"""From `processing` to the certificate: the CA is asked until it has said yes or no, across restarts.

Whoever asks again long after finalize looks at the CAA records again: owners may have forbidden it since.

The idempotency key is made of the order's id: asking again, after a crash on either side, yields the same certificate.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final, Protocol

import structlog
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import PublicKey
from pkicore.clock import Clock, from_unix, unix
from pkicore.errors import PkiError
from pkicore.x509.cert_id import cert_id_of
from pkicore.x509.certificate import load_chain
from pkicore.x509.csr import UnverifiedCsr
from services.acme.background import Background
from services.acme.errors import AcmeError
from services.acme.ids import new_id
from services.acme.orders.caa_again import CAA_SECONDS, CaaAgain
from services.acme.profiles.profiles import Profiles
from services.acme.requests import AccountCache
from services.acme.store import CertificateRow, OrderRow, ProofRow, Store
from services.acme.urls import Urls
from services.ca import client as ca
from services.ca.wire import MAX_TEXT, CertificateRequest, IssuedCertificate, RevocationAnswer, RevocationRequest
from services.ca.wire import Identifier as CaIdentifier
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError, DatabaseError

CONCURRENT_REQUESTS: Final = 64  # to the CA; after a restart thousands of orders may be waiting
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds between attempts
_TRY_AGAIN: Final = frozenset({408, 425, 429})  # refusals of the moment, not of the request

_VALIDITY: Final = "validity-refused"

# What the CA's refusals are called in ACME; whatever is not the client's doing is the server's own fault.
_REFUSALS: Final[dict[type[ca.CaRefusedError], str]] = {
    ca.BadCsrError: "badCSR",
    ca.BadPublicKeyError: "badCSR",
    ca.BlockedAccountError: "unauthorized",
    ca.RejectedNamesError: "rejectedIdentifier",
}


class _CaaUnknownError(Exception):
    """The CAA records cannot be looked up now: nothing is issued on that, and nothing is refused for good."""


class CertificateAuthority(Protocol):
    """What the ACME server asks of the CA; `services.ca.client.CaClient` is one."""

    async def issue(self, request: CertificateRequest) -> IssuedCertificate:
        """A certificate, or CaError."""

    async def revoke(self, request: RevocationRequest) -> RevocationAnswer:
        """Revoked, or CaError."""

    async def key_status(self, key_hash: str) -> ca.KeyStatus:
        """Whether the key with this SHA-256 (hex) is blocked, or CaError."""


class Issuance:
    """Drives orders that are processing, one task each; a request waits for it at most `hold_seconds`."""

    def __init__(  # noqa: PLR0913, PLR0917 - one argument for each part that it is made of
        self,
        store: Store,
        accounts: AccountCache,
        authority: CertificateAuthority,
        caa: CaaAgain | None,
        background: Background,
        profiles: Profiles,
        urls: Urls,
        clock: Clock,
        hold_seconds: float,
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._profiles = profiles
        self._clock = clock
        self._authority = authority
        self._caa = caa
        self._background = background
        self._urls = urls
        self._hold_seconds = hold_seconds
        self._slots = asyncio.Semaphore(CONCURRENT_REQUESTS)
        self._log = structlog.get_logger("acme.issuance")

    async def wait(self, order: OrderRow) -> OrderRow | None:
        """The order as it was stored at its end; None after as long as a request is held, or when others ended it."""
        return await self._background.outcome(self._start(order), self._hold_seconds)

    async def resume(self) -> int:
        """Take up every order that the last stop left processing; how many there are."""
        unfinished = await self._store.processing_orders()
        for order in unfinished:
            self._start(order, again=True)
        return len(unfinished)

    async def take_up(self, seen: Collection[str]) -> set[str]:
        """Take up the processing orders that an earlier look has `seen` already; the ids of all there are now."""
        unfinished = await self._store.processing_orders()
        for order in unfinished:
            if order.id in seen:
                self._start(order, again=True)
        return {order.id for order in unfinished}

    def _start(self, order: OrderRow, *, again: bool = False) -> asyncio.Task[OrderRow | None]:
        return self._background.run(f"order {order.id}", lambda: self._drive(order, again=again))

    async def _drive(self, order: OrderRow, *, again: bool) -> OrderRow | None:
        """Ask, and store the outcome; both again and again while the other side does not answer."""
        pause, looked_at = _FIRST_PAUSE, 0
        while True:
            try:
                if again:
                    looked_at, forbidden = await self._look_again(order, looked_at)
                    if forbidden is not None:
                        return await self._fail(order, forbidden)
                return await self._step(order)
            except ConflictError:
                self._log.info("order was finished elsewhere", order=order.id)
                return None
            except (ca.CaUnavailableError, _CaaUnknownError, DatabaseError) as error:
                self._log.warning("order waits", order=order.id, error=str(error), retry_seconds=pause)
            again = True
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, no secret
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _look_again(self, order: OrderRow, looked_at: int) -> tuple[int, AcmeError | None]:
        """When CAA was looked at beyond the validations, now where that is due; and what it forbids.

        Whether the CA has issued already, in an answer that was lost, is not known: who forbids it gets nothing of it.
        """
        if self._caa is None:
            return looked_at, None
        proofs, now = await self._store.proofs(order.id), unix(self._clock.now())
        if all(max(proof.validated_at, looked_at) >= now - CAA_SECONDS for proof in proofs):
            return looked_at, None
        try:
            await self._caa.require(proofs, order.account_id)
        except AcmeError as error:
            if all(problem.acme_type != "caa" for problem in error.subproblems):
                raise _CaaUnknownError(f"CAA is not known: {error.detail}") from error
            self._log.warning("CAA forbids an order that waited", order=order.id, error=error.detail)
            return now, error
        return now, None

    async def _step(self, order: OrderRow) -> OrderRow:
        try:
            async with self._slots:
                proofs = await self._store.proofs(order.id)
                key = await self._account_key(order.account_id)
                issued = await self._authority.issue(self._request(order, proofs, key))
            certificate = _certificate(order, issued, unix(self._clock.now()))
        except ca.CaRefusedError as error:
            if error.status in _TRY_AGAIN:
                raise ca.CaUnavailableError(error.detail) from error
            self._log.warning("the CA refused an order", order=order.id, kind=error.kind, error=error.detail)
            return await self._fail(order, _refusal(error))
        except PkiError as error:
            self._log.error("the CA's certificate is not what was ordered", order=order.id, error=str(error))
            return await self._fail(order, AcmeError("serverInternal", "the CA did not issue what was ordered"))
        detail = {
            "order": order.id,
            "serial": issued.serial,
            "identifiers": [name.value for name in order.identifiers],
        }
        audit = AuditEvent("certificate.issued", f"account:{order.account_id}", detail)
        await self._store.complete_order(certificate, audit)
        return replace(order, status="valid", certificate_id=certificate.id)

    async def _account_key(self, account_id: str) -> bytes | None:
        """Its key as the CA's block list has it: it may have been blocked since the account ordered."""
        account = await self._accounts.get(account_id)
        return None if account is None else bytes.fromhex(account.key_hash)

    async def _fail(self, order: OrderRow, error: AcmeError) -> OrderRow:
        detail = {"order": order.id, "error": error.acme_type}
        audit = AuditEvent("order.failed", f"account:{order.account_id}", detail)
        problem = error.document()
        await self._store.fail_order(order.id, problem, audit)
        return replace(order, status="invalid", error=problem)

    def _request(self, order: OrderRow, proofs: Sequence[ProofRow], account_key: bytes | None) -> CertificateRequest:
        return CertificateRequest(
            csr=order.csr or b"",
            profile=self._profiles.of_order(order.profile).ca_profile,
            identifiers=tuple(CaIdentifier(name.type, name.value) for name in order.identifiers),
            idempotency_key=f"acme-order-{order.id}",
            requester={
                "account": self._urls.of(f"acct/{order.account_id}"),
                "order": self._urls.of(f"order/{order.id}"),
                "profile": order.profile,
                **validation(proofs),
            },
            not_before=order.not_before,
            not_after=order.not_after,
            account_key=account_key,
        )


def validation(proofs: Sequence[ProofRow]) -> dict[str, str]:
    """For the CA's records: method to the names that were validated by it, each with its time; as many as fit.

    Where remote perspectives saw them too, `perspectives` has their answers: "ok" or the error's type.
    """
    found: dict[str, str] = {}
    for proof in proofs:
        name = proof.name.value
        _append(found, proof.method, f"{name} {from_unix(proof.validated_at):%Y-%m-%dT%H:%M:%SZ}")
        if proof.perspectives:
            seen = " ".join(f"{answer['perspective']}={answer['error'] or 'ok'}" for answer in proof.perspectives)
            _append(found, "perspectives", f"{name} {seen}")
    return found


def _append(found: dict[str, str], member: str, text: str) -> None:
    """Unless it becomes longer than the CA takes."""
    longer = f"{found[member]}, {text}" if member in found else text
    if len(longer) <= MAX_TEXT:
        found[member] = longer


def _certificate(order: OrderRow, issued: IssuedCertificate, now: int) -> CertificateRow:
    """The row of a certificate, once it is known to be for the key of the CSR.

    Raises:
        PkiError: the chain does not parse, or is for another key, or the certificate does not name its issuer's key.
    """
    leaf = load_chain(issued.chain.encode())[0]
    asked = UnverifiedCsr.parse(order.csr or b"").request.public_key()  # verified before it was stored
    if leaf.public_key() != asked:
        raise PkiError("the certificate is for another key than the CSR")
    return CertificateRow(
        id=new_id(),
        order_id=order.id,
        account_id=order.account_id,
        serial=issued.serial,
        fingerprint=fingerprint(leaf.public_bytes(Encoding.DER)),
        chain=issued.chain,
        not_after=issued.not_after,
        revoked_at=None,
        cert_id=cert_id_of(leaf),
        not_before=unix(leaf.not_valid_before_utc),
        alternates=issued.alternates,
        issued_at=now,
    )


def spki(key: PublicKey) -> bytes:
    """The key as certificates carry it, for comparison."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(der: bytes) -> str:
    """By which a certificate is found again: SHA-256 over all its bytes, hex."""
    return hashlib.sha256(der).hexdigest()


def _refusal(error: ca.CaRefusedError) -> AcmeError:
    if error.kind == _VALIDITY:
        return AcmeError("malformed", f"notBefore or notAfter: {error.detail}")
    acme_type = _REFUSALS.get(type(error))
    if acme_type is None:
        return AcmeError("serverInternal", "the CA does not issue this certificate")
    return AcmeError(acme_type, error.detail)
