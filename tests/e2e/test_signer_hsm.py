"""A deployment whose issuing keys are behind signer-hsm, from the ceremony to an accident and a long time off."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.clock import SystemClock
from pkicore.errors import PkiError
from pkicore.keys.envelope import unseal
from pkicore.x509.certificate import load_chain
from services.ca.layout import SIGNER, Layout
from services.ca.signer_settings import file_backend
from services.ca.toml_text import table
from services.ca.warm_start import is_warm
from tests.support.acme_client import AcmeClient, Challenge, http_client, make_csr
from tests.support.backend_world import WorldMissingError
from tests.support.deployment import Deployment, DnsProcess, is_running
from tests.support.fork_server import fork_server
from tests.support.http_challenge import HttpChallengeServer
from tests.support.jose_key import JoseKey
from tests.support.openssl import fetch, openssl
from tests.support.otlp_collector import OtlpCollector
from tests.support.softhsm import SoftHsm, new_softhsm

PATIENCE_SECONDS = 120.0  # of a machine that does other things too
SPKI = PublicFormat.SubjectPublicKeyInfo


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, dns: DnsProcess, collector: OtlpCollector
) -> Iterator[Deployment]:
    """A deployment with the file back end that is up, and whose services are traced."""
    directory = tmp_path_factory.mktemp("signer") / "state"
    deployment = Deployment(directory, dns, collector.environment).init("--keys", "signer-hsm").up()
    yield deployment
    assert deployment.stop() == []


def issue(deployment: Deployment, name: str, out: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A P-256 client identity for a workload."""
    where = ("--dir", str(deployment.directory), "--out", str(out))
    return deployment.ztca("issue", name, *where, "--key", "ecdsa-p256", "--json", check=check)


def ocsp_says(deployment: Deployment, out: Path) -> str:
    """What `openssl ocsp` says of the certificate in a directory; it verifies the answer."""
    leaf, issuer = x509.load_pem_x509_certificates((out / "cert.pem").read_bytes())
    for name, certificate in (("leaf.pem", leaf), ("issuer.pem", issuer)):
        (out / name).write_bytes(certificate.public_bytes(Encoding.PEM))
    trust = ("-CAfile", deployment.endpoints["tls_ca_bundle"], "-url", deployment.endpoints["ocsp"])
    return openssl("ocsp", "-issuer", out / "issuer.pem", "-cert", out / "leaf.pem", *trust)


def crl_names(deployment: Deployment, serial: int) -> bool:
    """Whether the newest CRL, verified with the issuing CA's key, has this serial."""
    crl = x509.load_der_x509_crl(fetch(f"{deployment.endpoints['crl_base']}/issuing-ecdsa"))
    (issuing,) = load_chain(Layout(deployment.directory).issuer_certificate("ecdsa").read_bytes())
    assert crl.is_signature_valid(issuing.public_key())  # type: ignore[arg-type]  # an EC key
    return crl.get_revoked_certificate_by_serial_number(serial) is not None


def test_openssl_sees_a_certificate_live_and_die(running: Deployment, tmp_path: Path) -> None:
    """What is issued through signer-hsm verifies with openssl, is good by OCSP, and revoked by OCSP and CRL after."""
    serial = json.loads(issue(running, "live", tmp_path / "live").stdout)["serial"]
    assert "leaf.pem: good" in ocsp_says(running, tmp_path / "live")
    root = ("-CAfile", running.endpoints["tls_ca_bundle"], "-untrusted", tmp_path / "live" / "issuer.pem")
    assert ": OK" in openssl("verify", *root, tmp_path / "live" / "leaf.pem")
    running.ztca("revoke", "--dir", str(running.directory), "--serial", serial, "--reason", "superseded")
    assert "leaf.pem: revoked" in ocsp_says(running, tmp_path / "live")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not crl_names(running, int(serial, 16)):
        assert time.monotonic() < deadline, "the CRL does not name it"
        time.sleep(0.2)


def private_keys_below(layout: Layout, *left_out: Path) -> set[bytes]:
    """The public halves of every sealed key file below a deployment."""
    passphrase = layout.passphrase.read_bytes().strip()
    found = set()
    for path in layout.root.rglob("*"):
        if path.is_file() and not any(path.is_relative_to(other) for other in left_out):
            try:
                key = unseal(path.read_bytes(), passphrase)
            except PkiError:
                continue
            found.add(key.public_key().public_bytes(Encoding.DER, SPKI))
    return found


def test_no_ca_key_lies_where_the_ca_could_read_it(running: Deployment) -> None:
    """No file of the CA's holds an issuing key, and its settings name none; the endpoints name signer-hsm."""
    layout = Layout(running.directory)
    found = private_keys_below(layout, layout.signer_keys, layout.offline)
    assert len(found) >= 5  # three audit keys and two responders: the search does find keys
    for family in ("ecdsa", "mldsa"):
        (issuing,) = load_chain(layout.issuer_certificate(family).read_bytes())
        assert issuing.public_key().public_bytes(Encoding.DER, SPKI) not in found
        assert f'key = "signer-hsm:ca.issuing-{family}/1"' in layout.settings("ca").read_text()
    assert running.endpoints["signer_hsm"].startswith("https://localhost:")
    assert {"signer_hsm", "ca", "acme"} == set(running.pids) == set(running.endpoints["ops"])


async def test_one_trace_leads_from_the_acme_request_to_the_key(running: Deployment, collector: OtlpCollector) -> None:
    """A stranger's finalize, whose traceparent is not believed, the CA's request and the key's use are one trace."""
    stranger = "ba5eba11" * 4
    web = await HttpChallengeServer().start(running.http01_port)
    async with http_client(running.endpoints["tls_ca_bundle"]) as http:
        http.headers["traceparent"] = f"00-{stranger}-{stranger[:16]}-01"
        client = AcmeClient(http, running.endpoints["acme_directory"], JoseKey.generate())

        async def solve(challenge: Challenge) -> None:
            web.answer(challenge.token, challenge.key_authorization)

        await client.register()
        order = await client.new_order(["traced.pqcpki.test"])
        await client.authorize(order, solve)
        order = await client.wait(order.url, {"pending"})
        await client.finalize(order, make_csr(["traced.pqcpki.test"], ec.generate_private_key(ec.SECP256R1())))
    await web.stop()
    finalize = await asyncio.to_thread(collector.wait_for, "acme", "POST /acme/finalize/{id}")
    assert (finalize.kind, finalize.parent_id, stranger in finalize.trace_id) == ("server", "", False)
    signed = await asyncio.to_thread(collector.wait_for, "signer-hsm", "sign file", finalize.trace_id)
    assert await asyncio.to_thread(collector.way_to, signed) == [
        "signer-hsm client sign file",
        "signer-hsm server POST /v1/keys/{id}/sign",
        "ca client POST signer-hsm",
        "ca internal sign ca.issuing-ecdsa",
        "ca server POST /v1/certificates",
        "acme client POST the CA",
        "acme server POST /acme/finalize/{id}",
    ]
    for service, event in (("acme", "order.finalized"), ("ca", "certificate.issued")):
        log = (running.directory / "logs" / f"{service}.log").read_text().splitlines()
        lines = [line for line in map(json.loads, log) if line.get("trace_id") == finalize.trace_id]
        assert event in {line["event"] for line in lines}
        assert {line["span_id"] for line in lines} <= {span.span_id for span in collector.spans}


def test_a_signer_killed_in_mid_issuance_costs_nothing(running: Deployment, tmp_path: Path) -> None:
    """Each request is answered, by a certificate or a clear 503; the CA goes on without a restart."""
    ca = running.pids["ca"]
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(issue, running, f"k{n}", tmp_path / f"k{n}", check=False) for n in range(3)]
        time.sleep(0.3)
        os.kill(running.pids["signer_hsm"], signal.SIGKILL)
        answers = [each.result() for each in asked]
    assert all(answer.returncode == 0 or "signer-hsm" in answer.stderr for answer in answers)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while issue(running, "after", tmp_path / "after", check=False).returncode:
        assert time.monotonic() < deadline, "the CA does not issue again"
    assert is_running(ca)
    assert "leaf.pem: good" in ocsp_says(running, tmp_path / "after")


@dataclass(frozen=True)
class Ahead:
    """A clock that is ahead."""

    by: timedelta = timedelta(0)

    def now(self) -> datetime:
        """The time in a while."""
        return SystemClock().now() + self.by


def copied(deployment: Deployment, directory: Path) -> Layout:
    """What a start looks at, where it may be damaged."""
    here, there = Layout(deployment.directory), Layout(directory)
    for part in ("config", "trust", f"{SIGNER}/status", f"{SIGNER}/tls"):
        shutil.copytree(here.root / part, there.root / part)
    return there


async def test_a_start_is_warm_for_as_long_as_nothing_has_run_out(running: Deployment, tmp_path: Path) -> None:
    """Settings of the environment, CRLs that nobody has confirmed, and certificates at their end make it a cold one."""
    layout = copied(running, tmp_path / "state")
    assert await is_warm(layout, {"PQCPKI_CA_PORT": "0"}, Ahead())
    assert not await is_warm(layout, {"PQCPKI_CA_STATUS_URL": "http://status.pqcpki.test"}, Ahead())
    assert not await is_warm(layout, {}, Ahead(timedelta(hours=1)))
    assert not await is_warm(layout, {}, Ahead(timedelta(days=40)))
    (layout.root / "bootstrap-killed").mkdir()
    assert not await is_warm(layout, {}, Ahead())


@pytest.mark.parametrize(
    "missing",
    ["signer-hsm/status/*.crl", "signer-hsm/status/*.ocsp", "trust/issuers/*.pem", "signer-hsm/tls/internal/cert.pem"],
)
async def test_a_start_without_what_signer_hsm_needs_is_cold(running: Deployment, tmp_path: Path, missing: str) -> None:
    """Whatever is not there is to be made before it starts."""
    layout = copied(running, tmp_path / "state")
    next(layout.root.glob(missing)).unlink()
    assert not await is_warm(layout, {}, Ahead())


@pytest.fixture
def token(tmp_path: Path) -> SoftHsm:
    """A SoftHSM2 token of its own."""
    try:
        return new_softhsm(tmp_path)
    except WorldMissingError as error:
        pytest.skip(str(error))


def softhsm_backend(token: SoftHsm) -> dict[str, Any]:
    """The token as a back end of signer-hsm's settings file."""
    return token.settings().model_dump(mode="json", exclude_defaults=True)


def test_a_deployment_on_a_token_starts_after_a_long_time_off(tmp_path: Path, dns: DnsProcess, token: SoftHsm) -> None:
    """Its ECDSA key is in SoftHSM2, its certificates and CRLs have expired: `ztca up` renews these before listening."""
    layout = Layout(tmp_path / "state")
    backends = (softhsm_backend(token), file_backend(tmp_path / "sealed", layout.passphrase))
    arguments = [str(layout.root), json.dumps(backends)]
    fork_server().run("tests.support.long_ago", arguments, os.environ, timeout=PATIENCE_SECONDS, check=True)
    made_elsewhere = [path.name for path in (tmp_path / "sealed").glob("*.key")]
    assert made_elsewhere == ["ca.issuing-mldsa.v1.key"]  # SoftHSM2 makes no ML-DSA keys, so the next back end did
    (leaf, *_) = load_chain((layout.identity(SIGNER) / "cert.pem").read_bytes())
    assert leaf.not_valid_after_utc < SystemClock().now()
    (layout.root / "bootstrap-killed").mkdir()
    deployment = Deployment(layout.root, dns).up()
    try:
        issue(deployment, "back", tmp_path / "back")
        assert "leaf.pem: good" in ocsp_says(deployment, tmp_path / "back")
        assert not list(layout.root.glob("bootstrap-*"))
    finally:
        assert deployment.stop() == []


def test_a_ceremony_that_fails_leaves_nothing_in_the_back_end(tmp_path: Path, dns: DnsProcess, token: SoftHsm) -> None:
    """Where no back end makes ML-DSA keys, the sentence says so, and the ECDSA key that was made is gone.

    Where the token refuses the PIN, its keys are not made in the next back end instead.
    """
    backends = tmp_path / "backends.toml"
    backends.write_text(table("backends", softhsm_backend(token)))
    deployment = Deployment(tmp_path / "state", dns)
    options = ("--dir", str(deployment.directory), "--keys", "signer-hsm", "--signer-backends", str(backends))
    failed = deployment.ztca("init", *options, check=False)
    assert failed.returncode == 1
    assert "makes ml-dsa-65 keys" in failed.stderr
    assert 'Add one to the [[backends]] that does: type = "file"' in failed.stderr
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("not the token's PIN")
    refused = {**softhsm_backend(token), "pin_file": str(secret)}
    backends.write_text(table("backends", refused) + table("backends", file_backend(tmp_path / "sealed", secret)))
    failed = deployment.ztca("init", *options, check=False)
    assert (failed.returncode, "in the back end" in failed.stdout) == (1, False)  # not into the next one instead
    assert "PIN" in failed.stderr
    assert not deployment.directory.exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(("state", "bootstrap"))] == []
    count = token.python(COUNT_PRIVATE_KEYS)
    assert count.strip() == "0"


COUNT_PRIVATE_KEYS = """
import os, pkcs11
token = pkcs11.lib(os.environ["SOFTHSM2_MODULE"]).get_token(token_label="pqcpki-test")
with token.open(user_pin="97531086") as session:
    print(sum(1 for _ in session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.PRIVATE_KEY})))
"""
