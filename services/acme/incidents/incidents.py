"""Incidents: certificates that are to be renewed at once, and how far that is.

What an incident concerns is fixed while it is prepared: what is issued later by the same issuer is not concerned. From
its opening to its close the suggested window of all of it is past, and renewalInfo names the explanation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

from pkicore.clock import Clock, unix
from services.acme.errors import NotKnownError, NotPossibleError
from services.acme.ids import is_id, new_id
from services.acme.incidents.wire import (
    AtRisk,
    AtRiskPage,
    IncidentEntry,
    IncidentList,
    IncidentRequest,
    Progress,
    Selected,
    Selection,
)
from services.acme.renewals.renewal_info import past_window
from services.acme.store.incidents import PREPARED, ConcernedRow, IncidentRow, IncidentStore, Later, ShownRow
from services.acme.urls import Urls
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError

LISTED: Final = 500  # incidents at most
_PIECE: Final = 5000  # certificates that are judged at a time
_ABANDONED_SECONDS: Final = 86_400  # after which what was prepared is forgotten

_STATES: Final = ("replaced", "revoked", "expired", "at_risk")


class Incidents:
    """What operators do with incidents."""

    def __init__(self, store: IncidentStore, urls: Urls, clock: Clock) -> None:
        self._store = store
        self._urls = urls
        self._clock = clock

    async def prepare(self, wanted: IncidentRequest, operator: str) -> IncidentEntry:
        """Make an incident that nobody is told of yet; those that were prepared a day ago and left are forgotten."""
        now = self._now()
        for abandoned in await self._store.abandoned(now - _ABANDONED_SECONDS):
            await self._store.discard(abandoned)
        row = IncidentRow(new_id(), now, operator, wanted.reason, wanted.explanation_url, PREPARED)
        await self._store.prepare(row)
        return _entry(row)

    async def add(self, incident_id: str, selection: Selection) -> Selected:
        """Have a prepared incident concern what is selected and has not expired.

        Raises:
            NotKnownError: there is no such incident.
            NotPossibleError: it is not prepared any more: what it concerns is fixed.
        """
        row = await self._row(incident_id)
        if row.state != "prepared":
            raise NotPossibleError(f"this incident is {row.state}: what it concerns is fixed; open another")
        known = await self._store.known(selection.serials) if selection.serials else 0
        added = await self._store.add(row.id, selection, self._now())
        return Selected(added, len(selection.serials) - known)

    async def open(self, incident_id: str, operator: str) -> IncidentEntry:
        """Have everybody told, at once.

        Raises:
            NotKnownError: there is no such incident.
            NotPossibleError: it is not prepared any more, or concerns nothing.
        """
        row, now = await self._row(incident_id), self._now()
        concerned = await self._store.count(row.id)
        if not concerned:
            raise NotPossibleError("this incident concerns no certificate")
        detail = {
            "incident": row.id,
            "reason": row.reason,
            "explanation_url": row.explanation_url,
            "certificates": concerned,
        }
        window = past_window(now)
        try:
            audit = AuditEvent("incident.opened", operator, detail)
            await self._store.open(row.id, operator, now, (window.start, window.end), audit)
        except ConflictError as error:
            raise NotPossibleError(f"this incident is {row.state} already") from error
        return await self.one(row.id)

    async def close(self, incident_id: str, operator: str) -> IncidentEntry:
        """Have nobody told any more: windows are as they would be without it.

        Raises:
            NotKnownError: there is no such incident.
            NotPossibleError: it is not open.
        """
        row = await self._row(incident_id)
        shown = await self.one(row.id)
        progress = {} if shown.progress is None else {name: getattr(shown.progress, name) for name in _STATES}
        try:
            audit = AuditEvent("incident.closed", operator, {"incident": row.id, **progress})
            await self._store.close(row.id, self._now(), audit)
        except ConflictError as error:
            raise NotPossibleError(f"this incident is {row.state}, not open") from error
        return await self.one(row.id)

    async def discard(self, incident_id: str) -> None:
        """Forget a prepared incident.

        Raises:
            NotKnownError: there is no such incident.
            NotPossibleError: it is not prepared any more.
        """
        row = await self._row(incident_id)
        try:
            await self._store.discard(row.id)
        except ConflictError as error:
            raise NotPossibleError(f"this incident is {row.state}: close it") from error

    async def listed(self) -> IncidentList:
        """Open and closed ones, the newest first."""
        return IncidentList([_entry(row) for row in await self._store.listed(LISTED)])

    async def one(self, incident_id: str) -> IncidentEntry:
        """An incident and how far it is; looks at every certificate that it concerns.

        Raises:
            NotKnownError: there is no such incident.
        """
        row = await self._row(incident_id)
        return _entry(row, await self.progress(row))

    async def at_risk(self, incident_id: str, after: str, limit: int) -> AtRiskPage:
        """Some of the certificates that nobody has replaced.

        Raises:
            NotKnownError: there is no such incident.
        """
        row = await self._row(incident_id)
        found: list[str] = []
        now = self._now()
        later = await self._store.later(row, now)
        async for certificate in self._judged(row, now, later, after):
            if certificate.state != "at_risk":
                continue
            if len(found) == limit:
                return await self._page(found, found[-1])
            found.append(certificate.id)
        return await self._page(found, None)

    async def progress(self, row: IncidentRow) -> Progress:
        """What has become of the certificates that an incident concerns.

        Raises:
            DatabaseError: the database cannot be read.
        """
        now = self._now()
        if later := await self._store.later(row, now):
            counts = Counter([concerned.state async for concerned in self._judged(row, now, later)])
        else:
            counts = await self._store.counts(row.id, now, _PIECE)
        return Progress(counts.total(), *(counts[state] for state in _STATES))

    async def all_open(self) -> list[IncidentRow]:
        """Those that clients are told of.

        Raises:
            DatabaseError: the database cannot be read.
        """
        return await self._store.all_open()

    async def _judged(self, row: IncidentRow, now: int, later: Later, after: str = "") -> AsyncIterator[ConcernedRow]:
        """What it concerns; thousands at a time."""
        while piece := await self._store.piece(row.id, now, after, _PIECE, later):
            for certificate in piece:
                yield certificate
            after = piece[-1].id

    async def _row(self, incident_id: str) -> IncidentRow:
        row = await self._store.one(incident_id) if is_id(incident_id) else None
        if row is None:
            raise NotKnownError("no incident has this id")
        return row

    async def _page(self, ids: list[str], following: str | None) -> AtRiskPage:
        return AtRiskPage([self._at_risk(row) for row in await self._store.shown(ids)], following)

    def _at_risk(self, row: ShownRow) -> AtRisk:
        return AtRisk(
            serial=row.serial,
            names=[identifier.value for identifier in row.identifiers],
            account=self._urls.of(f"acct/{row.account_id}"),
            contacts=row.contacts,
            profile=row.profile,
            not_after=row.not_after,
        )

    def _now(self) -> int:
        return unix(self._clock.now())


def _entry(row: IncidentRow, progress: Progress | None = None) -> IncidentEntry:
    return IncidentEntry(
        id=row.id,
        state=row.state,
        reason=row.reason,
        explanation_url=row.explanation_url,
        opened_at=row.opened_at,
        opened_by=row.opened_by,
        closed_at=row.closed_at or None,
        progress=progress,
    )
