"""What the revocation of a service's or client's identity does to its handshakes, in a real deployment of its own."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.support.deployment import Deployment, DnsProcess

BY_PEER = "refused by peer: certificate revoked"
WITHIN = 60.0  # seconds: the promise of the README


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, dns: DnsProcess) -> Iterator[Deployment]:
    """A deployment whose ACME server is shut out in the end."""
    running = Deployment(tmp_path_factory.mktemp("revocation") / "state", dns).init().up()
    yield running
    assert running.stop() == []


@pytest.fixture
def fresh(tmp_path: Path, dns: DnsProcess) -> Iterator[Deployment]:
    """A deployment of one test, which nobody has shut out yet: who is waits ever longer before another attempt."""
    running = Deployment(tmp_path / "state", dns).init().up()
    yield running
    assert running.stop() == []


def _serial(path: Path) -> str:
    return f"{x509.load_pem_x509_certificates(path.read_bytes())[0].serial_number:x}"


def _probe(deployment: Deployment, *identity: str) -> subprocess.CompletedProcess[str]:
    url = deployment.endpoints["ca_internal"]
    return deployment.ztca("probe", "--dir", str(deployment.directory), *identity, url, check=False)


def _revoke(deployment: Deployment, serial: str) -> None:
    arguments = ("--dir", str(deployment.directory), "--serial", serial, "--reason", "keyCompromise")
    deployment.ztca("revoke", *arguments)


def _wait_for(seconds: float, what: str, happens: Callable[[], bool]) -> float:
    """Seconds until `happens()` is true."""
    begin = time.monotonic()
    while not happens():
        assert time.monotonic() - begin < seconds, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.2)
    return time.monotonic() - begin


@pytest.mark.slow
def test_an_unknown_client_is_refused_without_certificate(started: Deployment) -> None:
    """Whoever shows no certificate of ours does not get past the handshake of the internal listener."""
    authority = started.endpoints["ca_internal"].removeprefix("https://")
    seen = subprocess.run(
        ["openssl", "s_client", "-connect", authority, "-tls1_3"],
        input="",
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert "alert" in seen.stderr
    assert "BEGIN CERTIFICATE" not in seen.stdout


@pytest.mark.slow
def test_a_revoked_acme_identity_is_refused_by_the_ca(started: Deployment) -> None:
    """Once its identity is revoked, the CA ends the open connection of the ACME server and refuses new ones."""
    tls = started.directory / "acme" / "tls" / "internal"
    identity = ("--cert", str(tls / "cert.pem"), "--key", str(tls / "key.pem"))
    assert _probe(started, *identity).returncode == 0
    _revoke(started, _serial(tls / "cert.pem"))

    def refused() -> bool:
        return BY_PEER in _probe(started, *identity).stdout

    _wait_for(WITHIN, "the refusal", refused)
    log = started.directory / "logs" / "acme.log"
    _wait_for(WITHIN, "the loss of the open connection", lambda: BY_PEER in log.read_text())


@pytest.mark.slow
def test_a_revoked_ca_identity_is_refused_by_the_acme_server(fresh: Deployment) -> None:
    """Once the CA's own identity is revoked, its clients refuse it, by CRL or by staple, within seconds."""
    _revoke(fresh, _serial(fresh.directory / "ca" / "tls" / "internal" / "cert.pem"))
    log = fresh.directory / "logs" / "acme.log"
    _wait_for(WITHIN, "the refusal", lambda: "certificate revoked" in log.read_text())
    probe = _probe(fresh)
    assert probe.returncode == 1
    assert "revoked" in probe.stdout
