"""Revoking certificates: who may, for which reason, each exactly once; holding them, and releasing what is held.

The commit is the revocation. Everything that shows it (CRL, OCSP answers, staples, the feed) follows from the log of
revocations, in this process at once. A hold may become a revocation, from its own time on; only a hold is released.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from cryptography import x509

from pkicore.clock import Clock, from_unix, unix
from pkicore.crl import REASONS, Revocation, encode_entry
from pkicore.errors import MalformedError
from pkicore.identity import SpiffeId
from services.ca.authorization import is_operator
from services.ca.errors import (
    AlreadyRevokedError,
    NotAuthorisedError,
    NotHeldError,
    ReasonError,
    UnknownCertificateError,
)
from services.ca.feed import RevocationLog
from services.ca.revocation_store import HELD, RELEASED, Candidate, Revoked, blocked_with
from services.ca.selection import PIECE, Act, Position, SelectionAnswer, SelectionRequest, Selector
from services.ca.store import CaStore, Ledgered
from services.ca.wire import RevocationAnswer, RevocationRequest, format_serial, parse_serial
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError, DuplicateError

_ATTEMPTS: Final = 5  # at one certificate that other replicas change at the same time
_AT_ONCE: Final = 250  # certificates of a piece that are committed together
_COMPROMISED: Final = "keyCompromise"
_NEVER: Final = {
    "cACompromise": "cACompromise is for CA certificates; use keyCompromise for this one",
    "aACompromise": "aACompromise is for attribute authorities; use keyCompromise for this one",
}
_OPERATORS_ONLY: Final = {
    RELEASED: "removeFromCRL releases a hold, and only an operator does that",
    HELD: "certificateHold is for operators: a revocation that others ask for is final",
}
_EVENTS: Final[dict[Act, str]] = {
    "revoke": "certificate.revoked",
    "hold": "certificate.held",
    "release": "certificate.released",
}


def parse_reason(reason: str | int, *, by_operator: bool = False) -> str:
    """The RFC 5280 §5.3.1 name of a reason, given by name in any case, or by number.

    Raises:
        ReasonError: no such reason, or one that does not apply to the certificates of this CA, or to this caller.
    """
    refused = _NEVER if by_operator else _NEVER | _OPERATORS_ONLY
    by_name = {name.lower(): name for name in REASONS}
    by_number = {str(number): name for name, number in REASONS.items()}
    name = by_name.get(str(reason).lower()) or by_number.get(str(reason))
    if name is None:
        offered = ", ".join(f"{name} ({number})" for name, number in REASONS.items() if name not in refused)
        raise ReasonError(f"{str(reason)[:40]!r} is no revocation reason; there are {offered}")
    if name in refused:
        raise ReasonError(refused[name])
    return name


def act_of(reason: str) -> Act:
    """What a reason of the table does."""
    acts: dict[str, Act] = {HELD: "hold", RELEASED: "release"}
    return acts.get(reason, "revoke")


class OfKey(NamedTuple):
    """What a key that is blocked had: serials that were revoked now, and certificates that only a root revokes."""

    revoked: Sequence[int]
    by_roots: Sequence[Candidate]


class Revoker:
    """Revokes, holds and releases what the given issuers issued; `piece` bounds how many by one request."""

    def __init__(
        self, *, store: CaStore, log: RevocationLog, issuers: Collection[str], clock: Clock, piece: int = PIECE
    ) -> None:
        self._store = store
        self._log = log
        self._issuers = issuers
        self._clock = clock
        self._piece = piece

    async def revoke(self, caller: SpiffeId, request: RevocationRequest) -> RevocationAnswer:
        """Revoke one certificate, or one intent that may have been signed; an operator may also hold and release it.

        Raises:
            ReasonError: the reason does not apply.
            UnknownCertificateError: it was not issued here, or other bytes were issued under its serial.
            NotAuthorisedError: a service names a certificate that it did not ask for.
            AlreadyRevokedError: it was revoked, or held, before; told of a compromise, its key is blocked all the same.
            NotHeldError: it is to be released, and is not held.
        """
        reason = parse_reason(request.reason, by_operator=is_operator(caller))
        ledgered = await self._find(request)
        intent = ledgered.intent
        if intent.caller != str(caller) and not is_operator(caller):
            raise NotAuthorisedError(f"{caller} may only revoke certificates that it asked for")
        if intent.issuer not in self._issuers:
            raise NotAuthorisedError(f"{intent.issuer} is a root: revoke with `ztca ca root-crl --revoke`")
        try:
            happened = await self._record(caller, intent.serial, reason)
        except AlreadyRevokedError as error:
            if reason == _COMPROMISED and not ledgered.blocked and await self._block(caller, ledgered):
                raise AlreadyRevokedError(f"{error}, and stays so; its key is blocked now") from error
            raise
        await self._log.refresh()
        return RevocationAnswer(format_serial(intent.serial), happened.revoked_at, reason)

    async def revoke_selected(self, caller: SpiffeId, request: SelectionRequest) -> SelectionAnswer:
        """One piece of what an operator has selected; pieces may be repeated, and change nothing twice.

        Raises:
            NotAuthorisedError: the caller is no operator.
            ReasonError: the reason does not apply.
        """
        if not is_operator(caller):
            raise NotAuthorisedError("only operators revoke more than one certificate at once")
        return await self._revoke_piece(caller, request, await self._found(request))

    async def revoke_key(self, caller: SpiffeId, key_hash: bytes) -> OfKey:
        """Everything of a key that is on the block list, for keyCompromise; who may block it may do this.

        What a root has issued is left: its key is not here.

        Raises:
            DatabaseError: not everything was revoked; it may be repeated.
        """
        request: SelectionRequest | None = SelectionRequest(Selector(key_hash=key_hash), _COMPROMISED)
        serials, by_roots = list[int](), list[Candidate]()
        while request is not None:
            found = await self._found(request)
            by_roots += [item for item in found if item.issuer not in self._issuers]
            piece = await self._revoke_piece(caller, request, found)
            serials += piece.serials
            request = None if piece.after is None else replace(request, after=piece.after)
        return OfKey(serials, by_roots)

    async def _found(self, request: SelectionRequest) -> Sequence[Candidate]:
        act = act_of(parse_reason(request.reason, by_operator=True))
        now = unix(self._clock.now())
        return await self._store.selected(request.selector, act, after=request.after, most=self._piece, now=now)

    async def _revoke_piece(
        self, caller: SpiffeId, request: SelectionRequest, found: Sequence[Candidate]
    ) -> SelectionAnswer:
        reason = parse_reason(request.reason, by_operator=True)
        changed = [item.serial for item in found if item.issuer in self._issuers]
        if not request.dry_run:
            changed = await self._record_all(caller, changed, reason, str(request.selector))
            await self._log.refresh()
        last = found[-1] if len(found) == self._piece else None
        after = None if last is None else Position(last.recorded_at, format_serial(last.serial))
        return SelectionAnswer(tuple(changed), after)

    async def _record_all(self, caller: SpiffeId, serials: list[int], reason: str, selected_by: str) -> list[int]:
        """Those serials to which it happened; what another replica did first is left as it is."""
        changed = []
        for start in range(0, len(serials), _AT_ONCE):
            some = serials[start : start + _AT_ONCE]
            recording = (self._record(caller, serial, reason, selected_by) for serial in some)
            outcomes = await asyncio.gather(*recording, return_exceptions=True)
            for serial, outcome in zip(some, outcomes, strict=True):
                if isinstance(outcome, Revoked):
                    changed.append(serial)
                elif not isinstance(outcome, (AlreadyRevokedError, NotHeldError)):
                    raise outcome
        return changed

    async def _record(self, caller: SpiffeId, serial: int, reason: str, selected_by: str = "") -> Revoked:
        """Commit it; where another replica was quicker, decide anew on what it did."""
        for attempt in range(_ATTEMPTS):
            candidate = await self._store.candidate(serial)
            if candidate is None:
                raise UnknownCertificateError("this CA did not issue that certificate")
            happened = self._happening(candidate, reason)
            detail = {"serial": format_serial(serial), "issuer": candidate.issuer, "reason": reason}
            if selected_by:
                detail["selected_by"] = selected_by
            event = AuditEvent(_EVENTS[act_of(reason)], str(caller), detail, logged=not selected_by)
            try:
                await self._store.record(candidate, happened, event, block_key=reason == _COMPROMISED)
            except (ConflictError, DuplicateError):
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                return happened
        raise AssertionError("the last attempt returns or raises")

    def _happening(self, candidate: Candidate, reason: str) -> Revoked:
        """What follows from what last happened to a certificate.

        Raises:
            AlreadyRevokedError, NotHeldError: nothing does.
        """
        at, name = self._clock.now(), format_serial(candidate.serial)
        held = candidate.reason == HELD and candidate.revoked_at is not None
        if reason == RELEASED and not held:
            raise NotHeldError(f"certificate {name} is not held")
        if candidate.reason not in {None, RELEASED} and not (held and reason != HELD):
            since = f"{from_unix(candidate.revoked_at or 0):%Y-%m-%dT%H:%M:%SZ}"
            was = f"is held since {since}" if held else f"was revoked before ({candidate.reason}, {since})"
            raise AlreadyRevokedError(f"certificate {name} {was}")
        if held and reason != RELEASED:
            at = from_unix(candidate.revoked_at or 0)
        entry = encode_entry(Revocation(candidate.serial, at, reason))
        return Revoked(
            0,
            candidate.serial,
            candidate.issuer,
            unix(at),
            reason,
            candidate.not_after,
            entry,
            candidate.shard,
        )

    async def _block(self, caller: SpiffeId, ledgered: Ledgered) -> bool:
        """The revocation stays as it is; a compromise that is told of later still keeps the key from coming back.

        Whether it was this that blocked the key.
        """
        intent = ledgered.intent
        event = blocked_with(intent.key_hash, intent.serial, str(caller))
        try:
            await self._store.block_key(intent.key_hash, unix(self._clock.now()), event)
        except (ConflictError, DuplicateError):
            return False
        return True

    async def _find(self, request: RevocationRequest) -> Ledgered:
        serial = parse_serial(request.serial) if request.serial is not None else _serial_of(request.certificate or b"")
        ledgered = await self._store.by_serial(serial)
        if ledgered is None or (request.certificate is not None and request.certificate != ledgered.certificate):
            raise UnknownCertificateError("this CA did not issue that certificate")
        return ledgered


def _serial_of(der: bytes) -> int:
    try:
        return x509.load_der_x509_certificate(der).serial_number
    except ValueError as error:
        raise MalformedError("certificate is not a DER X.509 certificate") from error
