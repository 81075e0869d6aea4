"""The operators' commands on the ledger of a running deployment."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.certbot import Certbot
from tests.support.console import ROOT, blocks
from tests.support.deployment import Deployment
from tests.support.fork_server import fork_server

MARKER = "run by: tests/e2e/test_ledger.py"
SERVICES = "spiffe://pqcpki.internal/service/*"


def ztca(deployment: Deployment, *arguments: str, status: int = 0) -> str:
    """What a command prints."""
    result = deployment.ztca(*arguments, "--dir", str(deployment.directory), check=False)
    assert result.returncode == status, result.stderr
    return result.stdout if status == 0 else result.stderr


def names(rows: Sequence[dict[str, dict[str, list[str]]]]) -> set[str]:
    """The URIs of rows."""
    return {name for row in rows for name in row["names"].get("uri", ())}


@pytest.mark.slow
def test_the_commands_of_the_page_work(deployment: Deployment, tmp_path: Path) -> None:
    """Whoever types the commands of docs/operations/ledger.md, in order, meets no error."""
    page = ROOT / "docs/operations/ledger.md"
    commands = [command for block in blocks(page) if block.marker == MARKER for command in block.commands]
    assert len(commands) > 10
    result = subprocess.run(
        ["bash", "-x", "-e", "-u", "-o", "pipefail", "-c", "\n".join(commands)],
        cwd=tmp_path,
        env=os.environ
        | {"PQCPKI_DIR": str(deployment.directory), "PATH": f"{fork_server().commands}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-5000:]}"


@pytest.mark.slow
def test_an_order_is_found_with_its_account_and_validation(deployment: Deployment, certbot: Certbot) -> None:
    """A certificate that certbot obtained is in the ledger with account, order, method and time of validation."""
    certbot.register()
    certbot.standalone("ledger.pqcpki.test")
    (row,) = json.loads(ztca(deployment, "search", "ledger.pqcpki.test", "--json"))["certificates"]
    assert row["requester"]["account"] == row["account"]
    assert row["requester"]["http-01"].startswith("ledger.pqcpki.test 20")
    found = json.loads(ztca(deployment, "list", "--account", row["account"], "--json"))["certificates"]
    assert row["serial"] in {one["serial"] for one in found}
    report = json.loads(ztca(deployment, "pqc", "report", "--json"))
    assert report["not_asked"] == {}


@pytest.mark.slow
def test_exports_agree_with_the_search(deployment: Deployment, tmp_path: Path) -> None:
    """JSON Lines and CSV hold the rows that the search shows, in files that are their owner's alone."""
    searched = json.loads(ztca(deployment, "search", SERVICES, "--json"))["certificates"]
    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.csv"
    ztca(deployment, "export", "--name", SERVICES, "--out", str(lines))
    ztca(deployment, "export", "--name", SERVICES, "--out", str(table))
    exported = [json.loads(line) for line in lines.read_text().splitlines()]
    assert names(exported) == names(searched) >= {"spiffe://pqcpki.internal/service/ca"}
    with table.open(newline="") as file:
        assert [row["serial"] for row in csv.DictReader(file)] == [row["serial"] for row in exported]
    assert lines.stat().st_mode & 0o777 == table.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_what_makes_no_sense_is_said_in_a_sentence(deployment: Deployment) -> None:
    """A name that is none, and a serial that was never used, end with one sentence and 1."""
    assert "a_b is no DNS name" in ztca(deployment, "search", "a_b", status=1).replace("'", "")
    assert ztca(deployment, "show", "0a", status=1) == "ztca: this CA never used that serial\n"
    assert ztca(deployment, "list", "--refusals", "--profile", "server", status=1).startswith("ztca: refusals are not")
    assert "no profile 'nope'; there are: " in ztca(deployment, "list", "--profile", "nope", status=1)
    period = ("--issued-between", "2026-01-01T00:00:00Z", "2099-01-01T00:00:00Z", "--dry-run")
    assert "issuing-ecdsa" in ztca(deployment, "revoke", *period, "--issuer", "nope", status=1)
    assert "`ztca hold`" in ztca(deployment, "revoke", *period, "--reason", "certificateHold", status=1)
    dry = ztca(deployment, "revoke", *period, "--profile", "service")
    assert "spiffe://pqcpki.internal/service/ca" in dry
    assert "would be changed" in dry


@pytest.mark.slow
def test_a_classical_deployment_fails_where_that_is_asked_for(deployment: Deployment) -> None:
    """--fail-on-classical ends with 1; the report itself ends with 0 and names the classical issuer."""
    report = ztca(deployment, "pqc", "report")
    assert "ecdsa-p256: issuing-ecdsa (issuing, key: file)" in report
    assert "ed25519: audit checkpoints of ca" in report
    ztca(deployment, "pqc", "report", "--fail-on-classical", status=1)
