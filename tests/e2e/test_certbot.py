"""A real certbot against a real deployment; a real openssl judges the result."""

import asyncio
import json
import re
import shlex
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.certbot import Certbot
from tests.support.deployment import Deployment, DnsProcess
from tests.support.http_challenge import HttpChallengeServer
from tests.support.openssl import Relying, openssl

HOOK = Path(__file__).parents[1] / "support" / "dns_hook.py"


@pytest.fixture
def relying(deployment: Deployment, tmp_path: Path) -> Relying:
    """A relying party that trusts the TLS bundle."""
    return Relying(Path(deployment.endpoints["tls_ca_bundle"]), tmp_path)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A DNS name of this test alone."""
    return re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:60] + ".pqcpki.test"


def certificate(live: Path) -> x509.Certificate:
    """The certificate in a `live` directory."""
    return x509.load_pem_x509_certificate((live / "cert.pem").read_bytes())


def dns_names(live: Path) -> list[str]:
    """The DNS names in it."""
    names = certificate(live).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return sorted(names.get_values_for_type(x509.DNSName))


def dns_hooks(dns: DnsProcess) -> list[str]:
    """Certbot's arguments for dns-01 by hook scripts."""
    add, remove = (shlex.join([sys.executable, str(HOOK), verb, str(dns.records_file)]) for verb in ("add", "remove"))
    return ["--manual", "--preferred-challenges", "dns", "--manual-auth-hook", add, "--manual-cleanup-hook", remove]


def test_an_external_account_from_its_making_to_its_end(certbot: Certbot, deployment: Deployment, name: str) -> None:
    """`ztca eab create` gives what certbot takes; operators find the account by it, and a revocation stops it."""
    directory = str(deployment.directory)
    made = json.loads(deployment.ztca("eab", "create", "--dir", directory, "--name", name, "--json").stdout)
    binding = ["--eab-kid", made["kid"], "--eab-hmac-key", made["mac_key"]]
    refused = certbot.fail(*certbot.certonly(f"not-{name}"), "--standalone", *binding)
    assert "does not allow this name" in refused
    found = deployment.ztca("acme", "accounts", "list", "--dir", directory, "--eab-kid", made["kid"], "--json").stdout
    (account,) = json.loads(found)["accounts"]
    told = deployment.ztca("eab", "revoke", made["kid"], "--dir", directory, "--deactivate-accounts").stdout
    assert "accounts deactivated: 1" in told
    again = deployment.ztca("acme", "accounts", "deactivate", account["url"], "--dir", directory, check=False)
    assert (again.returncode, again.stderr) == (1, "ztca: this account is deactivated already\n")


def test_account_from_registration_to_deactivation(certbot: Certbot) -> None:
    """An account is registered, shown, updated and deactivated; afterwards certbot knows none."""
    assert "Account registered" in certbot.register()
    assert "Account URL: https://" in certbot.succeed("show_account")
    assert "updated" in certbot.succeed("update_account", "--email", "admin@pqcpki.test", "--no-eff-email").lower()
    assert "admin@pqcpki.test" in certbot.succeed("show_account")
    assert "deactivated" in certbot.succeed("unregister").lower()
    assert "Could not find an existing account" in certbot.fail("show_account")


@pytest.mark.parametrize(("key_type", "expected"), [("ecdsa", ec.EllipticCurvePublicKey), ("rsa", rsa.RSAPublicKey)])
def test_standalone_certificate_verifies(
    certbot: Certbot, relying: Relying, name: str, key_type: str, expected: type
) -> None:
    """A certificate for two names by http-01 chains to the bundle, is on no CRL, and OCSP calls it good."""
    live = certbot.standalone(name, f"www.{name}", key_type=key_type)
    leaf, chain = live / "cert.pem", live / "chain.pem"
    assert dns_names(live) == sorted([name, f"www.{name}"])
    assert isinstance(certificate(live).public_key(), expected)
    assert relying.verify(leaf, chain).strip().endswith("OK")
    assert "Cert Status: good" in relying.ocsp(leaf, chain)
    assert "Cert Status: good" in relying.ocsp_by_get(leaf, chain)


def test_wildcard_by_dns01(certbot: Certbot, relying: Relying, dns: DnsProcess, name: str) -> None:
    """A name and its wildcard, with two TXT records at one name, are proven by hook scripts."""
    certbot.succeed(*certbot.certonly(name, f"*.{name}"), *dns_hooks(dns))
    live = certbot.live(name)
    assert dns_names(live) == [f"*.{name}", name]
    assert relying.verify(live / "cert.pem", live / "chain.pem").strip().endswith("OK")


def test_renewal(certbot: Certbot, relying: Relying, name: str) -> None:
    """A forced renewal gives a new key and serial; the old certificate stays good until it is revoked."""
    live = certbot.standalone(name)
    old = certificate(live)
    old_file = live / "old.pem"
    old_file.write_bytes((live / "cert.pem").read_bytes())
    certbot.succeed("renew", "--force-renewal", "--no-random-sleep-on-renew")
    new = certificate(live)
    assert new.serial_number != old.serial_number
    assert new.public_key() != old.public_key()
    for leaf in (live / "cert.pem", old_file):
        assert "Cert Status: good" in relying.ocsp(leaf, live / "chain.pem")


def test_an_incident_renews_a_certificate(certbot: Certbot, deployment: Deployment, name: str) -> None:
    """`certbot renew` leaves a young certificate alone, and renews it once an incident concerns it (RFC 9773)."""
    live = certbot.standalone(name)
    before, directory = certificate(live), str(deployment.directory)
    (serials := certbot.directory / "serials.txt").write_text(f"{before.serial_number:X}\n7\n")
    opening = ("incident", "open", "--dir", directory, "--serials", str(serials), "--reason", "a test")
    dry = json.loads(deployment.ztca(*opening, "--dry-run", "--json").stdout)
    assert (dry["count"], dry["unknown"], dry["certificates"][0]["names"]) == (1, 1, [name])
    told = json.loads(deployment.ztca(*opening, "--explanation-url", "https://a.example/why", "--yes", "--json").stdout)
    certbot.succeed("renew", "--no-random-sleep-on-renew")
    assert certificate(live).serial_number != before.serial_number
    shown = json.loads(deployment.ztca("incident", "show", told["id"], "--dir", directory, "--json").stdout)
    assert shown["progress"] == {"concerned": 1, "replaced": 1, "revoked": 0, "expired": 0, "at_risk": 0}
    assert "is closed" in deployment.ztca("incident", "close", told["id"], "--dir", directory).stdout


def test_renewal_by_dns01(certbot: Certbot, dns: DnsProcess, name: str) -> None:
    """A wildcard is renewed with the hooks that certbot remembered."""
    certbot.succeed(*certbot.certonly(f"*.{name}"), *dns_hooks(dns))
    old = certificate(certbot.live(name)).serial_number
    certbot.succeed("renew", "--force-renewal", "--no-random-sleep-on-renew")
    assert certificate(certbot.live(name)).serial_number != old


@pytest.mark.parametrize("by", ["account", "certificate key"])
def test_revocation_with_a_reason(certbot: Certbot, relying: Relying, name: str, by: str) -> None:
    """Whoever may revoke does, and OCSP (POST and GET) and CRL give the reason at once."""
    live = certbot.standalone(name)
    leaf, chain = live / "cert.pem", live / "chain.pem"
    proof = ["--key-path", str(live / "privkey.pem")] if by == "certificate key" else []
    output = certbot.succeed(
        "revoke", "--cert-path", str(leaf), *proof, "--reason", "keycompromise", "--no-delete-after-revoke"
    )
    assert "successfully revoked" in output
    for answer in (relying.ocsp(leaf, chain), relying.ocsp_by_get(leaf, chain)):
        assert "Cert Status: revoked" in answer
        assert "Revocation Reason: keyCompromise" in answer
    assert "certificate revoked" in relying.verify(leaf, chain, check=False)
    crl = openssl("crl", "-in", relying.directory / "crls.pem", "-noout", "-text")
    assert f"{certificate(live).serial_number:X}" in crl.replace(":", "")
    assert "Key Compromise" in crl


def test_second_revocation_is_refused(certbot: Certbot, name: str) -> None:
    """Revoking twice is answered in words."""
    live = certbot.standalone(name)
    arguments = ["revoke", "--cert-path", str(live / "cert.pem"), "--no-delete-after-revoke"]
    certbot.succeed(*arguments, "--reason", "superseded")
    assert "alreadyRevoked" in certbot.fail(*arguments, "--reason", "keycompromise")


def test_revocation_by_a_stranger_is_refused(
    certbot: Certbot, certbot_command: Path, deployment: Deployment, name: str, tmp_path: Path
) -> None:
    """Another account, which holds no authorization for the name, may not revoke."""
    live = certbot.standalone(name)
    endpoints = deployment.endpoints
    stranger = Certbot(
        certbot_command, tmp_path / "stranger", endpoints["acme_directory"], endpoints["tls_ca_bundle"], 1
    )
    stranger.register()
    refusal = stranger.fail("revoke", "--cert-path", str(live / "cert.pem"), "--no-delete-after-revoke")
    assert "unauthorized" in refusal


def test_public_listener_staples_a_good_answer(deployment: Deployment) -> None:
    """The ACME listener's own certificate verifies, and the staple beside it says good."""
    address = urlsplit(deployment.endpoints["acme_directory"]).netloc
    bundle = deployment.endpoints["tls_ca_bundle"]
    arguments = ["-connect", address, "-servername", "localhost", "-verify_hostname", "localhost", "-CAfile", bundle]
    output = openssl("s_client", *arguments, "-status")
    assert "OCSP Response Status: successful" in output
    assert "Cert Status: good" in output
    assert "Verify return code: 0 (ok)" in output


def test_wrong_answer_is_explained(certbot: Certbot, deployment: Deployment, name: str) -> None:
    """Certbot shows which host gave the wrong answer and how it began."""

    async def refused() -> str:
        server = await HttpChallengeServer().start(deployment.http01_port)
        try:
            server.respond_always(b"not the key authorization")
            return await asyncio.to_thread(certbot.fail, *certbot.certonly(name), *manual_http())
        finally:
            await server.stop()

    output = asyncio.run(refused())
    assert f"the answer of {name} (25 octets) is not the key authorization" in joined(output)
    assert not certbot.live(name).exists()


def test_closed_port_is_explained(certbot: Certbot, deployment: Deployment, name: str) -> None:
    """Certbot shows where the server tried to connect and that it was refused."""
    output = certbot.fail(*certbot.certonly(name), *manual_http())
    assert f"{name} port {deployment.http01_port} (127.0.0.1): Connection refused" in joined(output)


def test_unknown_name_is_explained(certbot: Certbot) -> None:
    """Certbot shows that the name does not exist in DNS."""
    output = certbot.fail(*certbot.certonly("nowhere.example"), *manual_http())
    assert "nowhere.example does not exist (NXDOMAIN" in joined(output)


def test_wrong_txt_record_is_explained(certbot: Certbot, dns: DnsProcess, name: str) -> None:
    """Certbot shows which record is wrong."""
    dns.set(f"_acme-challenge.{name}", TXT=["something else"])
    arguments = ["--manual", "--preferred-challenges", "dns", "--manual-auth-hook", "true"]
    output = certbot.fail(*certbot.certonly(name), *arguments)
    assert f"_acme-challenge.{name} has 1 TXT record, none with the expected value" in joined(output)


def manual_http() -> list[str]:
    """Certbot's arguments for http-01 where nobody puts the answer in place."""
    return ["--manual", "--preferred-challenges", "http", "--manual-auth-hook", "true"]


def joined(output: str) -> str:
    """The text without the line breaks that certbot adds."""
    return " ".join(output.split())
