"""What is refused is on record: who asked for what, be it a certificate, a revocation or a call, and why not.

A caller has only so many records in a second, so that nobody fills the disk by asking for what it may not have; those
beyond are answered and counted, not recorded. Old records are deleted, and so are those beyond a number.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

import structlog
from prometheus_client import CollectorRegistry, Counter

from pkicore.clock import Clock, unix
from pkicore.identity import SpiffeId
from services.ca.authorization import rule_of
from services.ca.ledger.store.refusals import RefusalStore
from services.ca.ledger.wire import RefusalEntry
from services.ca.wire import CertificateRequest
from services.chassis.asgi import Request
from services.chassis.errors import DatabaseError, ForbiddenError
from services.chassis.problems import INTERNAL_PREFIX, ProblemTable
from services.chassis.refusal_budget import RefusalBudget

REFUSALS_PER_SECOND: Final = 10  # of one caller; each is a durable record
KEPT: Final = 1_000_000  # records; at most about 2 KiB each
_NAMES, _NAME, _DETAIL, _TEXT = 10, 253, 500, 200  # names of a record; characters of each, of its sentence, of the rest
_CLEAN_UP: Final = 600.0  # seconds
_CLIENT_ERRORS: Final = range(400, 500)

_log = structlog.get_logger(__name__)


class RefusalMetrics:
    """Counts refusals by problem, and those that were not recorded."""

    def __init__(self) -> None:
        self.refused = Counter("pqcpki_ca_refusals_total", "Requests refused.", ("problem",), registry=None)
        self.unrecorded = Counter(
            "pqcpki_ca_refusals_unrecorded_total", "Refusals that are not in the ledger.", registry=None
        )

    def register(self, registry: CollectorRegistry) -> None:
        """Show the counters in a registry."""
        registry.register(self.refused)
        registry.register(self.unrecorded)


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wanted, as a record of its refusal has it."""

    act: Literal["issue", "revoke", "block", "unblock", "call"]
    names: tuple[str, ...] = ()
    profile: str = ""
    account: str = ""

    @classmethod
    def certificate(cls, request: CertificateRequest) -> "Asked":
        """A certificate."""
        names = tuple(name.value for name in request.identifiers[:_NAMES])
        return cls("issue", names, request.profile, request.requester.get("account", ""))


class Refusals:
    """Records what the CA refuses.

    Args:
        store: where to.
        problems: how a refusal is answered, and so what it is called.
        clock: the time of a record.
        kept_for: how long a record is kept.
        monotonic: seconds that never go back.
    """

    def __init__(
        self,
        store: RefusalStore,
        *,
        problems: ProblemTable,
        clock: Clock,
        kept_for: timedelta,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.metrics = RefusalMetrics()
        self._store = store
        self._problems = problems
        self._clock = clock
        self._budget = RefusalBudget(monotonic, REFUSALS_PER_SECOND)
        self._kept_for = kept_for

    @asynccontextmanager
    async def recorded(self, caller: SpiffeId, asked: Callable[[], Asked]) -> AsyncIterator[None]:
        """Whatever refuses what is asked inside is on record when it comes out; costs nothing where nothing does."""
        try:
            yield
        except Exception as error:
            await self._record(str(caller), asked(), error)
            raise

    async def record_call(self, request: Request, error: Exception) -> None:
        """Have it on record where the caller may not use the endpoint; other errors are none of this function's."""
        if isinstance(error, ForbiddenError):
            identity = None if request.peer is None else request.peer.spiffe_id
            asked = Asked("call", (f"{request.method} {request.route}",))
            await self._record("" if identity is None else str(identity), asked, error)

    async def _record(self, caller: str, asked: Asked, error: Exception) -> None:
        problem = self._problems.problem_of(error)
        if problem.status not in _CLIENT_ERRORS:
            return  # a failure of ours is no decision about the request
        kind = problem.type.removeprefix(INTERNAL_PREFIX)
        self.metrics.refused.labels(kind).inc()
        if self._budget.spend(caller) > REFUSALS_PER_SECOND:
            self.metrics.unrecorded.inc()
            return
        now = unix(self._clock.now())
        refusal = RefusalEntry(
            id=first_id(now) + secrets.token_hex(8),
            at=now,
            caller=caller,
            account=_shown(asked.account),
            profile=_shown(asked.profile),
            names=[name[:_NAME] for name in asked.names],
            problem=kind,
            rule=rule_of(error),
            detail=_shown(problem.detail, _DETAIL),
            act=asked.act,
        )
        try:
            await self._store.add(refusal)
        except DatabaseError as failure:  # the refusal stands, recorded or not
            self.metrics.unrecorded.inc()
            _log.error("refusal not recorded", problem=kind, error=str(failure))

    async def run(self) -> None:
        """Delete for ever what need not be kept."""
        while True:
            await self.clean_up()
            await asyncio.sleep(_CLEAN_UP)

    async def clean_up(self) -> None:
        """Delete what is too old, and what is too much."""
        oldest = unix(self._clock.now()) - int(self._kept_for.total_seconds())
        try:
            await self._store.forget(first_id(max(oldest, 0)), KEPT)
        except DatabaseError as error:
            _log.warning("refusals are not cleaned up", error=str(error))


def first_id(at: int) -> str:
    """The least id of a second: ids sort by time."""
    return f"{at:010x}"


def _shown(text: str, most: int = _TEXT) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
