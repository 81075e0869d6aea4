"""A PKI whose services keep nothing in SQLite, from its ceremony on."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deployment import Deployment, DnsProcess
from tests.support.postgres import PostgresMissingError, PostgresServer


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL server of our own."""
    try:
        started = PostgresServer.start()
    except PostgresMissingError as error:
        pytest.skip(str(error))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory, server: PostgresServer) -> Iterator[Deployment]:
    """A deployment that is told of its databases at the ceremony, and not again."""
    directory = tmp_path_factory.mktemp("postgresql")
    dns = DnsProcess(directory / "dns.json", {})
    urls = {f"PQCPKI_{service}_DATABASE_URL": server.new_database() for service in ("CA", "ACME")}
    made = Deployment(directory / "state", dns, urls).init()
    for variable in urls:
        del made.environment[variable]
    yield made.up()
    wrong = made.stop()
    dns.stop()
    assert wrong == []


def test_everything_is_in_postgresql(deployment: Deployment, tmp_path: Path) -> None:
    """Issue, revoke, renew a root's CRL, verify and export the audit log: all of it without one SQLite file."""
    where = ("--dir", str(deployment.directory))
    issued = deployment.ztca("issue", "postgres", *where, "--out", str(tmp_path / "client"), "--json")
    deployment.ztca("revoke", *where, "--serial", json.loads(issued.stdout)["serial"])
    root_crl = deployment.ztca("ca", "root-crl", *where, "--family", "ecdsa", "--json")
    assert json.loads(root_crl.stdout)["number"] == 2
    logs = json.loads(deployment.ztca("audit", "verify", str(deployment.directory), "--json").stdout)["logs"]
    assert [log["log"] for log in logs] == ["acme", "ca"]
    exported = deployment.ztca("audit", "export", *where).stdout
    events = [json.loads(line)["event"] for line in exported.splitlines()]
    assert events[0] == "root.made"
    assert "certificate.revoked" in events
    assert list(deployment.directory.rglob("*.sqlite3")) == []


def test_a_used_database_is_refused_at_the_ceremony(deployment: Deployment, tmp_path: Path) -> None:
    """A second ceremony on the ledger of a first one makes nothing."""
    settings = (deployment.directory / "config" / "ca.toml").read_text()
    url = next(line.split('"')[1] for line in settings.splitlines() if line.startswith("database_url"))
    second = Deployment(tmp_path / "second", deployment.dns, {**os.environ, "PQCPKI_CA_DATABASE_URL": url})
    result = second.ztca("init", "--dir", str(second.directory), check=False)
    assert result.returncode == 1
    assert "empty database" in result.stderr
    assert not second.directory.exists()


def test_an_empty_database_is_not_taken_for_the_ledger(deployment: Deployment, server: PostgresServer) -> None:
    """A CA that is pointed at another database says so in a sentence, and writes no CRL there."""
    assert deployment.stop() == []  # the last test here
    environment = {**deployment.environment, "PQCPKI_CA_DATABASE_URL": server.new_database()}
    astray = Deployment(deployment.directory, deployment.dns, environment)
    result = astray.ztca("up", "--dir", str(deployment.directory), check=False)
    assert result.returncode == 1
    assert "not the one of its ceremony" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    result = astray.ztca("audit", "export", "--dir", str(deployment.directory))
    assert result.stdout == ""
