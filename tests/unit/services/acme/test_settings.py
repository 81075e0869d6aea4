from __future__ import annotations

import json
from ipaddress import ip_network
from pathlib import Path

import pytest

from services.acme.app import service_rules
from services.acme.settings import AcmeSettings
from services.ca.client.public_certificate import public_names
from services.chassis.errors import SettingsError
from services.chassis.settings import load_settings

TEXT = """
state_dir = "/var/lib/acme"
database_url = "sqlite:////var/lib/acme/acme.sqlite3"
policy_file = "/etc/policy.toml"
ca_url = "https://localhost:5000/"
ca_status_url = "http://127.0.0.1:5080"
trust_bundle = "/etc/roots.pem"
issuers_directory = "/etc/issuers"
tls_certificate = "/etc/cert.pem"
tls_key = "/etc/key.pem"
audit_key = "file:/etc/audit.key"
passphrase_file = "/etc/passphrase"
"""


def load(tmp_path: Path, extra: str = "") -> AcmeSettings:
    """Settings from a file with some more lines."""
    path = tmp_path / "acme.toml"
    path.write_text(TEXT + extra)
    return load_settings(AcmeSettings, path)


@pytest.mark.requirement("rfc8555-8.3-04", "rfc8737-3-08")
def test_defaults(tmp_path: Path) -> None:
    """Without a word the server listens on 4000, dials standard ports, and dials no reserved address."""
    settings = load(tmp_path)
    assert (settings.port, settings.ops_port, settings.http01_port, settings.tlsalpn01_port) == (4000, 4090, 80, 443)
    assert settings.allowed_networks == ()
    assert settings.ca_url == "https://localhost:5000"
    assert settings.tls_names == ("localhost", "127.0.0.1", "::1")
    assert service_rules(settings).orders.lifetime == 7 * 86400


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are comma separated in the environment, which wins over the file."""
    monkeypatch.setenv("PQCPKI_ACME_ALLOWED_NETWORKS", "127.0.0.0/8, ::1/128")
    monkeypatch.setenv("PQCPKI_ACME_TLS_NAMES", "acme.example,10.0.0.1")
    monkeypatch.setenv("PQCPKI_ACME_RESOLVER", "127.0.0.1:5353")
    settings = load(tmp_path, 'resolver = "9.9.9.9:53"\n')
    assert settings.allowed_networks == (ip_network("127.0.0.0/8"), ip_network("::1/128"))
    assert settings.tls_names == ("acme.example", "10.0.0.1")
    assert settings.resolver == "127.0.0.1:5353"


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('external_url = "acme.example"', "external_url"),
        ('external_url = "https://acme.example/acme"', "external_url"),
        ('external_url = "https://acme.example?x"', "external_url"),
        ('external_url = "ftp://acme.example"', "external_url"),
        ('resolver = "127.0.0.1"', "resolver"),
        ('resolver = ":53"', "resolver"),
        ('resolver = "127.0.0.1:dns"', "resolver"),
        ('allowed_networks = ["127.0.0.1/8"]', "allowed_networks"),
        ('allowed_networks = "everything"', "allowed_networks"),
        ("allowed_networks = 7", "allowed_networks"),
        ("http01_port = 0", "http01_port"),
        ("port = 70000", "port"),
        ("hold_seconds = -1", "hold_seconds"),
        ("validation_timeout_seconds = 0", "validation_timeout_seconds"),
        ("max_identifiers = 0", "max_identifiers"),
        ('challenges = ["dns-02"]', "challenges"),
        ("challenges = []", "challenges"),
        ('challenges = ["dns-01", "dns-persist-01"]', "caa_identities"),
    ],
)
def test_nonsense_names_its_field(tmp_path: Path, line: str, field: str) -> None:
    """A value that makes no sense is refused at start with the name of its field."""
    with pytest.raises(SettingsError, match=field):
        load(tmp_path, line + "\n")


def test_public_names() -> None:
    """The public certificate covers the settings' names and the host of the external URL, addresses as addresses."""
    names = public_names(("localhost", "127.0.0.1", "::1"), "https://acme.example:4000")
    assert names.dns == ("acme.example", "localhost")
    assert [str(address) for address in names.ip] == ["127.0.0.1", "::1"]
    assert public_names((), "https://[::1]:4000").dns == ()


@pytest.mark.requirement(
    "rfc8555-7.1.1-03",
    "dns-persist-3.1-02",
    "dns-persist-3.1-03",
    "dns-persist-3.1-04",
    "dns-persist-3.1-06",
    "dns-persist-3.1-08",
)
@pytest.mark.parametrize(
    "names",
    [["b\u00fccher.example"], ["ca.example."], ["ca..example"], [f"{'a' * 60}." * 5 + "example"], list("abcdefghijk")],
    ids=["unicode", "trailing dot", "empty label", "too long", "too many"],
)
def test_issuer_names_are_in_normal_form(tmp_path: Path, names: list[str]) -> None:
    """At most ten names of A-labels without trailing dot, in lower case, and so in the directory as in CAA checks."""
    settings = load(tmp_path, 'caa_identities = ["CA.Example"]\n')
    assert settings.caa_identities == service_rules(settings).meta.caa_identities == ("ca.example",)
    with pytest.raises(SettingsError, match="caa_identities"):
        load(tmp_path, f"caa_identities = {json.dumps(names, ensure_ascii=False)}\n")


@pytest.mark.requirement("dns-persist-3.1-05")
def test_dns_persist_01_needs_a_name_of_the_ca(tmp_path: Path) -> None:
    """The challenge is not offered where no record could name the CA."""
    with pytest.raises(SettingsError, match="dns-persist-01 needs caa_identities"):
        load(tmp_path, 'challenges = ["dns-persist-01"]\n')


def test_challenges_of_the_deployment(tmp_path: Path) -> None:
    """Every type but dns-persist-01 is offered by default; that one needs names that its records can name."""
    assert load(tmp_path).challenges == ("http-01", "dns-01", "tls-alpn-01", "dns-account-01")
    told = load(tmp_path, 'challenges = ["dns-persist-01"]\ncaa_identities = ["ca.example"]\n')
    assert told.challenges == ("dns-persist-01",)
