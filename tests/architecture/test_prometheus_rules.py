"""The alert rules speak of metrics that the code has, and ring when they should."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from services.signer_hsm.metrics import SignerMetrics

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
SIGNER = RULES / "signer-hsm.rules.yaml"
_EXPRESSION = re.compile(r"^ +expr: (.*(?:\n +(?!for:|labels:)[^\n]*)*)", re.MULTILINE)
_METRIC = re.compile(r"\b((?:signer|vault)_[a-z_]+)(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\b(?:by|on) \(([^)]*)\)")
_LABEL = re.compile(r"([a-z_]+)\s*=")
_PROMETHEUS_OWN = {"instance", "job", "le"}


@pytest.fixture(scope="module")
def metrics() -> dict[str, MetricWrapperBase]:
    """By the name of each of its series: the metric."""
    registry = CollectorRegistry()
    SignerMetrics(registry)
    found = registry._names_to_collectors
    return {name: metric for name, metric in found.items() if isinstance(metric, MetricWrapperBase)}


def expressions() -> list[str]:
    """Of each rule."""
    found = _EXPRESSION.findall(SIGNER.read_text())
    assert len(found) == SIGNER.read_text().count("- alert: ")
    return found


def test_every_metric_of_the_rules_exists(metrics: dict[str, MetricWrapperBase]) -> None:
    """A rule over a metric that nobody counts would never ring."""
    named = {match[1] for text in expressions() for match in _METRIC.finditer(text)}
    assert len(named) >= 9
    assert named <= set(metrics)


def test_every_label_of_the_rules_exists(metrics: dict[str, MetricWrapperBase]) -> None:
    """A rule selects and groups by labels that its metric has."""
    for text in expressions():
        known = set(_PROMETHEUS_OWN)
        for match in _METRIC.finditer(text):
            own = set(metrics[match[1]]._labelnames)
            assert set(_LABEL.findall(match[2] or "")) <= own | _PROMETHEUS_OWN, text
            known |= own
        for group in _GROUPING.findall(text):
            assert set(re.split(r",\s*", group)) <= known, text


def test_every_alert_says_what_to_do() -> None:
    """Each alert has a severity that we know, a summary and a description."""
    for alert in SIGNER.read_text().split("- alert: ")[1:]:
        assert re.search(r"severity: (page|ticket|info)\n", alert), alert
        assert "summary: " in alert, alert
        assert "description: " in alert, alert


def test_every_alert_has_a_test() -> None:
    """For each alert there are series under which it must ring."""
    alerts = set(re.findall(r"- alert: (\w+)", SIGNER.read_text()))
    tests = (RULES / "signer-hsm.test.yaml").read_text()
    assert set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n", tests)) == alerts


@pytest.mark.parametrize(("act", "name"), [("check", "signer-hsm.rules.yaml"), ("test", "signer-hsm.test.yaml")])
def test_promtool_agrees(act: str, name: str) -> None:
    """Prometheus' own tool takes the rules, and they ring for the series of their tests as written there."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("not run: promtool missing (apt-get install prometheus)")
    done = subprocess.run(
        [promtool, act, "rules", name], cwd=RULES, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
