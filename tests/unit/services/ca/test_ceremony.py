import asyncio
import os
import sqlite3
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from pkicore.clock import SystemClock
from pkicore.crl import VerifiedCrl
from pkicore.errors import KeyAccessError, KeyLockedError
from pkicore.identity import SpiffeId, spiffe_id_of
from pkicore.keys.envelope import unseal
from pkicore.x509.certificate import load_chain
from pkicore.x509.chain import verify_chain
from services.acme.settings import AcmeSettings
from services.ca.ceremony import Progress, hold_ceremony
from services.ca.cli import main
from services.ca.deployment import Deployment, Ports
from services.ca.errors import CeremonyError
from services.ca.layout import Layout
from services.ca.settings import CaSettings
from services.chassis.peer import CallerPolicy
from services.chassis.settings import load_settings
from tests.support.clock import ManualClock

DEPLOYMENT = Deployment("Test", "td.internal", "127.0.0.1", Ports(5000, 5080, 5090, 4000, 4090))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """One PKI for the tests that only look at it."""
    layout = Layout(tmp_path_factory.mktemp("ceremony") / "pki")
    result = run("init", "--dir", str(layout.root), "--trust-domain", "td.internal", "--name", "Test")
    assert result.exit_code == 0, result.output
    return layout


def run(*arguments: str) -> Result:
    """A `ztca` command in this process, on free ports."""
    ports = ("CA_PORT", "CA_HTTP_PORT", "CA_OPS_PORT", "ACME_PORT", "ACME_ADMIN_PORT", "ACME_OPS_PORT")
    return CliRunner().invoke(main, arguments, env={f"PQCPKI_{name}": "0" for name in ports})


def hold(layout: Layout, progress: Progress) -> None:
    """A ceremony in this process."""
    asyncio.run(hold_ceremony(layout, DEPLOYMENT, passphrase_file=None, clock=ManualClock(), progress=progress))


@pytest.mark.parametrize("family", ["ecdsa", "mldsa"])
def test_a_family_is_a_root_and_an_issuing_ca_below_it(made: Layout, family: str) -> None:
    """The issuing CA's certificate chains to the root, may issue end entities only, and names no OCSP responder."""
    (root,) = load_chain(made.root_certificate(family).read_bytes())
    (issuing,) = load_chain(made.issuer_certificate(family).read_bytes())
    issuing.verify_directly_issued_by(root)
    constraints = issuing.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    with pytest.raises(x509.ExtensionNotFound):
        issuing.extensions.get_extension_for_class(x509.ExtendedKeyUsage)


@pytest.mark.parametrize("who", ["service/ca", "service/acme", "operator/admin"])
def test_everybody_has_an_identity(made: Layout, who: str) -> None:
    """Services and operator have ML-DSA certificates for their SPIFFE IDs, and keys that nobody else may read."""
    directory = made.root / "operator" if who.startswith("operator") else made.identity(who.split("/")[1])
    leaf, issuing = load_chain((directory / "cert.pem").read_bytes())
    assert spiffe_id_of(leaf) == SpiffeId("td.internal", f"/{who}")
    roots = load_chain(made.trust_bundle.read_bytes())
    verify_chain(leaf, (issuing,), roots, leaf.not_valid_before_utc, "client")
    assert stat.S_IMODE((directory / "key.pem").stat().st_mode) == 0o600
    assert issuing.subject.rfc4514_string() == "CN=Test issuing mldsa"


def test_nothing_secret_is_open_to_others(made: Layout) -> None:
    """Keys and passphrase have mode 0600, and their directories are closed."""
    secrets = [*made.root.rglob("*.key"), *made.root.rglob("key.pem"), made.passphrase]
    assert len(secrets) >= 12
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}
    assert stat.S_IMODE(made.root.stat().st_mode) == 0o700


def test_the_roots_keys_are_offline_and_sealed(made: Layout) -> None:
    """No setting of a service names a root key; the envelope opens with the passphrase and with no other."""
    sealed = made.root_key("ecdsa").read_bytes()
    (root,) = load_chain(made.root_certificate("ecdsa").read_bytes())
    assert unseal(sealed, made.passphrase.read_bytes().strip()).public_key() == root.public_key()
    with pytest.raises(KeyLockedError):
        unseal(sealed, b"guess")
    assert "offline" not in (made.config / "ca.toml").read_text()


def test_whatever_was_issued_is_in_the_ledger(made: Layout) -> None:
    """Issuing CAs, responders and identities are rows of the CA's own database, each with its audit records."""
    with sqlite3.connect(made.database) as database:
        profiles = [row[0] for row in database.execute("SELECT profile FROM certificates WHERE certificate NOT NULL")]
        events = [row[0] for row in database.execute("SELECT event FROM audit_log")]
    database.close()
    assert sorted(profiles) == ["client"] + ["issuing-ca"] * 2 + ["ocsp-responder"] * 2 + ["service"] * 2
    assert events.count("certificate.intent") == events.count("certificate.issued") == len(profiles)
    assert events.count("root.made") == 2
    assert events.count("crl.published") == 4


def test_first_crls_are_there(made: Layout) -> None:
    """Roots and issuing CAs have CRL number 1, issuing CAs the delta to it, too; the roots' last a year."""
    with sqlite3.connect(made.database) as database:
        rows = database.execute("SELECT issuer, number, this_update, next_update, der FROM crls").fetchall()
    database.close()
    assert {row[0]: row[1] for row in rows} == dict.fromkeys(
        ("issuing-ecdsa", "issuing-ecdsa/delta", "issuing-mldsa", "issuing-mldsa/delta", "root-ecdsa", "root-mldsa"), 1
    )
    year = next(row for row in rows if row[0] == "root-mldsa")
    assert year[3] - year[2] == 365 * 86400
    (root,) = load_chain(made.root_certificate("mldsa").read_bytes())
    VerifiedCrl.verify(year[4], root, SystemClock().now())


def test_the_settings_are_good_for_the_services(made: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each service reads its file without complaint, every path in it exists, and ports differ."""
    for name in list(os.environ):
        if name.startswith("PQCPKI_"):
            monkeypatch.delenv(name)
    ca = load_settings(CaSettings, made.config / "ca.toml")
    acme = load_settings(AcmeSettings, made.config / "acme.toml")
    for path in (ca.tls_certificate, ca.tls_key, ca.profiles_file, ca.policy_file, ca.passphrase_file):
        assert path.exists()
    for path in (acme.tls_certificate, acme.tls_key, acme.trust_bundle, acme.issuers_directory, acme.passphrase_file):
        assert path.exists()
    assert len({ca.port, ca.http_port, ca.ops_port, acme.port, acme.ops_port}) == 5
    assert acme.ca_url == f"https://localhost:{ca.port}"
    assert ca.trust_domain == acme.trust_domain == "td.internal"
    CallerPolicy.load(made.policy.read_text())


def test_what_exists_is_not_touched(made: Layout) -> None:
    """A second ceremony in the same place is refused in a sentence, with status 1, and changes nothing."""
    before = made.trust_bundle.read_bytes()
    result = run("init", "--dir", str(made.root))
    assert result.exit_code == 1
    assert "exists" in result.output
    assert made.trust_bundle.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("--trust-domain", "Not A Domain"),
        ("--passphrase-file", "/nonexistent/file"),
        ("--passphrase-file", "/"),
        ("--name", ""),
        ("--name", " "),
        ("--name", "a\nb"),
        ("--name", "a" * 49),
        ("--ca-database-url", "mysql://user@host/name"),
        ("--ca-database-url", "postgresql://user@127.0.0.1:1/name"),
    ],
)
def test_a_ceremony_that_cannot_be_held_leaves_nothing(tmp_path: Path, arguments: tuple[str, str]) -> None:
    """Bad input is one sentence and status 1, and no directory, finished or not."""
    result = run("init", "--dir", str(tmp_path / "pki"), *arguments)
    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_ceremony_that_is_cut_short_leaves_nothing(tmp_path: Path) -> None:
    """An interruption in the middle leaves neither the directory nor its unfinished twin."""

    def interrupt(line: str) -> None:
        if line.startswith("issuing CA"):
            raise KeyboardInterrupt

    layout = Layout(tmp_path / "pki")
    with pytest.raises(KeyboardInterrupt):
        hold(layout, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_passphrase_and_offline_directory_may_be_elsewhere(tmp_path: Path) -> None:
    """The passphrase is read from the operator's file and copied nowhere; root keys go to their own directory."""
    passphrase = tmp_path / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text("correct horse battery staple\n")
    layout = Layout(tmp_path / "pki", tmp_path / "safe")
    where = ("--passphrase-file", str(passphrase), "--offline", str(tmp_path / "safe"))
    result = run("init", "--dir", str(layout.root), *where)
    assert result.exit_code == 0, result.output
    assert not (layout.root / "offline").exists()
    assert not layout.passphrase.exists()
    (root,) = load_chain(layout.root_certificate("mldsa").read_bytes())
    private_key = unseal(layout.root_key("mldsa").read_bytes(), b"correct horse battery staple")
    assert private_key.public_key() == root.public_key()
    texts = [path.read_bytes() for path in layout.root.rglob("*") if path.is_file()]
    assert not any(b"correct horse" in text for text in texts)


def test_an_open_passphrase_file_is_refused(tmp_path: Path) -> None:
    """A passphrase that others may read is none."""
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("secret")
    passphrase.chmod(0o644)
    result = run("init", "--dir", str(tmp_path / "pki"), "--passphrase-file", str(passphrase))
    assert result.exit_code == 1
    assert "chmod 600" in result.output


def test_a_root_key_is_never_overwritten(tmp_path: Path) -> None:
    """Keys in the offline directory stop the ceremony before it begins."""
    layout = Layout(tmp_path / "pki", tmp_path / "safe")
    layout.offline.mkdir()
    layout.root_key("ecdsa").write_text("a root key")
    with pytest.raises((CeremonyError, KeyAccessError)):
        hold(layout, print)
    assert layout.root_key("ecdsa").read_text() == "a root key"
    assert not layout.root.exists()


def test_a_database_password_is_not_written_down(tmp_path: Path) -> None:
    """A URL with a password is refused, without repeating it, and nothing is made."""
    result = run("init", "--dir", str(tmp_path / "pki"), "--ca-database-url", "postgresql://u:hunter2@h/d")
    assert result.exit_code == 1
    assert "PGPASSFILE" in result.output
    assert "hunter2" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_holds_a_pki_is_not_used_again(tmp_path: Path) -> None:
    """A second ceremony on one ledger is refused, and leaves that ledger as it was."""
    url = f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    assert run("init", "--dir", str(tmp_path / "one"), "--ca-database-url", url).exit_code == 0
    before = (tmp_path / "ledger.sqlite3").read_bytes()
    result = run("init", "--dir", str(tmp_path / "two"), "--ca-database-url", url)
    assert result.exit_code == 1
    assert "empty database" in result.output
    assert not (tmp_path / "two").exists()
    assert (tmp_path / "ledger.sqlite3").read_bytes() == before
    assert load_settings(CaSettings, tmp_path / "one" / "config" / "ca.toml").database_url == url


@pytest.mark.parametrize(
    ("families", "sentence"),
    [("rsa,mldsa", "needs ecdsa"), ("ecdsa", "needs mldsa"), ("ecdsa,mldsa,dsa", "'dsa' is none"), ("", "'' is none")],
    ids=["no ecdsa", "no mldsa", "unknown", "none"],
)
def test_families_that_cannot_be_are_refused(tmp_path: Path, families: str, sentence: str) -> None:
    """The sentence says which is missing, or which there are; nothing is made."""
    result = run("init", "--dir", str(tmp_path / "pki"), "--families", families)
    assert result.exit_code == 1
    assert sentence in result.output
    assert not (tmp_path / "pki").exists()


def test_rsa_bits_without_rsa_are_refused(tmp_path: Path) -> None:
    """The size of a key that nobody makes is a mistake, and nothing is made."""
    result = run("init", "--dir", str(tmp_path / "pki"), "--rsa-bits", "2048")
    assert result.exit_code == 1
    assert "--rsa-bits goes with the family rsa" in result.output
    assert not (tmp_path / "pki").exists()
