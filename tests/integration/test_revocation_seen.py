"""How soon a revocation, a hold and a release are seen from outside: by openssl and curl, in staples, by a listener."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.identity import SpiffeId
from pkicore.mtls import INTERNAL
from pkicore.x509.certificate import crl_urls
from services.chassis.cli.deployed import Deployed
from tests.support.deployment import Deployment, DnsProcess
from tests.support.openssl import openssl

WITHIN = 5.0  # seconds: what is promised
STARTS = 20.0  # seconds for a listener that was just told to let somebody in again, on a busy machine


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A deployment whose classical CRL has two shards."""
    directory = tmp_path_factory.mktemp("seen")
    dns = DnsProcess(directory / "dns.json", {})
    made = Deployment(directory / "state", dns).init()
    settings = made.directory / "config" / "ca.toml"
    text = settings.read_text()
    changed = re.sub(r'^id = "issuing-ecdsa"$', 'id = "issuing-ecdsa"\ncrl_shards = 2', text, flags=re.MULTILINE)
    assert changed != text
    settings.write_text(changed)
    yield made.up()
    wrong = made.stop()
    dns.stop()
    assert wrong == []


def issue(deployment: Deployment, name: str, out: Path, key: str) -> str:
    """A client identity; its serial. Leaf and issuer are files of their own, too."""
    where = ("--dir", str(deployment.directory))
    made = deployment.ztca("issue", name, *where, "--out", str(out), "--key", key, "--json")
    leaf, issuer, *_ = x509.load_pem_x509_certificates((out / "cert.pem").read_bytes())
    for file, certificate in (("leaf.pem", leaf), ("issuer.pem", issuer)):
        (out / file).write_bytes(certificate.public_bytes(Encoding.PEM))
    serial: str = json.loads(made.stdout)["serial"]
    return serial


def ztca(deployment: Deployment, command: str, *arguments: str) -> str:
    """Run a command on this deployment."""
    return deployment.ztca(command, "--dir", str(deployment.directory), *arguments).stdout


def curl(url: str) -> bytes:
    """GET by curl."""
    return subprocess.run(["curl", "-sSf", url], stdout=subprocess.PIPE, timeout=20, check=True).stdout


def wait_for(seconds: float, what: str, happens: Callable[[], bool]) -> None:
    """Until it is so."""
    begin = time.monotonic()
    while not happens():
        assert time.monotonic() - begin < seconds, f"{what} is not seen within {seconds:g} s"
        time.sleep(0.1)


def test_a_revocation_is_seen_by_openssl_and_curl_within_five_seconds(deployment: Deployment, tmp_path: Path) -> None:
    """OCSP by POST and by GET say so at once, also where they were asked before; the certificate's shard soon after."""
    out = tmp_path / "client"
    serial = issue(deployment, "seen", out, "ecdsa-p256")
    told = ("-issuer", out / "issuer.pem", "-cert", out / "leaf.pem", "-CAfile", deployment.endpoints["tls_ca_bundle"])
    openssl("ocsp", *told, "-no_nonce", "-reqout", out / "request.der")
    by_get = f"{deployment.endpoints['ocsp']}/{quote(base64.b64encode((out / 'request.der').read_bytes()).decode())}"
    (shard,) = crl_urls(x509.load_pem_x509_certificate((out / "leaf.pem").read_bytes()))
    assert re.search(r"/crl/issuing-ecdsa/[12]$", shard)

    def status() -> set[str]:
        (out / "response.der").write_bytes(curl(by_get))
        asked = openssl("ocsp", *told, "-url", deployment.endpoints["ocsp"])
        got = openssl("ocsp", "-respin", out / "response.der", *told, "-no_nonce")
        return {word for said in (asked, got) for word in re.findall(r"leaf.pem: (\w+)", said)}

    def is_listed() -> bool:
        (out / "crl.der").write_bytes(curl(shard))
        shown = openssl("crl", "-in", out / "crl.der", "-CAfile", out / "issuer.pem", "-text", "-noout")
        assert "verify OK" in shown
        return f"{serial}\n".upper() in shown.upper()

    assert (status(), is_listed()) == ({"good"}, False)
    ztca(deployment, "revoke", "--serial", serial, "--reason", "keyCompromise")
    begin = time.monotonic()
    wait_for(WITHIN, "the revocation by OCSP", lambda: status() == {"revoked"})
    wait_for(WITHIN - (time.monotonic() - begin), "the revocation by CRL", is_listed)


def test_a_revoked_certificate_is_no_longer_stapled_as_good(deployment: Deployment) -> None:
    """The listener that serves it had a good staple, and has none within five seconds."""
    authority = urlsplit(deployment.endpoints["acme_directory"]).netloc

    def shown() -> str:
        trusted = ("-CAfile", deployment.endpoints["tls_ca_bundle"])
        return openssl("s_client", "-connect", authority, "-status", "-showcerts", *trusted, check=False)

    before = shown()
    assert "Cert Status: good" in before
    chain = before[before.index("Certificate chain") :]  # the responder's certificate stands before it
    pem = chain[chain.index("-----BEGIN CERTIFICATE") : chain.index("-----END CERTIFICATE") + 25]
    serial = x509.load_pem_x509_certificate(pem.encode()).serial_number
    ztca(deployment, "revoke", "--serial", f"{serial:x}", "--reason", "superseded")
    wait_for(WITHIN, "the revocation in the staple", lambda: "Cert Status: good" not in shown())


def test_a_held_client_is_shut_out_and_let_in_again(deployment: Deployment, tmp_path: Path) -> None:
    """Its open connection is closed and new ones are refused; after the release it is served as before."""
    out = tmp_path / "client"
    serial = issue(deployment, "held", out, "ml-dsa-65")
    url = deployment.endpoints["ca_internal"]
    probe = ("probe", url, "--cert", str(out / "cert.pem"), "--key", str(out / "key.pem"))

    def is_let_in() -> bool:
        return deployment.ztca(*probe, "--dir", str(deployment.directory), check=False).returncode == 0

    async def loses_its_connection() -> float:
        deployed = Deployed.read(deployment.directory)
        client = await deployed.client(INTERNAL, out / "cert.pem", out / "key.pem", require_staple=True)
        domain = SpiffeId.parse(f"spiffe://{_trust_domain(out)}/service/ca").trust_domain
        parts = urlsplit(url)
        connection = await client.connect(
            str(parts.hostname), int(parts.port or 0), expected=SpiffeId.service(domain, "ca")
        )
        await asyncio.to_thread(ztca, deployment, "hold", "--serial", serial)
        begin = time.monotonic()
        async with asyncio.timeout(STARTS):
            while not connection.is_spent:  # noqa: ASYNC110 (the peer's closing is what is waited for)
                await asyncio.sleep(0.05)
        return time.monotonic() - begin

    assert is_let_in()
    assert asyncio.run(loses_its_connection()) < WITHIN
    assert not is_let_in()
    ztca(deployment, "release", "--serial", serial)
    wait_for(STARTS, "the release", is_let_in)


def test_many_are_shown_first_and_then_revoked(deployment: Deployment, tmp_path: Path) -> None:
    """A dry run names them; the revocation by key, SPIFFE ID or time revokes those that are left, and no others."""
    serials = [issue(deployment, f"many-{number}", tmp_path / str(number), "ecdsa-p256") for number in range(3)]
    period = ("--issued-between", "2020-01-01", "2100-01-01T00:00:00Z", "--profile", "client")

    def listed(*selector: str) -> set[str]:
        return set(json.loads(ztca(deployment, "revoke", *selector, "--dry-run", "--json"))["serials"])

    assert set(serials) <= listed(*period)
    assert listed("--key", str(tmp_path / "0" / "leaf.pem")) == {serials[0]}
    spiffe = f"spiffe://{_trust_domain(tmp_path / '1')}/workload/many-1"
    assert listed("--spiffe-id", spiffe) == {serials[1]}
    ztca(deployment, "revoke", "--key", str(tmp_path / "0" / "leaf.pem"), "--yes")
    ztca(deployment, "hold", "--spiffe-id", spiffe, "--yes")
    ztca(deployment, "revoke", "--certificate", str(tmp_path / "2" / "leaf.pem"))
    assert not {serials[0], serials[2]} & listed(*period)
    assert json.loads(ztca(deployment, "release", "--spiffe-id", spiffe, "--yes", "--json"))["serials"] == [serials[1]]
    refused = deployment.ztca("revoke", "--dir", str(deployment.directory), check=False)
    assert (refused.returncode, "exactly one" in refused.stderr) == (1, True)


def _trust_domain(out: Path) -> str:
    leaf = x509.load_pem_x509_certificate((out / "leaf.pem").read_bytes())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return SpiffeId.parse(uri).trust_domain
