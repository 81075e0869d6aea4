"""A remote perspective as the ACME server asks it: over mutual TLS, and believed only if it is the one meant."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from prometheus_client import CollectorRegistry

from pkicore.clock import Clock
from pkicore.identity import SpiffeId
from pkicore.mtls import INTERNAL, Http1Client, TlsClient
from services.acme.challenges.attempt import Attempt, PerspectiveAnswer
from services.acme.perspectives.corroboration import UNANSWERED, Answers, Corroborated
from services.acme.perspectives.endpoint import Validates
from services.acme.perspectives.settings import CorroborationSettings
from services.acme.perspectives.wire import MAX_ANSWER, PATH, Verdict, question_of
from services.ca.client.way import WayToCa
from services.chassis.http_client import Failure, Http, ServiceCalls

_OK: Final = 200
_log: Final = structlog.get_logger("acme.perspectives")


class PerspectiveError(Exception):
    """A perspective gave no usable answer."""


@dataclass(frozen=True)
class RemotePerspective:
    """One of them.

    Attributes:
        name: as the settings call it.
        http: a pooled mTLS client that expects its SPIFFE ID.
        seconds: for one answer.
    """

    name: str
    http: Http
    seconds: float

    async def look(self, attempt: Attempt) -> PerspectiveAnswer:
        """What it sees; whoever cannot be asked has seen nothing."""
        question = question_of(attempt)
        calls = ServiceCalls(self.http, f"perspective {self.name}", _error_of, success=(_OK,))
        try:
            read = partial(Verdict.from_json, question=question)
            verdict = await calls.ask(read, "POST", PATH, question, self.seconds)
        except PerspectiveError as error:
            _log.warning("perspective not asked", perspective=self.name, error=str(error))
            return PerspectiveAnswer(self.name, UNANSWERED, "it could not be asked")
        return PerspectiveAnswer(self.name, verdict.error, verdict.detail)


async def corroborated(
    primary: Validates,
    settings: CorroborationSettings,
    ca: WayToCa,
    clock: Clock,
    registry: CollectorRegistry,
    stack: AsyncExitStack,
) -> Validates:
    """The primary as it is where there are no remote perspectives, else with these behind it.

    Args:
        primary: this server's own validation.
        settings: where the perspectives are.
        ca: our credentials, and the status that theirs are checked with.
        clock: the time.
        registry: of the metrics.
        stack: closes the connections.
    """
    if not settings.perspectives:
        return primary
    tls = TlsClient(
        credentials=ca.credentials,
        rules=INTERNAL,
        trust=ca.trust.roots,
        crls=ca.crls,
        clock=clock,
        require_staple=True,
        handshake_timeout=settings.perspective_timeout_seconds,
    )
    ca.followed.subscribe(tls.believe)
    remote = [
        RemotePerspective(
            name,
            await stack.enter_async_context(
                perspective_http(tls, each.url, each.identity(name, settings.trust_domain))
            ),
            settings.perspective_timeout_seconds,
        )
        for name, each in settings.perspectives.items()
    ]
    return Corroborated(primary, remote, settings.quorum, Answers(registry))


def perspective_http(tls: TlsClient, url: str, identity: SpiffeId) -> Http1Client:
    """Connections to one perspective; what has another identity is not spoken to, and long answers are cut off."""
    return Http1Client(url, partial(tls.connect, expected=identity), max_answer=MAX_ANSWER)


def _error_of(failure: Failure) -> Exception:
    return PerspectiveError(failure.sentence)
