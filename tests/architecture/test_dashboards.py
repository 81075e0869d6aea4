"""The dashboards of deploy/grafana show metrics that the code has, and Grafana can read them."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.metrics import check_expression, promtool

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARDS = DEPLOY / "grafana"
NAMES = ("expiry", "handshakes", "issuance", "revocation", "rotation", "services", "signer")
PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
PANELS = {"stat", "table", "timeseries"}
SCHEMA = 41  # of Grafana 12; newer ones migrate it
WIDTH = 24
ALERT = re.compile(r"Alerts?: ([^.]+)\.")
_BY = re.compile(r"\bby \(([^)]*)\)")
_LEGEND = re.compile(r"\{\{(\w+)\}\}")


def dashboard(name: str) -> dict[str, Any]:
    """One dashboard."""
    loaded: dict[str, Any] = json.loads((DASHBOARDS / f"{name}.json").read_text())
    return loaded


def panels(name: str) -> list[dict[str, Any]]:
    """Its panels."""
    found: list[dict[str, Any]] = dashboard(name)["panels"]
    return found


def expressions(name: str) -> list[str]:
    """What its panels ask Prometheus for."""
    return [target["expr"] for panel in panels(name) for target in panel["targets"]]


def test_every_dashboard_is_tested() -> None:
    """A file that is not named here would not be looked at."""
    assert {path.stem for path in DASHBOARDS.glob("*.json")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_is_one_of_ours(name: str) -> None:
    """A stable address of its own, a place among the others, and no number that Grafana gives by itself."""
    found = dashboard(name)
    assert (found["uid"], found["schemaVersion"], found["tags"]) == (f"pqcpki-{name}", SCHEMA, ["pqcpki"])
    assert found["title"].startswith("pqcpki: ")
    assert "id" not in found
    assert found["links"][0]["tags"] == ["pqcpki"]


@pytest.mark.parametrize("name", NAMES)
def test_panels_have_their_own_place(name: str) -> None:
    """Each has an id, a title and a sentence, and no two overlap."""
    found = panels(name)
    assert {panel["type"] for panel in found} <= PANELS
    assert len({panel["id"] for panel in found}) == len({panel["title"] for panel in found}) == len(found)
    assert all(panel["description"].endswith(".") for panel in found)
    taken: set[tuple[int, int]] = set()
    for panel in found:
        at = panel["gridPos"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert at["x"] + at["w"] <= WIDTH
        assert not taken & cells, panel["title"]
        taken |= cells


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_and_label_of_a_dashboard_exists(name: str) -> None:
    """A panel over a metric that nobody counts would stay empty."""
    assert [check_expression(text) for text in expressions(name)]


@pytest.mark.parametrize("name", NAMES)
def test_legends_say_what_series_are_grouped_by(name: str) -> None:
    """A label that was summed away would be an empty word."""
    for panel in panels(name):
        for target in panel["targets"]:
            grouped = {label.strip() for group in _BY.findall(target["expr"]) for label in group.split(",")}
            shown = set(_LEGEND.findall(target["legendFormat"]))
            assert not grouped or shown <= grouped - {"le"}, target


@pytest.mark.parametrize("name", NAMES)
def test_targets_ask_the_provisioned_prometheus(name: str) -> None:
    """The data source is the one that compose provisions; no two targets of a panel have one name."""
    assert "uid: prometheus\n" in (DEPLOY / "compose" / "grafana" / "datasources" / "prometheus.yaml").read_text()
    for panel in panels(name):
        assert panel["datasource"] == PROMETHEUS
        assert all(target["datasource"] == PROMETHEUS for target in panel["targets"])
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("name", NAMES)
def test_alerts_that_a_panel_names_exist(name: str) -> None:
    """Who comes from an alert finds its picture, and who sees the picture finds the rule."""
    rules = "".join(path.read_text() for path in (DEPLOY / "prometheus").glob("*.rules.yaml"))
    for panel in panels(name):
        for named in ALERT.findall(panel["description"]):
            for alert in re.findall(r"[A-Z]\w+", named):
                assert f"- alert: {alert}\n" in rules, panel["title"]


def test_promtool_reads_every_expression(tmp_path: Path) -> None:
    """Prometheus' own tool takes them as PromQL."""
    texts = [text.replace("$__rate_interval", "5m") for name in NAMES for text in expressions(name)]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(texts)]
    file = tmp_path / "panels.yaml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))  # JSON is YAML
    command = [promtool(), "check", "rules", "--lint=none", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, len(rules) > len(NAMES)) == (0, True), done.stdout + done.stderr
