"""The issuing keys of a deployment move from sealed files into a back end, back again, and for good."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from services.ca.deployment import recorded_settings
from services.ca.layout import Layout
from tests.support.deployment import Deployment, DnsProcess

FAMILIES = ("ecdsa", "mldsa")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, dns: DnsProcess) -> Deployment:
    """A deployment with file keys and without signer-hsm; each test goes on where the one before it stopped."""
    return Deployment(tmp_path_factory.mktemp("migrate") / "state", dns).init()


def keys(deployment: Deployment, command: str, *options: str, check: bool = True) -> Any:  # noqa: ANN401 - JSON or text
    """`ztca keys COMMAND`: what it answers, or its complaint."""
    done = deployment.ztca("keys", command, "--dir", str(deployment.directory), *options, "--json", check=check)
    return json.loads(done.stdout) if check else done.stderr


def settings(deployment: Deployment) -> str:
    """The CA's settings."""
    return Layout(deployment.directory).settings("ca").read_text()


def events(deployment: Deployment, prefix: str) -> list[tuple[str, Any]]:
    """Events of the CA's audit log, with their details."""
    with closing(sqlite3.connect(Layout(deployment.directory).database)) as database:
        rows = database.execute("SELECT event, detail FROM audit_log ORDER BY sequence").fetchall()
    return [(event, json.loads(detail)) for event, detail in rows if event.startswith(prefix)]


def serves(deployment: Deployment, out: Path) -> None:
    """It comes up, issues, and stops; while it is up, no key is moved."""
    deployment.up()
    try:
        for key in ("ecdsa-p256", "ml-dsa-65"):
            where = ("--dir", str(deployment.directory), "--out", str(out / key))
            deployment.ztca("issue", f"moved-{key}", *where, "--key", key)
        assert "another `ztca up` runs" in keys(deployment, "rollback", check=False)
    finally:
        assert deployment.stop() == []


def test_a_rehearsal_changes_nothing(stopped: Deployment) -> None:
    """Every key is imported, used, compared and destroyed again; the settings are what they were."""
    before = settings(stopped)
    told = keys(stopped, "migrate", "--to", "file", "--rehearse")
    assert told["rehearsal"] is True
    assert {item["issuer"] for item in told["keys"]} == {"issuing-ecdsa", "issuing-mldsa"}
    layout = Layout(stopped.directory)
    assert settings(stopped) == before
    assert list(layout.signer_keys.glob("*.key")) == []
    assert layout.services == ("ca", "acme")
    assert events(stopped, "key.") == []


def test_a_back_end_that_is_not_there_is_named(stopped: Deployment) -> None:
    """The sentence says which there are."""
    assert "there are: file" in keys(stopped, "migrate", "--to", "elsewhere", check=False)


def test_a_migration_killed_half_way_leaves_the_files_in_force(stopped: Deployment) -> None:
    """SIGKILL when the first key is in the back end: nothing is switched, and the next attempt takes that key."""
    before = settings(stopped)
    taken = "issuing-ecdsa is signer-hsm:ca.issuing-ecdsa/1"
    stopped.ztca_killed(taken, "keys", "migrate", "--dir", str(stopped.directory), "--to", "file")
    assert settings(stopped) == before
    assert list(Layout(stopped.directory).root.glob("bootstrap-*"))
    told = keys(stopped, "migrate", "--to", "file")
    assert [item["to"] for item in told["keys"]] == [f"signer-hsm:ca.issuing-{family}/1" for family in FAMILIES]
    assert not list(Layout(stopped.directory).root.glob("bootstrap-*"))


def test_a_migrated_deployment_signs_through_signer_hsm(stopped: Deployment, tmp_path: Path) -> None:
    """It comes up with three services, issues from both families, and its audit log tells of the move."""
    layout = Layout(stopped.directory)
    assert layout.services == ("signer-hsm", "ca", "acme")
    recorded_ports = recorded_settings(layout, "signer-hsm")
    assert {recorded_ports["port"], recorded_ports["ops_port"]}.isdisjoint({0, 6000, 6090})  # any were asked for
    serves(stopped, tmp_path)
    assert "signer_hsm" in stopped.endpoints
    recorded = events(stopped, "key.migrat")
    assert [event for event, _ in recorded] == ["key.migration-begun"] * 2 + ["key.migrated"] * 2
    assert recorded[2][1]["to"] == "signer-hsm:ca.issuing-ecdsa/1"


def test_the_way_back_is_one_command(stopped: Deployment) -> None:
    """After it the CA's keys are in its files; going forward again takes the key that is in the back end already."""
    told = keys(stopped, "rollback")
    assert [item["to"] for item in told["keys"]] == [
        f"file:{Layout(stopped.directory).key('ca', f'issuing-{family}')}" for family in FAMILIES
    ]
    assert "signer-hsm:" not in settings(stopped)
    again = keys(stopped, "migrate", "--to", "file")
    assert [item["to"] for item in again["keys"]] == [f"signer-hsm:ca.issuing-{family}/1" for family in FAMILIES]


def test_files_are_destroyed_late_and_with_proof(stopped: Deployment) -> None:
    """Not within thirty days unless told so; then the files are gone, and the audit log has the hash of each."""
    layout = Layout(stopped.directory)
    files = [layout.key("ca", f"issuing-{family}") for family in FAMILIES]
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert "less than 30 days ago" in keys(stopped, "destroy-files", check=False)
    assert all(file.exists() for file in files)
    told = keys(stopped, "destroy-files", "--now")
    assert [item["sealed_sha256"] for item in told["files"]] == hashes
    assert not any(file.exists() for file in files)
    gone = [detail["sealed_sha256"] for event, detail in events(stopped, "key.file-destroyed")]
    assert gone == hashes
    assert "nothing to go back to" in keys(stopped, "rollback", check=False)
    stopped.ztca("audit", "verify", str(stopped.directory))
