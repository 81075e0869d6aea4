"""The alert rules speak of metrics that the code has, and ring when they should."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.metrics import check_expression, promtool

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations"
SETS = ("acme", "ca", "services", "signer-hsm", "signing")
_EXPRESSION = re.compile(r"^ +expr: (.*(?:\n +(?!for:|labels:)[^\n]*)*)", re.MULTILINE)


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
def test_every_metric_and_label_of_the_rules_exists(name: str) -> None:
    """A rule over a metric that nobody counts would never ring; it selects and groups by labels that its metric has."""
    for text in expressions(name):
        check_expression(text)


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
def test_every_alert_stands_in_the_documentation(name: str) -> None:
    """Whoever is woken finds the alert's name, how urgent it is, and what to do."""
    page = (OPERATIONS / ("signer-hsm.md" if name == "signer-hsm" else "observability.md")).read_text()
    explained = dict(re.findall(r"^\| (\w+)(?: \((page|ticket|info)\))? \|", page, re.MULTILINE))
    alerts = re.findall(r"- alert: (\w+)\n(?:.*\n)*?          severity: (\w+)\n", rules(name))
    assert len(alerts) == len(expressions(name))
    for alert, severity in alerts:
        assert explained[alert] in {severity, ""}, alert
        assert explained[alert] or name == "signer-hsm", alert


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(("act", "kind"), [("check", "rules"), ("test", "test")])
def test_promtool_agrees(act: str, kind: str, name: str) -> None:
    """Prometheus' own tool takes the rules, and they ring for the series of their tests as written there."""
    done = subprocess.run(
        [promtool(), act, "rules", f"{name}.{kind}.yaml"],
        cwd=RULES,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
