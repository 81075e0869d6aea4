"""renewalInfo (RFC 9773 §4): when a certificate should be renewed, for anybody who knows its certID.

The window lies two thirds into the life of a certificate, half-way where that is shorter than ten days, and is 2 % of
it wide. It is past for what is revoked and for what an open incident concerns, whose explanation is named.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import orjson
from prometheus_client import CollectorRegistry, Counter

from pkicore.errors import MalformedError
from pkicore.x509.cert_id import parse_cert_id
from services.acme.answers import retry_after, rfc3339
from services.acme.errors import AcmeError
from services.acme.store.renewals import RenewalRow, RenewalStore
from services.chassis.asgi import Request, Response

SHORT_LIVED: Final = 10 * 86400  # seconds of life below which half of it passes before a renewal
PAST_SECONDS: Final = (3600, 1800)  # before an event: begin and end of the window that is to be past
_POLL_SECONDS: Final = 6 * 3600
_INCIDENT_POLL_SECONDS: Final = 1800  # until the replacement is there, or the incident is closed
_POLLS_IN_LIFE: Final = 12  # at least, of a certificate that lives for hours
_JITTER: Final = 0.2
_FRESH: Final = (b"cache-control", b"public, max-age=60")  # for so long may an incident be unseen behind a cache
_JSON: Final = (b"content-type", b"application/json")


@dataclass(frozen=True, slots=True)
class Window:
    """The first and last moment to renew, Unix time."""

    start: int
    end: int


def usual_window(not_before: int, not_after: int) -> Window:
    """The window of a certificate that nothing has happened to; both ends of its life belong to it."""
    life = not_after - not_before + 1
    centre = not_before + (life // 2 if life < SHORT_LIVED else life * 2 // 3)
    margin = max(life // 100, 1)
    return Window(centre - margin, centre + margin)


def past_window(event: int) -> Window:
    """A window that was over when something happened: renew now."""
    begin, end = PAST_SECONDS
    return Window(event - begin, event - end)


def window_of(row: RenewalRow) -> Window:
    """The window of a certificate as things stand; what is past for two reasons is past."""
    if row.incident is not None:
        return Window(*row.incident[:2])
    if row.revoked_at is not None:
        return past_window(row.revoked_at)
    return usual_window(row.not_before, row.not_after)


def poll_seconds(cert_id: str, row: RenewalRow) -> int:
    """When to ask again: every six hours, give or take a fifth, which is each certificate's own."""
    life = row.not_after - row.not_before + 1
    usual = _POLL_SECONDS if row.incident is None else _INCIDENT_POLL_SECONDS
    share = int.from_bytes(hashlib.sha256(cert_id.encode()).digest()[:4], "big") / 0xFFFF_FFFF  # 0 to 1
    return max(1, round(min(usual, life / _POLLS_IN_LIFE) * (1 - _JITTER + 2 * _JITTER * share)))


class RenewalInfo:
    """The resource renewalInfo; one query, for whatever certID."""

    def __init__(self, store: RenewalStore) -> None:
        self._store = store
        self._answers = Counter(
            "pqcpki_acme_renewal_info", "Answers of renewalInfo, by what they say.", ("answer",), registry=None
        )

    def register(self, registry: CollectorRegistry) -> None:
        """Show the metric in a registry."""
        registry.register(self._answers)

    async def get(self, request: Request) -> Response:
        """The suggested window of a certificate, and where an incident is explained.

        Raises:
            AcmeError: malformed: no certID; or, with 404, one of no certificate that this server has delivered.
        """
        cert_id = request.params["cert_id"]
        try:
            parse_cert_id(cert_id)
        except MalformedError as error:
            self._answers.labels("malformed").inc()
            raise AcmeError("malformed", str(error)) from error
        row = await self._store.info(cert_id)
        if row is None:
            self._answers.labels("unknown").inc()
            raise AcmeError("malformed", "no certificate that this server has delivered has this certID", status=404)
        self._answers.labels(_kind(row)).inc()
        return Response(200, _body(row), [_JSON, _FRESH, retry_after(poll_seconds(cert_id, row))])


def _kind(row: RenewalRow) -> str:
    if row.incident is not None:
        return "incident"
    return "usual" if row.revoked_at is None else "revoked"


def _body(row: RenewalRow) -> bytes:
    window = window_of(row)
    document: dict[str, object] = {"suggestedWindow": {"start": rfc3339(window.start), "end": rfc3339(window.end)}}
    if row.incident is not None and row.incident[2]:
        document["explanationURL"] = row.incident[2]
    return orjson.dumps(document)
