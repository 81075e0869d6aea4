"""What the signing service counts and times. Labels come from settings and fixed words, never from requests."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
Step = Literal["sbom", "decide", "sign", "witness", "store"]


class SigningMetrics:
    """All of them, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._decisions = Counter(
            "signing_decisions", "Answers of the policy.", ("action", "result"), registry=registry
        )
        self._signatures = Counter(
            "signing_signatures", "Signatures that were kept.", ("algorithm",), registry=registry
        )
        self._steps = Histogram(
            "signing_step_seconds",
            "Time of a step of a request to sign.",
            ("step",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._policies = Gauge(
            "signing_policies_in_force", "1: what the policy directory says is in force.", registry=registry
        )
        self._certificates = Gauge(
            "signing_certificate_not_after_seconds",
            "When the last certificate at hand of a key that stays ends, Unix time.",
            ("key",),
            registry=registry,
        )
        self._renewals = Counter(
            "signing_certificate_renewals",
            "Attempts to renew a key's certificate.",
            ("result",),
            registry=registry,
        )
        self._unrecorded = Gauge(
            "signing_unrecorded_log_entries",
            "Entries of the log that belong to no record: of requests that failed or were cut off, or are under way.",
            registry=registry,
        )
        self._swept = Counter("signing_swept_files", "Files without a record that were removed.", registry=registry)
        self._observe = {step: self._steps.labels(step).observe for step in get_args(Step)}
        self._kept_of: dict[str, Counter] = {}
        self._decided: dict[tuple[str, str], Counter] = {}

    def decision(self, action: str, result: Literal["allowed", "refused"]) -> None:
        """The policy has answered."""
        place = (action, result)
        count = self._decided.get(place)
        if count is None:
            count = self._decided[place] = self._decisions.labels(*place)
        count.inc()

    def kept(self, algorithm: str, count: int = 1) -> None:
        """Signatures are on record."""
        counter = self._kept_of.get(algorithm)
        if counter is None:
            counter = self._kept_of[algorithm] = self._signatures.labels(algorithm)
        counter.inc(count)

    def step(self, step: Step, seconds: float) -> None:
        """A step has taken so long."""
        self._observe[step](seconds)

    def policies_in_force(self, in_force: bool) -> None:  # noqa: FBT001 - as `PolicyDirectory` tells it
        """Whether what the directory says is in force."""
        self._policies.set(float(in_force))

    def certificate(self, key_id: str, not_after: datetime) -> None:
        """The last certificate at hand of a key ends then."""
        self._certificates.labels(key_id).set(not_after.timestamp())

    def renewal(self, result: Literal["success", "failure"]) -> None:
        """An attempt to renew the certificate of a key has ended."""
        self._renewals.labels(result).inc()

    def unrecorded(self, count: int) -> None:
        """So many entries of the log belong to no record."""
        self._unrecorded.set(count)

    def swept(self, count: int) -> None:
        """Files were removed."""
        self._swept.inc(count)
