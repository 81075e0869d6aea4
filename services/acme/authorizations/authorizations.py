"""Authorizations and their challenges (RFC 8555 §7.5): read, tried, given up."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from typing import Any, Final, NamedTuple, Protocol

import structlog

from pkicore.clock import Clock, unix
from services.acme.answers import answer, link, not_found, retry_after, rfc3339
from services.acme.background import Background
from services.acme.challenges import CHALLENGE_TYPES, WITHOUT_TOKEN, members
from services.acme.challenges.attempt import Attempt, PerspectiveAnswer
from services.acme.errors import AcmeError, Subproblem, ValidationError
from services.acme.identifiers import Identifier
from services.acme.ids import new_id, new_token
from services.acme.rate_limits.rate_limits import RateLimits
from services.acme.requests import AccountRequest
from services.acme.store import AccountRow, AuthorizationRow, ChallengeRow, NewAuthorization, Store
from services.acme.urls import Urls
from services.chassis.asgi import Response
from services.chassis.database import AuditEvent, Write
from services.chassis.errors import ConflictError, DatabaseError

POLL_SECONDS: Final = 2
_UNSETTLED: Final = ("pending", "processing")
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds between attempts to store an outcome or to find a free slot


class Validator(Protocol):
    """Whoever looks whether a challenge has been met."""

    async def validate(self, attempt: Attempt) -> tuple[PerspectiveAnswer, ...]:
        """Return when control is proven, with what remote perspectives saw of it.

        Raises:
            ValidationError: it is not.
            AcmeError: nothing was tried.
        """


def new_authorization(account_id: str, name: Identifier, expires: int, methods: Sequence[str]) -> NewAuthorization:
    """A pending authorization of a name, which may be a wildcard, and its challenges."""
    authorization = AuthorizationRow(
        id=new_id(),
        account_id=account_id,
        identifier=name.base,
        wildcard=name.is_wildcard,
        status="pending",
        expires=expires,
    )
    tokens = {kind: "" if kind in WITHOUT_TOKEN else new_token() for kind in methods}
    return authorization, [
        ChallengeRow(new_id(), authorization.id, kind, token, "pending") for kind, token in tokens.items()
    ]


class _Outcome(NamedTuple):
    """What came of an attempt: no error is a proof."""

    error: AcmeError | None
    answers: tuple[PerspectiveAnswer, ...] = ()


class Authorizations:
    """The resources authorization and challenge.

    A challenge request waits `hold_seconds` for its outcome, so that most clients never see `processing`.
    """

    def __init__(
        self,
        store: Store,
        validator: Validator,
        background: Background,
        urls: Urls,
        clock: Clock,
        hold_seconds: float,
        limits: RateLimits,
        issuers: Sequence[str] = (),
    ) -> None:
        self._store = store
        self._limits = limits
        self._issuers = issuers
        self._validator = validator
        self._background = background
        self._urls = urls
        self._clock = clock
        self._hold_seconds = hold_seconds
        self._log = structlog.get_logger("acme.authorizations")

    async def post(self, request: AccountRequest, authorization_id: str) -> Response:
        """Read an authorization, or give it up with `{"status": "deactivated"}` (RFC 8555 §7.5.2).

        Raises:
            AcmeError: malformed (404 for others' and unknown ones).
        """
        if not request.is_read:
            await self._give_up(request, authorization_id)
        document = await self.document(authorization_id, request.account.id)
        headers = [retry_after(POLL_SECONDS)] if document["status"] == "pending" else []
        return answer(document, *headers)

    async def challenge(self, request: AccountRequest, challenge_id: str) -> Response:
        """Read a challenge, or have it validated with `{}` (RFC 8555 §7.5.1).

        Raises:
            AcmeError: malformed (404 for others' and unknown ones), or rateLimited.
        """
        found = await self._store.challenge(challenge_id, request.account.id)
        if found is None:
            raise not_found()
        challenge, authorization = found
        if not request.is_read:
            request.members()  # `{}`; older clients add keyAuthorization, which says nothing new
            challenge = await self._respond(challenge, authorization, request.account.row)
        headers = [link(self._urls.of(f"authz/{authorization.id}"), "up")]
        if challenge.status == "processing":
            headers.append(retry_after(POLL_SECONDS))
        return answer(self._challenge_document(challenge, authorization), *headers)

    async def resume(self) -> int:
        """Take up the validations that the last stop cut short; how many there are."""
        unfinished = await self._store.processing_challenges()
        for challenge, authorization in unfinished:
            account = await self._store.account(authorization.account_id)
            if account is not None:
                self._start(challenge, authorization, account.thumbprint)
        return len(unfinished)

    async def take_up(self, seen: Collection[str]) -> set[str]:
        """Take up the processing challenges that an earlier look has `seen` already; the ids of all there are now."""
        unfinished = await self._store.processing_challenges()
        for challenge, authorization in unfinished:
            account = await self._store.account(authorization.account_id) if challenge.id in seen else None
            if account is not None:
                self._start(challenge, authorization, account.thumbprint)
        return {challenge.id for challenge, _ in unfinished}

    # A challenge on its way

    async def _respond(
        self, challenge: ChallengeRow, authorization: AuthorizationRow, account: AccountRow
    ) -> ChallengeRow:
        if challenge.status not in _UNSETTLED:
            return challenge
        status = self._status(authorization)
        if status != "pending":
            raise AcmeError("malformed", f"the authorization of this challenge is {status}")
        if challenge.status == "pending":  # what is processing was let in before
            self._limits.require_try(account, authorization.identifier, challenge.failures_full_at)
        task = self._start(challenge, authorization, account.thumbprint)
        settled = await self._background.outcome(task, self._hold_seconds)
        if settled is not None:
            return settled
        if not task.done() and challenge.status == "pending":
            audit = AuditEvent(
                "challenge.processing", f"account:{authorization.account_id}", {"challenge": challenge.id}
            )
            try:
                await self._store.mark_challenge_processing(challenge.id, audit)
            except ConflictError:  # the attempt, or another request, settled it in this moment
                self._log.debug("challenge settled meanwhile", challenge=challenge.id)
        found = await self._store.challenge(challenge.id, authorization.account_id)
        if found is None:
            raise not_found()
        return found[0]

    def _start(
        self, challenge: ChallengeRow, authorization: AuthorizationRow, thumbprint: str
    ) -> asyncio.Task[ChallengeRow | None]:
        return self._background.run(
            f"challenge {challenge.id}", lambda: self._attempt(challenge, authorization, thumbprint)
        )

    async def _attempt(
        self, challenge: ChallengeRow, authorization: AuthorizationRow, thumbprint: str
    ) -> ChallengeRow | None:
        """Validate once and store the outcome, however long the database takes; None where others settled it."""
        outcome = await self._outcome(challenge, self._told(challenge, authorization, thumbprint))
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._settle(challenge, authorization, outcome)
            except ConflictError:
                self._log.info("validation came too late", challenge=challenge.id)
                return None
            except DatabaseError as failure:
                self._log.warning("outcome not stored yet", challenge=challenge.id, error=str(failure))
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _told(self, challenge: ChallengeRow, authorization: AuthorizationRow, thumbprint: str) -> Attempt:
        """What the validator is told of a challenge."""
        account_url = self._urls.of(f"acct/{authorization.account_id}")
        return Attempt(
            challenge.type,
            authorization.identifier,
            authorization.wildcard,
            challenge.token,
            thumbprint,
            account_url,
        )

    async def _outcome(self, challenge: ChallengeRow, attempt: Attempt) -> _Outcome:
        """Unknown faults count as failed, so that no order waits for ever."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return _Outcome(None, await self._validator.validate(attempt))
            except ValidationError as error:
                return _Outcome(error, error.answers)
            except AcmeError:
                if challenge.status == "pending":
                    raise  # nothing was promised yet: the client learns of it and comes back
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            except Exception:  # noqa: BLE001 - whatever it is, the client must not wait for ever
                self._log.exception("validation failed unexpectedly", challenge=challenge.id)
                return _Outcome(AcmeError("serverInternal", "the validation could not be carried out"))

    async def _settle(
        self, challenge: ChallengeRow, authorization: AuthorizationRow, outcome: _Outcome
    ) -> ChallengeRow:
        """The challenge as it was stored."""
        error, answers = outcome.error, [asdict(answer) for answer in outcome.answers]
        actor = f"account:{authorization.account_id}"
        detail: dict[str, Any] = {
            "authorization": authorization.id,
            "identifier": authorization.name.value,
            "challenge": challenge.type,
        }
        if answers:
            detail["perspectives"] = {answer["perspective"]: answer["error"] or "ok" for answer in answers}
        if error is None:
            audit = AuditEvent("authorization.valid", actor, detail)
            now = unix(self._clock.now())
            await self._store.accept_challenge(challenge, answers, now, audit)
            return replace(challenge, status="valid", validated_at=now)
        self._log.info(
            "validation failed",
            name=authorization.name.value,
            method=challenge.type,
            error=error.acme_type,
            reason=str(error),
        )
        audit = AuditEvent("authorization.invalid", actor, detail | {"error": error.acme_type})
        order_error = _order_error(authorization, error).document()
        riding, problem = await self._counted(authorization, error), error.document()
        await self._store.reject_challenge(challenge, answers, problem, order_error, audit, riding)
        return replace(challenge, status="invalid", error=problem)

    async def _counted(self, authorization: AuthorizationRow, error: AcmeError) -> Sequence[Write]:
        """What counts a failure that is not the server's own."""
        account = await self._store.account(authorization.account_id)
        if account is None or error.acme_type == "serverInternal":
            return ()
        return self._limits.failure(account, authorization.identifier)

    async def _give_up(self, request: AccountRequest, authorization_id: str) -> None:
        authorization, _ = await self._own(authorization_id, request.account.id)
        if request.members().get("status") != "deactivated":
            raise AcmeError("malformed", "the status of an authorization can only become deactivated")
        detail = {"authorization": authorization.id, "identifier": authorization.name.value}
        audit = AuditEvent("authorization.deactivated", f"account:{authorization.account_id}", detail)
        error = AcmeError("unauthorized", "the client deactivated the authorization")
        try:
            await self._store.deactivate_authorization(
                authorization.id, _order_error(authorization, error).document(), audit
            )
        except ConflictError as conflict:
            raise AcmeError("malformed", "only a pending or valid authorization can be deactivated") from conflict

    # What clients see

    def _status(self, authorization: AuthorizationRow) -> str:
        """Expiry is judged at use: pending becomes invalid, valid becomes expired (RFC 8555 §7.1.6)."""
        if authorization.expires > unix(self._clock.now()):
            return authorization.status
        return {"pending": "invalid", "valid": "expired"}.get(authorization.status, authorization.status)

    async def _own(self, authorization_id: str, account_id: str) -> tuple[AuthorizationRow, Sequence[ChallengeRow]]:
        found = await self._store.authorization(authorization_id, account_id)
        if found is None:
            raise not_found()
        return found

    async def document(self, authorization_id: str, account_id: str) -> dict[str, Any]:
        """The authorization object (RFC 8555 §7.1.4) of an account's authorization.

        Raises:
            AcmeError: malformed (404 for others' and unknown ones).
        """
        authorization, offered = await self._own(authorization_id, account_id)
        document: dict[str, Any] = {
            "identifier": authorization.identifier.document(),
            "status": self._status(authorization),
            "expires": rfc3339(authorization.expires),
            "challenges": [self._challenge_document(challenge, authorization) for challenge in _telling(offered)],
        }
        if authorization.wildcard:
            document["wildcard"] = True
        return document

    def _challenge_document(self, challenge: ChallengeRow, authorization: AuthorizationRow) -> dict[str, Any]:
        account_url = self._urls.of(f"acct/{authorization.account_id}")
        document: dict[str, Any] = {
            "type": challenge.type,
            "url": self._urls.of(f"chall/{challenge.id}"),
            "status": challenge.status,
            **members(challenge.type, token=challenge.token, account_url=account_url, issuers=self._issuers),
        }
        if challenge.validated_at is not None:
            document["validated"] = rfc3339(challenge.validated_at)
        if challenge.error is not None:
            document["error"] = dict(challenge.error)
        return document


def _telling(challenges: Sequence[ChallengeRow]) -> Sequence[ChallengeRow]:
    """Once one challenge has decided, only that one is shown (RFC 8555 §7.1.4)."""
    decided = [challenge for challenge in challenges if challenge.status not in _UNSETTLED]
    return decided or sorted(challenges, key=lambda challenge: CHALLENGE_TYPES.index(challenge.type))


def _order_error(authorization: AuthorizationRow, error: AcmeError) -> AcmeError:
    """Why the order failed: the same type, with the name it is about."""
    return AcmeError(
        error.acme_type,
        f"the authorization of {authorization.name.value} failed",
        status=error.status,
        subproblems=[Subproblem(error.acme_type, error.detail, authorization.name)],
    )
