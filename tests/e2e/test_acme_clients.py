"""Foreign clients against a real deployment: each issues, renews and revokes; openssl judges."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shlex
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, mldsa

from tests.support.acme_client import AcmeClient, Challenge, http_client, make_csr
from tests.support.acme_clients import (
    AcmeSh,
    Client,
    Dehydrated,
    Lego,
    Result,
    Server,
    Uacme,
    WebRoot,
    missing,
    namespaces,
    run,
    split,
)
from tests.support.certbot import Certbot
from tests.support.console import ROOT, blocks
from tests.support.deployment import Deployment, DnsProcess
from tests.support.jose_key import JoseKey
from tests.support.openssl import Relying, openssl, wheel_verifies

OURS = "run by: tests/e2e/test_acme_clients.py"
SUPPORT = Path(__file__).parents[1] / "support"
SIGNED_BY = {"ecdsa": "1.2.840.10045.4.", "mldsa": "2.16.840.1.101.3.4.3."}
CLIENTS: dict[str, tuple[Callable[[Path, Server, WebRoot], Client], str]] = {
    "lego": (Lego, missing("lego")),
    "uacme": (Uacme, missing("uacme", "unshare") or namespaces()),
    "acme.sh": (AcmeSh, missing("acme.sh", "curl")),
    "dehydrated": (Dehydrated, missing("dehydrated", "curl")),
}


@pytest.fixture
def server(deployment: Deployment) -> Server:
    """What clients are told."""
    return Server(deployment.endpoints["acme_directory"], Path(deployment.endpoints["tls_ca_bundle"]))


@pytest.fixture
def web(deployment: Deployment, tmp_path: Path) -> Iterator[WebRoot]:
    """The web root of the name that is asked for."""
    with WebRoot(tmp_path / "web", deployment.http01_port) as serving:
        yield serving


@pytest.fixture
def relying(server: Server, tmp_path: Path) -> Relying:
    """A relying party that trusts the TLS bundle."""
    return Relying(server.bundle, tmp_path)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A DNS name of this test alone."""
    return re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:60] + ".pqcpki.test"


def documented(page: str, program: str, values: Mapping[str, object]) -> list[str]:
    """The commands for a program on a page of docs/acme, with values of our own."""
    found = (block.commands for block in blocks(ROOT / "docs/acme" / page) if block.marker == OURS)
    (commands,) = (one for one in found if one[-1].startswith(program))
    return [
        functools.reduce(lambda text, item: text.replace(item[0], str(item[1])), values.items(), one)
        for one in commands
    ]


def lego() -> None:
    """Skip where there is no lego."""
    if absent := missing("lego"):
        pytest.skip(absent)


def certificate(result: Result) -> x509.Certificate:
    """The certificate itself."""
    return x509.load_pem_x509_certificate(result.leaf.read_bytes())


def dns_names(found: x509.Certificate) -> set[str]:
    """The DNS names in it."""
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(names.get_values_for_type(x509.DNSName))


@pytest.mark.requirement("rfc8555-6.1-01", "rfc8555-6.1-02")
def test_old_tls_is_refused(deployment: Deployment) -> None:
    """The public listener answers TLS 1.1 with the alert protocol_version, takes TLS 1.2 (RFC 7525), no plain HTTP."""
    address = urlsplit(deployment.endpoints["acme_directory"]).netloc
    command = ("s_client", "-connect", address, "-cipher", "DEFAULT@SECLEVEL=0")
    assert "alert protocol version" in openssl(*command, "-tls1_1", check=False)
    assert "TLSv1.2" in openssl(*command, "-tls1_2")
    host, port = address.rsplit(":", 1)
    answered = b""
    with socket.create_connection((host, int(port)), timeout=10) as plain, contextlib.suppress(ConnectionResetError):
        plain.sendall(b"GET /acme/directory HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answered = plain.recv(1000)
    assert b"HTTP/" not in answered


@pytest.mark.parametrize("program", CLIENTS)
def test_issue_renew_revoke(program: str, server: Server, web: WebRoot, relying: Relying, name: str) -> None:
    """A client gets a certificate, renews it, and revokes the new one; the old one stays good."""
    make, absent = CLIENTS[program]
    if absent:
        pytest.skip(absent)
    client = make(web.root.parent / program, server, web)
    first = client.issue(name)
    old = certificate(first)
    assert dns_names(old) == {name}
    assert relying.verify(first.leaf, first.chain).strip().endswith("OK")
    kept = Result(relying.directory / "old.pem", relying.directory / "old-chain.pem")
    kept.leaf.write_bytes(first.leaf.read_bytes())
    kept.chain.write_bytes(first.chain.read_bytes())
    second = client.renew(name)
    new = certificate(second)
    assert new.serial_number != old.serial_number
    assert dns_names(new) == {name}
    revoked = relying.directory / "revoked.pem"
    revoked.write_bytes(second.leaf.read_bytes())
    client.revoke(name)
    assert "Cert Status: revoked" in relying.ocsp(revoked, kept.chain)
    assert "Cert Status: good" in relying.ocsp(kept.leaf, kept.chain)


@pytest.mark.parametrize("page", ["README.md", "clients.md"])
def test_the_commands_for_lego(
    page: str, deployment: Deployment, server: Server, relying: Relying, name: str, tmp_path: Path
) -> None:
    """The documented commands, with servers of lego's own for http-01 and tls-alpn-01, lead to a good certificate."""
    lego()
    ports = {"http": deployment.http01_port, "tls": deployment.tlsalpn01_port}
    own = {f" --{kind} ": f" --{kind} --{kind}.port 127.0.0.1:{port} " for kind, port in ports.items()}
    told = {"https://localhost:4000/acme/directory": server.directory, "pki/trust/tls.pem": server.bundle}
    commands = documented(
        page,
        "lego",
        {"DIRECTORY": server.directory, "BUNDLE": server.bundle, **told, **own, "host.example.internal": name},
    )
    run(["bash", "-euc", "\n".join((f"cd {shlex.quote(str(tmp_path))}", *commands))])
    (leaf,) = (path for path in tmp_path.rglob(f"{name}.crt"))
    result = Result(leaf, leaf.with_name(f"{name}.issuer.crt"))
    assert dns_names(certificate(result)) == {name}
    revoked = any(command.endswith("revoke --keep") for command in commands)
    assert f"Cert Status: {'revoked' if revoked else 'good'}" in relying.ocsp(result.leaf, result.chain)


def test_lego_by_dns_01(
    dns: DnsProcess, server: Server, web: WebRoot, relying: Relying, name: str, tmp_path: Path
) -> None:
    """A wildcard is proven by TXT records that its hook program sets and takes away."""
    lego()
    hook = tmp_path / "hook.sh"
    hook.write_text(f'#!/bin/sh\nexec {sys.executable} {SUPPORT / "dns_hook.py"} "$1" {dns.records_file} "$2" "$3"\n')
    hook.chmod(0o700)
    challenge = ["--dns", "exec", "--dns.disable-cp", "--dns.resolvers", dns.address]
    client = Lego(tmp_path / "lego", server, web, challenge=challenge, environment={"EXEC_PATH": str(hook)})
    result = client.issue(f"*.{name}")
    assert dns_names(certificate(result)) == {f"*.{name}"}
    assert relying.verify(result.leaf, result.chain).strip().endswith("OK")


def test_the_acme_library(
    certbot_command: Path, server: Server, web: WebRoot, relying: Relying, name: str, tmp_path: Path
) -> None:
    """Python's acme library registers, issues, renews, revokes and ends its account."""
    script = SUPPORT / "acme_library.py"
    command: list[str | Path] = [certbot_command.with_name("python"), script, server.directory, web.challenges]
    run([*command, name, tmp_path], {"REQUESTS_CA_BUNDLE": str(server.bundle)})
    first, second = (split(tmp_path / f"{which}.pem", tmp_path / which) for which in ("first", "second"))
    assert "Cert Status: good" in relying.ocsp(first.leaf, first.chain)
    assert "Cert Status: revoked" in relying.ocsp(second.leaf, second.chain)


def test_an_external_account_and_a_profile(
    deployment: Deployment, server: Server, web: WebRoot, relying: Relying, name: str, tmp_path: Path, certbot: Certbot
) -> None:
    """Clients (lego, certbot, ours) register with one external account; two ask for the short-lived profile."""
    lego()
    created = deployment.ztca("eab", "create", "--dir", str(deployment.directory), "--name", name, "--json")
    external = json.loads(created.stdout)
    kid, mac = external["kid"], external["mac_key"]
    options = ["--eab", "--kid", kid, "--hmac", mac]
    result = Lego(tmp_path / "lego", server, web, options=options).issue(name)
    assert relying.verify(result.leaf, result.chain).strip().endswith("OK")
    binding = ["--eab-kid", kid, "--eab-hmac-key", mac]
    arguments = [*certbot.certonly(name), "--webroot", "--webroot-path", str(web.root), *binding]
    assert "rejectedIdentifier" in certbot.fail(*arguments, "-d", "other.pqcpki.test")
    certbot.succeed(*arguments, "--required-profile", "short-lived")
    days = certificate(Result(certbot.live(name) / "cert.pem", certbot.live(name) / "chain.pem"))
    assert (days.not_valid_after_utc - days.not_valid_before_utc).days < 7
    (secret := tmp_path / "mac").write_text(mac)
    asking = ("acme", "request", "--server", server.directory, "--ca-bundle", str(server.bundle), "--domain", name)
    by = ("--eab-kid", kid, "--eab-mac-key-file", str(secret), "--profile", "short-lived", "--webroot", str(web.root))
    (own,) = json.loads(deployment.ztca(*asking, *by, "--out", str(tmp_path / "own"), "--json").stdout)["certificates"]
    ours = x509.load_pem_x509_certificates(Path(own["certificate"]).read_bytes())[0]
    assert (ours.not_valid_after_utc - ours.not_valid_before_utc).days < 7


async def test_a_classical_and_a_post_quantum_certificate_from_one_proof(
    deployment: Deployment, server: Server, web: WebRoot, relying: Relying, name: str, tmp_path: Path
) -> None:
    """An ML-DSA-65 account proves a name once, and gets an ECDSA and an ML-DSA-65 certificate for it."""

    async def solve(challenge: Challenge) -> None:
        (web.challenges / challenge.token).write_text(challenge.key_authorization)

    async with http_client(str(server.bundle)) as http:
        client = AcmeClient(http, server.directory, JoseKey.generate("ML-DSA-65"))
        await client.register()
        first = await client.obtain([name], make_csr([name], ec.generate_private_key(ec.SECP256R1())), solve)
        paired = await client.new_order([name])
        assert (paired.status, paired.body["authorizations"]) == ("ready", first.order.body["authorizations"])
        finalized = await client.finalize(paired, make_csr([name], mldsa.MLDSA65PrivateKey.generate()))
        chains = {"ecdsa": first.pem, "mldsa": await client.download(finalized)}
    for family, pem in chains.items():
        bundle = tmp_path / f"{family}.pem"
        bundle.write_text(pem)
        leaf, issuer = x509.load_pem_x509_certificates(pem.encode())[:2]
        leaf.verify_directly_issued_by(issuer)
        assert leaf.signature_algorithm_oid.dotted_string.startswith(SIGNED_BY[family])
        assert dns_names(leaf) == {name}
    wheel_verifies(deployment.directory / "trust/root-mldsa.pem", chains["mldsa"].encode())
    classical = split(tmp_path / "ecdsa.pem", tmp_path / "ecdsa")
    assert relying.verify(classical.leaf, classical.chain).strip().endswith("OK")


def test_our_own_client(
    deployment: Deployment, server: Server, web: WebRoot, relying: Relying, name: str, tmp_path: Path
) -> None:
    """As documented, `ztca acme` gets a certificate of each kind by one proof, renews what is due, and revokes."""
    out = tmp_path / "own"
    told = {"DIRECTORY": server.directory, "BUNDLE": server.bundle, "WEBROOT": web.root, "./host": out}
    commands = documented("clients.md", "ztca", {**told, "host.example.internal": name})
    request, renew, revoke = (shlex.split(command)[1:] for command in commands)
    asked = deployment.ztca(*request, "--json")
    assert asked.stderr.count("proving") == 1
    first = {one["key_type"]: one for one in json.loads(asked.stdout)["certificates"]}
    assert list(first) == ["ecdsa-p256", "ml-dsa-65"]
    assert json.loads(deployment.ztca(*renew, "--json").stdout) == {"certificates": []}
    old = split(Path(first["ecdsa-p256"]["certificate"]), tmp_path / "old")
    again = json.loads(deployment.ztca(*renew, "--force", "--json").stdout)["certificates"]
    assert {one["serial"] for one in again}.isdisjoint(one["serial"] for one in first.values())
    new = split(out / "ecdsa-p256/cert.pem", tmp_path / "new")
    assert relying.verify(new.leaf, new.chain).strip().endswith("OK")
    deployment.ztca(*revoke)
    assert "Cert Status: revoked" in relying.ocsp(new.leaf, new.chain)
    assert "Cert Status: good" in relying.ocsp(old.leaf, old.chain)
    post_quantum = (out / "ml-dsa-65/cert.pem").read_bytes()
    wheel_verifies(deployment.directory / "trust/root-mldsa.pem", post_quantum)
    assert dns_names(x509.load_pem_x509_certificate(post_quantum)) == {name}
