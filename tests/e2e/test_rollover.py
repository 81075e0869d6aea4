"""Issuing CA and root are replaced under a running deployment with signer-hsm: nobody is restarted, nothing is lost."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509

from pkicore.x509.certificate import load_chain, to_pem
from services.ca.layout import SIGNER, Layout
from tests.support.acme_clients import Lego, Server, WebRoot, missing
from tests.support.certbot import Certbot
from tests.support.deployment import Deployment, DnsProcess
from tests.support.openssl import Relying, openssl

ROOTS = ("pqcpki root ecdsa", "pqcpki root ecdsa 2")
PATIENCE_SECONDS = 150.0  # services look every half minute whether to renew, and the machine does other things too


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, dns: DnsProcess) -> Iterator[Deployment]:
    """A deployment of all families whose issuing keys are at signer-hsm."""
    deployment = Deployment(tmp_path_factory.mktemp("rollover") / "state", dns)
    deployment.init("--keys", SIGNER, "--families", "ecdsa,rsa,mldsa", "--rsa-bits", "2048").up()
    yield deployment
    assert deployment.stop() == []


class Traffic:
    """Somebody who asks for certificates all the time, through CA and signer-hsm."""

    def __init__(self, deployment: Deployment, directory: Path) -> None:
        self._deployment = deployment
        self._directory = directory
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.issued = 0
        self.failed: list[str] = []

    def _run(self) -> None:
        while not self._stop.is_set():
            out = self._directory / f"w{self.issued + len(self.failed)}"
            where = ("--dir", str(self._deployment.directory), "--out", str(out))
            done = self._deployment.ztca("issue", "busy", *where, check=False)
            if done.returncode:
                self.failed.append(done.stderr)
            else:
                self.issued += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def ca(deployment: Deployment, command: str, *options: str, check: bool = True) -> Any:  # noqa: ANN401 - JSON or text
    """`ztca ca COMMAND`: what it answers, or its complaint."""
    done = deployment.ztca("ca", command, "--dir", str(deployment.directory), *options, "--json", check=check)
    return json.loads(done.stdout) if check else done.stderr


def identities(deployment: Deployment) -> dict[str, str]:
    """Who has certified the identity of each service."""
    layout = Layout(deployment.directory)
    names = (*layout.services, "operator")
    paths = (*(layout.identity(name) for name in layout.services), layout.operator)
    return {
        name: load_chain((path / "cert.pem").read_bytes())[0].issuer.rfc4514_string()
        for name, path in zip(names, paths, strict=True)
    }


def shows(deployment: Deployment, listener: str, issuer: str) -> bool:
    """Whether a listener shows a certificate by this issuer; it looks every few seconds whether there is a new one."""
    probe = ("probe", deployment.endpoints[listener], "--dir", str(deployment.directory), "--json")
    seen = json.loads(deployment.ztca(*probe, check=False).stdout or "{}")
    return issuer in seen.get("chain", ())


def wait_until_all_are_below(deployment: Deployment, issuer: str) -> None:
    """Every service and the operator have renewed, and who listens within shows it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while set(identities(deployment).values()) != {issuer}:
        assert time.monotonic() < deadline, identities(deployment)
        time.sleep(0.5)
    for listener in ("ca_internal", "signer_hsm"):
        while not shows(deployment, listener, issuer):
            assert time.monotonic() < deadline, f"{listener} does not show its new certificate"
            time.sleep(0.5)


def test_root_and_issuing_ca_are_replaced_under_traffic(running: Deployment, tmp_path: Path) -> None:
    """From the new root's preparation to the old one's end: same processes, no failed request, renewed identities."""
    pids = dict(running.pids)
    with Traffic(running, tmp_path) as traffic:
        assert ca(running, "prepare-root", "--family", "mldsa")["id"] == "root-mldsa-2"
        ca(running, "activate-root", "root-mldsa-2")
        ca(running, "prepare", "--family", "mldsa")
        ca(running, "activate", "issuing-mldsa-2")
        wait_until_all_are_below(running, "CN=pqcpki issuing mldsa 2")
        assert "are valid until" in ca(running, "retire-root", "root-mldsa", check=False)
        assert ca(running, "retire-root", "root-mldsa", "--force")["state"] == "retired"
        time.sleep(5)
    assert traffic.failed == []
    assert traffic.issued > 3
    published = json.loads((running.directory / "endpoints.json").read_text())
    assert published["pids"] == pids
    found = {item["id"]: item for item in ca(running, "list")["authorities"]}
    assert found["issuing-mldsa-2"]["key"] == "signer-hsm:ca.issuing-mldsa-2/1"
    assert (found["issuing-mldsa"]["crl_state"], found["issuing-mldsa"]["ocsp"]) == ("current", "answers")
    assert len(load_chain(Layout(running.directory).trust_bundle.read_bytes())) == 3
    running.ztca("audit", "verify", str(running.directory))


def test_rsa_stands_beside_the_others(running: Deployment) -> None:
    """Its root and issuing CA are there, with CRL and OCSP, and in the trust of public chains."""
    layout = Layout(running.directory)
    found = {item["id"]: item for item in ca(running, "list")["authorities"]}
    assert (found["root-rsa"]["algorithm"], found["issuing-rsa"]["algorithm"]) == ("rsa-4096", "rsa-2048")
    assert (found["issuing-rsa"]["crl_state"], found["issuing-rsa"]["ocsp"]) == ("current", "answers")
    arguments = ("-x509_strict", "-CAfile", layout.tls_ca_bundle, layout.issuers / "issuing-rsa.pem")
    assert "issuing-rsa.pem: OK" in openssl("verify", *arguments)


@pytest.fixture(scope="module")
def two_roots(running: Deployment) -> Deployment:
    """The same with a second ECDSA root, which is active."""
    ca(running, "prepare-root", "--family", "ecdsa")
    ca(running, "activate-root", "root-ecdsa-2")
    ca(running, "prepare", "--family", "ecdsa")
    ca(running, "activate", "issuing-ecdsa-2")
    return running


def test_openssl_and_gnutls_believe_both_roots(two_roots: Deployment, tmp_path: Path) -> None:
    """A server's chain of the new ECDSA root verifies for who trusts the old root alone, and for who trusts the new."""
    running, layout = two_roots, Layout(two_roots.directory)
    where = ("--dir", str(running.directory), "--out", str(tmp_path / "leaf"), "--key", "ecdsa-p256")
    running.ztca("issue", "new", *where)
    chain = load_chain((tmp_path / "leaf" / "cert.pem").read_bytes())
    assert len(chain) == 3
    for root in ("root-ecdsa", "root-ecdsa-2"):
        verified(chain, layout.trust / f"{root}.pem", tmp_path)
    old = load_chain((layout.issuers / "issuing-ecdsa.pem").read_bytes())
    reverse = load_chain((layout.cross / "root-ecdsa-by-root-ecdsa-2.pem").read_bytes())
    verified((*old, *reverse), layout.trust / "root-ecdsa-2.pem", tmp_path)


@pytest.mark.requirement("rfc8555-7.4.2-01")
def test_clients_choose_the_root_of_their_chain(two_roots: Deployment, tmp_path: Path, certbot_command: Path) -> None:
    """During a rollover certbot and lego get the chain to either root, the other by its link (`--preferred-chain`)."""
    endpoints, port = two_roots.endpoints, two_roots.http01_port
    server = Server(endpoints["acme_directory"], Path(endpoints["tls_ca_bundle"]))
    certbot = Certbot(certbot_command, tmp_path / "certbot", server.directory, str(server.bundle), port)
    old, new = ROOTS
    with WebRoot(tmp_path / "web", port) as web:
        options = ("--webroot", "--webroot-path", str(web.root), "--preferred-chain", new)
        certbot.succeed(*certbot.certonly("chain.pqcpki.test"), *options)
        chosen = [(new, certbot.live("chain.pqcpki.test") / "chain.pem")]
        for root in () if missing("lego") else (old, new):
            client = Lego(tmp_path / root, server, web, run_options=("--preferred-chain", root))
            chosen.append((root, client.issue("lego.pqcpki.test").chain))
    for root, path in chosen:
        assert load_chain(path.read_bytes())[-1].issuer.rfc4514_string() == f"CN={root}", path


def verified(chain: tuple[x509.Certificate, ...], root: Path, directory: Path) -> None:
    """Openssl and certtool accept it."""
    files = {name: directory / f"{name}.pem" for name in ("first", "above", "all")}
    files["first"].write_bytes(to_pem(chain[:1]))
    files["above"].write_bytes(to_pem(chain[1:]))
    files["all"].write_bytes(to_pem(chain))
    assert "first.pem: OK" in Relying(root, directory).verify(files["first"], files["above"])  # with all their CRLs
    command = ["certtool", "--verify", "--load-ca-certificate", str(root), "--infile", str(files["all"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "Chain verification output: Verified." in done.stdout, done.stdout + done.stderr
