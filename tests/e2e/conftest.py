"""One deployment per worker, and a certbot per test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import certbot as certbot_support
from tests.support.certbot import Certbot
from tests.support.deployment import Deployment, DnsProcess
from tests.support.otlp_collector import OtlpCollector

RECORDS = {"*.pqcpki.test": {"A": ["127.0.0.1"]}}


@pytest.fixture(scope="session")
def dns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DnsProcess]:
    """A DNS simulator in which every name below pqcpki.test is 127.0.0.1."""
    process = DnsProcess(tmp_path_factory.mktemp("dns") / "records.json", RECORDS)
    yield process
    process.stop()


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory, dns: DnsProcess) -> Iterator[Deployment]:
    """A deployment that is up; nothing of it is left afterwards."""
    running = Deployment(tmp_path_factory.mktemp("deployment") / "state", dns).init().up()
    yield running
    assert running.stop() == []


@pytest.fixture(scope="session")
def collector() -> Iterator[OtlpCollector]:
    """A collector of traces."""
    with OtlpCollector() as running:
        yield running


@pytest.fixture(scope="session")
def certbot_command() -> Path:
    """The installed certbot."""
    return certbot_support.install()


@pytest.fixture
def certbot(certbot_command: Path, deployment: Deployment, tmp_path: Path) -> Certbot:
    """A certbot without account yet."""
    endpoints = deployment.endpoints
    return Certbot(
        certbot_command, tmp_path, endpoints["acme_directory"], endpoints["tls_ca_bundle"], deployment.http01_port
    )
