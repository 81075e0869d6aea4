"""Certificates that name another status URL than the listener's own address, as behind a load balancer."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.support.deployment import Deployment, DnsProcess

PUBLIC = "http://status.pqcpki.test"
LATER = "http://later.pqcpki.test"


def _distribution_point(certificate: x509.Certificate) -> str:
    (point,) = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert point.full_name
    return str(point.full_name[0].value)


def _issue(deployment: Deployment, out: Path) -> x509.Certificate:
    deployment.ztca("issue", "--dir", str(deployment.directory), "client", "--out", str(out))
    return x509.load_pem_x509_certificates((out / "cert.pem").read_bytes())[0]


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory, dns: DnsProcess) -> Iterator[Deployment]:
    """A deployment that was told at its ceremony, and is told otherwise in the second test."""
    deployment = Deployment(tmp_path_factory.mktemp("named") / "state", dns, {"PQCPKI_CA_STATUS_URL": PUBLIC})
    yield deployment.init().up()
    assert deployment.stop() == []


@pytest.mark.slow
def test_the_status_url_is_chosen_at_the_ceremony(named: Deployment, tmp_path: Path) -> None:
    """Every certificate names the public URL, while the services ask the listener at its own address."""
    assert _distribution_point(_issue(named, tmp_path / "client")) == f"{PUBLIC}/crl/issuing-mldsa"
    assert named.endpoints["crl_base"].startswith("http://127.0.0.1:")


@pytest.mark.slow
def test_the_status_url_may_change_later(named: Deployment, tmp_path: Path) -> None:
    """New certificates name the new URL; the CRLs name both, so that certificates of the ceremony are still checked."""
    assert named.stop() == []
    named.environment["PQCPKI_CA_STATUS_URL"] = LATER
    named.up()
    assert _distribution_point(_issue(named, tmp_path / "client")) == f"{LATER}/crl/issuing-mldsa"
    probe = named.ztca("probe", "--dir", str(named.directory), named.endpoints["acme_directory"])
    assert "not revoked" in probe.stdout


def test_a_status_url_with_a_path_is_refused(tmp_path: Path, dns: DnsProcess) -> None:
    """The ceremony refuses what no certificate should carry, and makes nothing."""
    deployment = Deployment(tmp_path / "state", dns, {"PQCPKI_CA_STATUS_URL": "http://a.example/pki"})
    with pytest.raises(subprocess.CalledProcessError) as caught:
        deployment.init()
    assert "must be http://host[:port], without a path" in caught.value.stderr
    assert not deployment.directory.exists()
