"""Metrics of a service's audit log, for alerts: it is archived where it should be, and its end is signed."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge


class AuditMetrics:
    """What the checkpointer and the archiver tell.

    Attributes:
        records: in the database; not in an archive yet.
        failing: 1 where the last attempt to archive, or to remove old archives, failed.
        checkpointed: Unix time at which the chain's end was last known to be under a checkpoint.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.records = Gauge(
            "pqcpki_audit_records", "Audit records in the database, in no archive yet.", registry=registry
        )
        self.failing = Gauge(
            "pqcpki_audit_archiving_failing", "Whether the last attempt to archive failed.", registry=registry
        )
        self.checkpointed = Gauge(
            "pqcpki_audit_checkpointed_timestamp_seconds",
            "When the end of the audit log was last under a signed checkpoint.",
            registry=registry,
        )
