"""The alert rules speak of metrics that the code has, and ring when they should."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from services.acme.incidents.incidents import Incidents
from services.acme.incidents.watch import IncidentWatch
from services.ca.block_list.blocking import BlockMetrics
from services.ca.hierarchy import Hierarchy
from services.ca.ledger.expiry import ExpiryWatch
from services.ca.ledger.refusals import RefusalMetrics
from services.ca.ledger.store.counts import CountStore
from services.ca.publication import CrlPublisher
from services.ca.watch import IssuerWatch
from services.chassis.audit.metrics import AuditMetrics
from services.chassis.observability import HttpMetrics, TlsMetrics
from services.signer_hsm.metrics import SignerMetrics
from tests.support.clock import ManualClock

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
SETS = ("acme", "ca", "services", "signer-hsm")
_EXPRESSION = re.compile(r"^ +expr: (.*(?:\n +(?!for:|labels:)[^\n]*)*)", re.MULTILINE)
_METRIC = re.compile(r"\b((?:signer|vault|mtls|pqcpki)_[a-z_]+)(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\b(?:by|on) \(([^)]*)\)")
_LABEL = re.compile(r"([a-z_]+)\s*=")
_PROMETHEUS_OWN = {"instance", "job", "le"}


@pytest.fixture(scope="module")
def metrics() -> dict[str, MetricWrapperBase]:
    """By the name of each of its series: the metric."""
    registry = CollectorRegistry()
    SignerMetrics(registry)
    HttpMetrics(registry)
    TlsMetrics(registry, ManualClock())
    AuditMetrics(registry)
    RefusalMetrics().register(registry)
    BlockMetrics().register(registry)
    ExpiryWatch(cast("CountStore", None), ManualClock()).register(registry)
    IncidentWatch(cast("Incidents", None), registry)
    IssuerWatch(cast("Hierarchy", None), cast("CrlPublisher", None)).register(registry)
    found = registry._names_to_collectors
    return {name: metric for name, metric in found.items() if isinstance(metric, MetricWrapperBase)}


def rules(name: str) -> str:
    """The text of a set of rules."""
    return (RULES / f"{name}.rules.yaml").read_text()


def expressions(name: str) -> list[str]:
    """Of each rule of a set."""
    found = _EXPRESSION.findall(rules(name))
    assert len(found) == rules(name).count("- alert: ")
    return found


def test_every_set_is_tested() -> None:
    """A file of rules that is not here would not be looked at."""
    assert {path.name.removesuffix(".rules.yaml") for path in RULES.glob("*.rules.yaml")} == set(SETS)


@pytest.mark.parametrize("name", SETS)
def test_every_metric_of_the_rules_exists(metrics: dict[str, MetricWrapperBase], name: str) -> None:
    """A rule over a metric that nobody counts would never ring."""
    for text in expressions(name):
        named = {match[1] for match in _METRIC.finditer(text)}
        assert named, text
        assert named <= set(metrics)


@pytest.mark.parametrize("name", SETS)
def test_every_label_of_the_rules_exists(metrics: dict[str, MetricWrapperBase], name: str) -> None:
    """A rule selects and groups by labels that its metric has."""
    for text in expressions(name):
        known = set(_PROMETHEUS_OWN)
        for match in _METRIC.finditer(text):
            own = set(metrics[match[1]]._labelnames)
            assert set(_LABEL.findall(match[2] or "")) <= own | _PROMETHEUS_OWN, text
            known |= own
        for group in _GROUPING.findall(text):
            assert set(re.split(r",\s*", group)) <= known, text


@pytest.mark.parametrize("name", SETS)
def test_every_alert_says_what_to_do(name: str) -> None:
    """Each alert has a severity that we know, a summary and a description."""
    for alert in rules(name).split("- alert: ")[1:]:
        assert re.search(r"severity: (page|ticket|info)\n", alert), alert
        assert "summary: " in alert, alert
        assert "description: " in alert, alert


@pytest.mark.parametrize("name", SETS)
def test_every_alert_has_a_test(name: str) -> None:
    """For each alert there are series under which it must ring."""
    alerts = set(re.findall(r"- alert: (\w+)", rules(name)))
    tests = (RULES / f"{name}.test.yaml").read_text()
    assert set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n", tests)) == alerts


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(("act", "kind"), [("check", "rules"), ("test", "test")])
def test_promtool_agrees(act: str, kind: str, name: str) -> None:
    """Prometheus' own tool takes the rules, and they ring for the series of their tests as written there."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("not run: promtool missing (apt-get install prometheus)")
    done = subprocess.run(
        [promtool, act, "rules", f"{name}.{kind}.yaml"],
        cwd=RULES,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
