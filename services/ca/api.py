"""The hot endpoints of the mTLS listener: JSON in, JSON out, no rules; `services.ca.admin` has the others.

Who may call what is decided before a body is read.

| endpoint                     | what                                                        |
|------------------------------|-------------------------------------------------------------|
| POST /v1/certificates        | issue (201), or the certificate issued before (200)         |
| POST /v1/revocations         | revoke, hold or release: one, or a piece of many            |
| GET  /v1/revocations?after=N | what was revoked after sequence N; waits for it up to 30 s, |
|                              | unless there is wait=0, too                                 |
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import parse_qs

from pkicore import errors as core
from pkicore.identity import SpiffeId
from services.ca import errors
from services.ca.feed import RevocationLog
from services.ca.issuance import Issuance
from services.ca.ledger.refusals import Asked, Refusals
from services.ca.revocation import Revoker
from services.ca.selection import SelectionRequest
from services.ca.store import CaStore
from services.ca.wire import (
    FEED_ENTRIES,
    MAX_BODY,
    CertificateRequest,
    FeedEntry,
    IssuedCertificate,
    RevocationFeed,
    RevocationRequest,
    format_serial,
)
from services.chassis.asgi import Request, Response, Route
from services.chassis.errors import ForbiddenError
from services.chassis.fields import Fields
from services.chassis.problems import Builder, ProblemTable, problem

FEED_SECONDS: Final = 30.0  # how long a feed request is held while nothing happens
_JSON: Final = ((b"content-type", b"application/json"),)
_MEDIA: Final = ("application/json",)
_REVOCATION: Final = frozenset({"serial", "certificate", "selector", "reason", "after", "dry_run"})

_ROWS: Final[Mapping[type[Exception], Builder]] = {
    core.MalformedError: problem("malformed", "Malformed request", 400),
    core.UnsupportedError: problem("bad-csr", "CSR refused", 400),
    core.BadCsrError: problem("bad-csr", "CSR refused", 400),
    core.BadSignatureError: problem("bad-csr", "CSR refused", 400),
    core.BadKeyError: problem("bad-public-key", "Key refused", 400),
    core.ProfileError: problem("profile-refused", "Not within the profile", 400),
    core.LintError: problem("lint-refused", "The certificate would break a rule", 400),
    core.KeyAccessError: problem("unavailable", "Temporarily unavailable", 503, headers=((b"retry-after", b"1"),)),
    errors.WrongSignatureError: problem(
        "bad-signer-answer", "The signer answered with a wrong signature", 502, headers=((b"retry-after", b"1"),)
    ),
    errors.NotAuthorisedError: problem("forbidden", "Forbidden", 403),
    errors.NamesError: problem("rejected-names", "Names refused", 400),
    errors.ValidityError: problem("validity-refused", "Validity refused", 400),
    errors.UnknownProfileError: problem("unknown-profile", "No such profile", 400),
    errors.NoLogError: problem("no-log", "No certificate log", 400),
    errors.NotBlockedError: problem("unknown-key", "Not on the block list", 404),
    errors.BlockedKeyError: problem("bad-public-key", "Key refused", 400),
    errors.BlockedAccountError: problem("blocked-account", "Account's key on the block list", 403),
    errors.ReasonError: problem("bad-revocation-reason", "Revocation reason refused", 400),
    errors.IdempotencyConflictError: problem("idempotency-conflict", "Idempotency key in use", 409),
    errors.RevokedIntentError: problem("revoked-intent", "Revoked before it was issued", 409),
    errors.AlreadyRevokedError: problem("already-revoked", "Already revoked", 409),
    errors.NotHeldError: problem("not-held", "Not held", 409),
    errors.PublicationDelayedError: problem("unavailable", "Temporarily unavailable", 503),
    errors.UnknownCertificateError: problem("unknown-certificate", "No such certificate", 404),
}

PROBLEMS: Final = ProblemTable(_ROWS)


class CaEndpoints:
    """The handlers over the domain; `issued` is told of each new certificate and its profile."""

    def __init__(
        self,
        *,
        issuance: Issuance,
        revoker: Revoker,
        log: RevocationLog,
        store: CaStore,
        refusals: Refusals,
        issued: Callable[[str, IssuedCertificate], None],
    ) -> None:
        self._issued = issued
        self._refusals = refusals
        self._issuance = issuance
        self._revoker = revoker
        self._log = log
        self._store = store

    def routes(self) -> list[Route]:
        """What the mTLS listener answers."""
        return [
            Route("POST", "/v1/certificates", self.issue, _MEDIA, MAX_BODY),
            Route("POST", "/v1/revocations", self.revoke, _MEDIA, MAX_BODY),
            Route("GET", "/v1/revocations", self.feed),
        ]

    async def issue(self, request: Request) -> Response:
        """Issue a certificate."""
        caller, wanted = caller_of(request), CertificateRequest.from_json(await request.body())
        async with self._refusals.recorded(caller, lambda: Asked.certificate(wanted)):
            try:
                outcome = await self._issuance.issue(caller, wanted)
            except core.MalformedError as error:
                raise core.BadCsrError(str(error)) from error
        if outcome.created:
            self._issued(wanted.profile, outcome.answer)
        return Response(201 if outcome.created else 200, outcome.answer.to_json(), [*_JSON])

    async def revoke(self, request: Request) -> Response:
        """Revoke, hold or release a certificate, or a piece of those that an operator selects."""
        caller, data = caller_of(request), await request.body()
        body = Fields.parse(data, _REVOCATION)
        if "selector" in body.members:
            selection = SelectionRequest.of(body)
            async with self._refusals.recorded(caller, lambda: Asked("revoke", (str(selection.selector),))):
                selected = await self._revoker.revoke_selected(caller, selection)
            return Response(200, selected.to_json(), [*_JSON])
        wanted = RevocationRequest.from_json(data)
        async with self._refusals.recorded(caller, lambda: Asked("revoke", (_named(wanted),))):
            answer = await self._revoker.revoke(caller, wanted)
        return Response(200, answer.to_json(), [*_JSON])

    async def feed(self, request: Request) -> Response:
        """Revocations after a sequence, as soon as there is one."""
        after, wait = _number(request, "after", 0), _number(request, "wait", 1)
        if wait and self._log.last <= after:
            await self._log.wait(after, FEED_SECONDS)
        rows = await self._store.revocations_after(after, FEED_ENTRIES)
        entries = tuple(
            FeedEntry(row.sequence, format_serial(row.serial), row.issuer, row.revoked_at, row.reason) for row in rows
        )
        feed = RevocationFeed(entries, entries[-1].sequence if entries else after)
        return Response(200, feed.to_json(), [*_JSON])


def _named(request: RevocationRequest) -> str:
    """The certificate that is to be revoked, as a record of the refusal has it."""
    return request.serial or f"SHA-256 {hashlib.sha256(request.certificate or b'').hexdigest()}"


def caller_of(request: Request) -> SpiffeId:
    """Who asks.

    Raises:
        ForbiddenError: somebody without a SPIFFE ID.
    """
    identity = None if request.peer is None else request.peer.spiffe_id
    if not isinstance(identity, SpiffeId):
        raise ForbiddenError("the caller's certificate has no SPIFFE ID")
    return identity


def _number(request: Request, name: str, default: int) -> int:
    try:
        query = parse_qs(request.scope.get("query_string", b"").decode("latin-1"), max_num_fields=4)
    except ValueError as error:
        raise core.MalformedError("too many query parameters: there are after=N and wait=0 only") from error
    (value,) = query.get(name, [str(default)])[:1]
    if not (value.isascii() and value.isdigit() and len(value) < 19):  # noqa: PLR2004 - fits 64 bits
        raise core.MalformedError(f"{name} must be a whole number")
    return int(value)
