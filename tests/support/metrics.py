"""Every metric of the services, and whether a PromQL expression speaks of these and of labels that they have."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path
from typing import Final, cast

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from services.acme.accounts.inventory import AccountInventory
from services.acme.incidents.incidents import Incidents
from services.acme.incidents.watch import IncidentWatch
from services.acme.perspectives.corroboration import Answers
from services.acme.renewals.renewal_info import RenewalInfo
from services.acme.store import Store
from services.acme.store.renewals import RenewalStore
from services.ca.block_list.blocking import BlockMetrics
from services.ca.crl_pace import Overdue
from services.ca.hierarchy import Hierarchy
from services.ca.ledger.expiry import ExpiryWatch
from services.ca.ledger.refusals import RefusalMetrics
from services.ca.ledger.store.counts import CountStore
from services.ca.publication import CrlPublisher
from services.ca.signer import traffic
from services.ca.watch import IssuerWatch
from services.chassis.audit.metrics import AuditMetrics
from services.chassis.observability import HttpMetrics, TlsMetrics
from services.chassis.tracing.export import TraceMetrics
from services.signer_hsm.metrics import SignerMetrics
from services.signing.aftercare import attempts
from services.signing.metrics import SigningMetrics
from tests.support.clock import ManualClock

SCRAPED: Final = frozenset({"instance", "job"})
"""Labels that Prometheus gives to every series."""
_PREFIXES: Final = "pqcpki|signer|signing|vault|mtls|ca_signer|cert_age"
_METRIC: Final = re.compile(rf'\b((?:{_PREFIXES})_[a-z_]+|up\b)(?:\{{((?:[^}}"]|"[^"]*")*)\}})?')
_LABEL: Final = re.compile(r'([a-z_]+)\s*(?:=~|!~|!=|=)\s*"')
_GROUPING: Final = re.compile(r"\b(?:by|on|ignoring|without)\s*\(([^)]*)\)")
_FETCHED: Final = Path(__file__).parents[2] / ".cache" / "prometheus" / "promtool"


@functools.cache
def labels_of_series() -> dict[str, frozenset[str]]:
    """By the name of each series that the services can show, and of Prometheus' own `up`: its labels."""
    registry, clock = CollectorRegistry(), ManualClock()
    SignerMetrics(registry)
    SigningMetrics(registry)
    HttpMetrics(registry)
    TlsMetrics(registry, clock)
    AuditMetrics(registry)
    TraceMetrics(registry)
    Answers(registry)
    attempts(registry)
    traffic(registry)
    AccountInventory(cast("Store", None), registry)
    IncidentWatch(cast("Incidents", None), registry)
    RenewalInfo(cast("RenewalStore", None)).register(registry)
    RefusalMetrics().register(registry)
    BlockMetrics().register(registry)
    Overdue(clock).register(registry)
    ExpiryWatch(cast("CountStore", None), clock).register(registry)
    IssuerWatch(cast("Hierarchy", None), cast("CrlPublisher", None)).register(registry)
    found = {
        name: SCRAPED.union(metric._labelnames, {"le"} if name.endswith("_bucket") else ())
        for name, metric in registry._names_to_collectors.items()
        if isinstance(metric, MetricWrapperBase)
    }
    return {**found, "up": SCRAPED}


def check_expression(text: str) -> frozenset[str]:
    """The series that an expression reads.

    Raises:
        AssertionError: it reads none, or one that no service has, or asks for a label that its series have not.
    """
    known = labels_of_series()
    read = {match[1]: set(_LABEL.findall(match[2] or "")) for match in _METRIC.finditer(text)}
    assert read, f"no metric: {text}"
    assert read.keys() <= known.keys(), f"no such metric: {sorted(read.keys() - known.keys())} in {text}"
    for name, labels in read.items():
        assert labels <= known[name], f"{name} has no label {sorted(labels - known[name])}: {text}"
    everything = frozenset[str]().union(*(known[name] for name in read))
    for group in _GROUPING.findall(text):
        labels = {label.strip() for label in group.split(",")}
        assert labels <= everything, f"no label {sorted(labels - everything)} to group by: {text}"
    return frozenset(read)


def promtool() -> str:
    """Where it is, from .ci/fetch_promtool.sh or the system; the test is skipped where it is not."""
    found = str(_FETCHED) if _FETCHED.exists() else shutil.which("promtool")
    if found is None:
        pytest.skip("not run: promtool missing (.ci/fetch_promtool.sh)")
    return found
