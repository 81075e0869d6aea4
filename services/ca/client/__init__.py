"""How other services and the command line call the CA over mTLS.

CaError
├─ CaUnavailableError    no answer, or an answer that makes no sense: try again later
└─ CaRefusedError        the CA answered with a problem document
   ├─ ForbiddenError            this caller may not ask that
   ├─ BadCsrError               the CSR breaks a rule
   ├─ BadPublicKeyError         its key does
   ├─ BlockedAccountError       the key that the requester signed with is on the block list
   ├─ RejectedNamesError        names that do not match or that the profile does not allow
   ├─ BadReasonError            a revocation reason that does not apply
   ├─ AlreadyRevokedError       this certificate was revoked before
   ├─ NotHeldError              this certificate is not held, and cannot be released
   ├─ UnknownCertificateError   this CA never issued it
   ├─ UnknownKeyError           a key that is not on the block list
   └─ IdempotencyConflictError  this idempotency key was used with another request
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

import orjson

from pkicore.errors import MalformedError
from services.ca.block_list.wire import BlockAnswer, BlockedKeyPage, BlockRequest, KeyStatus
from services.ca.ledger.wire import Inventory, LedgerEntry, LedgerPage, RefusalPage
from services.ca.selection import SelectionAnswer, SelectionRequest
from services.ca.wire import (
    FEED_ENTRIES,
    CertificateRequest,
    CertificateStatus,
    IssuedCertificate,
    RevocationAnswer,
    RevocationFeed,
    RevocationRequest,
)
from services.chassis.http_client import SERVER_ERROR, Failure, Http, ServiceCalls

BLOCK_WAIT: Final = 120.0  # seconds; a key may have many certificates, each of which is revoked
KEY_STATUS_WAIT: Final = 5.0  # seconds; a request of somebody else waits for the answer
FEED_WAIT: Final = 30.0  # seconds the CA holds a feed request that has nothing to tell


class CaError(Exception):
    """The CA did not do what was asked."""


class CaUnavailableError(CaError):
    """No usable answer; nothing is known of what the CA did, so repeat with the same idempotency key."""


class CaRefusedError(CaError):
    """A problem document: `kind` is its type without the urn prefix, `status` the HTTP status, `detail` a sentence."""

    def __init__(self, kind: str, status: int, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status = status
        self.detail = detail


class ForbiddenError(CaRefusedError):
    """The CA does not let this caller do that."""


class BadCsrError(CaRefusedError):
    """The CSR does not parse, does not verify or asks for what is not given."""


class BadPublicKeyError(CaRefusedError):
    """The key in the CSR is refused."""


class BlockedAccountError(CaRefusedError):
    """The key that the requester signed with is on the block list."""


class RejectedNamesError(CaRefusedError):
    """The names of the CSR are not those of the request, or the profile does not allow them."""


class BadReasonError(CaRefusedError):
    """The revocation reason does not exist or does not apply to this certificate."""


class AlreadyRevokedError(CaRefusedError):
    """The certificate was revoked before; nothing changed."""


class NotHeldError(CaRefusedError):
    """The certificate is not held; nothing changed."""


class UnknownCertificateError(CaRefusedError):
    """This CA never issued that certificate."""


class UnknownKeyError(CaRefusedError):
    """The key is not on the block list."""


class IdempotencyConflictError(CaRefusedError):
    """The idempotency key belongs to another request."""


REFUSALS: Final[Mapping[str, type[CaRefusedError]]] = {
    "forbidden": ForbiddenError,
    "bad-csr": BadCsrError,
    "bad-public-key": BadPublicKeyError,
    "blocked-account": BlockedAccountError,
    "rejected-names": RejectedNamesError,
    "bad-revocation-reason": BadReasonError,
    "already-revoked": AlreadyRevokedError,
    "not-held": NotHeldError,
    "unknown-certificate": UnknownCertificateError,
    "unknown-key": UnknownKeyError,
    "idempotency-conflict": IdempotencyConflictError,
}


class CaClient:
    """The CA's endpoints as methods; `http` is a pooled mTLS client that expects the CA's SPIFFE ID."""

    def __init__(self, http: Http) -> None:
        self._ca = ServiceCalls(http, "the CA", _error_of)

    async def issue(self, request: CertificateRequest) -> IssuedCertificate:
        """Ask for a certificate; safe to repeat with the same idempotency key.

        Raises:
            CaRefusedError: the CA said no, and why (see the tree above).
            CaUnavailableError: no usable answer.
        """
        return await self._ca.ask(IssuedCertificate.from_json, "POST", "/v1/certificates", request.to_json())

    async def revoke(self, request: RevocationRequest) -> RevocationAnswer:
        """Revoke a certificate.

        Raises:
            AlreadyRevokedError: it was revoked before.
            UnknownCertificateError: the CA never issued it.
            BadReasonError: the reason does not apply.
            CaRefusedError: any other refusal.
            CaUnavailableError: no usable answer.
        """
        return await self._ca.ask(RevocationAnswer.from_json, "POST", "/v1/revocations", request.to_json())

    async def revoke_selected(self, request: SelectionRequest) -> SelectionAnswer:
        """One piece of a revocation, hold or release of many; repeat it after a failure, then go on with `after`.

        Raises:
            ForbiddenError: this caller is no operator.
            BadReasonError: the reason does not apply.
            CaRefusedError: any other refusal.
            CaUnavailableError: no usable answer.
        """
        return await self._ca.ask(SelectionAnswer.from_json, "POST", "/v1/revocations", request.to_json(), seconds=120)

    async def certificate(self, serial: str) -> CertificateStatus:
        """What the CA knows of a serial (hex).

        Raises:
            UnknownCertificateError: nothing.
            CaUnavailableError: no usable answer.
        """
        return await self._ca.ask(CertificateStatus.from_json, "GET", f"/v1/certificates/{serial}")

    async def revocations(self, after: int, *, wait: bool = True) -> RevocationFeed:
        """What was revoked after sequence number `after`; where nothing was, the CA holds the request for up to 30 s.

        Raises:
            CaUnavailableError: no usable answer.
        """
        path = f"/v1/revocations?after={after}{'' if wait else '&wait=0'}"
        return await self._ca.ask(RevocationFeed.from_json, "GET", path, seconds=FEED_WAIT + 10)

    async def newest_revocation(self, after: int) -> int:
        """The newest sequence number after `after`, so that many revocations are reacted to once; `after` if none came.

        Raises:
            CaUnavailableError: no usable answer.
        """
        feed = await self.revocations(after)
        while len(feed.entries) >= FEED_ENTRIES:
            feed = await self.revocations(feed.next, wait=False)
        return feed.next

    async def block_key(self, request: BlockRequest) -> BlockAnswer:
        """Never certify a key again, and revoke what it has; safe to repeat.

        Raises:
            CaRefusedError: the CA said no.
            CaUnavailableError: no usable answer.
        """
        path = "/v1/blocked-keys"
        return await self._ca.ask(BlockAnswer.from_json, "POST", path, request.to_json(), seconds=BLOCK_WAIT)

    async def blocked_keys(self, after: str = "") -> BlockedKeyPage:
        """Entries of the block list behind a key's hash, from the first on where none is given.

        Raises:
            CaRefusedError: the CA said no.
            CaUnavailableError: no usable answer.
        """
        return await self._ca.ask(BlockedKeyPage.from_json, "GET", f"/v1/blocked-keys?after={after}")

    async def key_status(self, key_hash: str) -> KeyStatus:
        """Whether the key with this SHA-256 of its SubjectPublicKeyInfo (hex) is blocked, and whether it is certified.

        Raises:
            ForbiddenError: the caller policy of this deployment does not let this service ask.
            CaRefusedError: the CA said no.
            CaUnavailableError: no usable answer.
        """
        path = f"/v1/blocked-keys/{key_hash}"
        return await self._ca.ask(KeyStatus.from_json, "GET", path, seconds=KEY_STATUS_WAIT)

    async def unblock_key(self, key_hash: str) -> None:
        """Let a key be certified again.

        Raises:
            UnknownKeyError: it is not on the block list.
            CaRefusedError: the CA said no.
            CaUnavailableError: no usable answer.
        """
        await self._ca.ask(lambda _body: None, "DELETE", f"/v1/blocked-keys/{key_hash}")

    async def ledger(self, query: Mapping[str, str | int]) -> LedgerPage:
        """A page of a search in the ledger; `services.ca.ledger.query` has the parameters.

        Raises:
            CaRefusedError: the CA said no, and why.
            CaUnavailableError: no usable answer.
        """
        return await self._ca.ask(LedgerPage.from_json, "GET", f"/v1/ledger/certificates?{urlencode(query)}")

    async def ledger_entry(self, serial: str) -> LedgerEntry:
        """All that the ledger has of a serial (hex).

        Raises:
            UnknownCertificateError: nothing.
            CaRefusedError, CaUnavailableError: as `ledger`.
        """
        return await self._ca.ask(LedgerEntry.from_json, "GET", f"/v1/ledger/certificates/{quote(serial, safe='')}")

    async def refusals(self, query: Mapping[str, str | int]) -> RefusalPage:
        """A page of refusals, the newest first; `since` (Unix time), `limit` and `cursor`.

        Raises:
            CaRefusedError, CaUnavailableError: as `ledger`.
        """
        return await self._ca.ask(RefusalPage.from_json, "GET", f"/v1/ledger/refusals?{urlencode(query)}")

    async def inventory(self) -> Inventory:
        """What the CA certifies and signs with, by algorithm.

        Raises:
            CaRefusedError, CaUnavailableError: as `ledger`.
        """
        return await self._ca.ask(Inventory.from_json, "GET", "/v1/ledger/inventory")

    async def publish_crls(self) -> dict[str, int]:
        """Publish every issuer's CRL now; issuer id to CRL number.

        Raises:
            CaRefusedError: the CA said no.
            CaUnavailableError: no usable answer.
        """
        return await self._ca.ask(_crl_numbers, "POST", "/v1/crls", b"{}")


def _crl_numbers(body: bytes) -> dict[str, int]:
    try:
        return {str(item["issuer"]): int(item["number"]) for item in orjson.loads(body)["crls"]}
    except (orjson.JSONDecodeError, TypeError, KeyError, ValueError) as error:
        raise MalformedError("not a list of CRLs") from error


def _error_of(failure: Failure) -> CaError:
    problem = failure.problem
    if problem is None or failure.status >= SERVER_ERROR:
        return CaUnavailableError(failure.sentence)
    return REFUSALS.get(problem.kind, CaRefusedError)(problem.kind, failure.status, problem.detail)


__all__ = [
    "FEED_WAIT",
    "REFUSALS",
    "AlreadyRevokedError",
    "BadCsrError",
    "BadPublicKeyError",
    "BadReasonError",
    "CaClient",
    "CaError",
    "CaRefusedError",
    "CaUnavailableError",
    "ForbiddenError",
    "IdempotencyConflictError",
    "KeyStatus",
    "NotHeldError",
    "RejectedNamesError",
    "UnknownCertificateError",
    "UnknownKeyError",
]
