"""An issuing CA rolls to a new key, since the token takes none in: killed half way, carried on, and the old file's end.

The way back, and what follows it, is in tests/contract/test_keys_commands.py.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from services.ca.layout import Layout
from services.ca.settings import CaSettings
from services.ca.toml_text import table
from services.chassis.settings import load_settings
from tests.support.backend_world import WorldMissingError
from tests.support.deployment import Deployment, DnsProcess
from tests.support.openssl import Relying
from tests.support.softhsm import new_softhsm

OLD, NEW = "issuing-ecdsa", "issuing-ecdsa-2"
ROLL = ("--to", "softhsm", "--issuer", OLD)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, dns: DnsProcess) -> Deployment:
    """A deployment with file keys and one certificate; each test goes on where the one before it stopped."""
    directory = tmp_path_factory.mktemp("roll")
    try:
        token = new_softhsm(directory)
    except WorldMissingError as error:
        pytest.skip(str(error))
    backend = token.settings(allow_import=False).model_dump(mode="json", exclude_defaults=True)
    (directory / "backends.toml").write_text(table("backends", backend))
    deployment = Deployment(directory / "state", dns).init().up()
    try:
        issue(deployment, "old")
    finally:
        assert deployment.stop() == []
    return deployment


def keys(deployment: Deployment, command: str, *options: str, check: bool = True) -> Any:  # noqa: ANN401 - JSON or text
    """`ztca keys COMMAND`: what it answers, or its complaint."""
    backends = ("--signer-backends", str(deployment.directory.parent / "backends.toml")) if command == "migrate" else ()
    where = ("--dir", str(deployment.directory), *backends)
    done = deployment.ztca("keys", command, *where, *options, "--json", check=check)
    return json.loads(done.stdout) if check else done.stderr


def issue(deployment: Deployment, name: str) -> None:
    """A P-256 certificate, in a directory beside the deployment."""
    out = deployment.directory.parent / name
    where = ("--dir", str(deployment.directory), "--out", str(out))
    deployment.ztca("issue", name, *where, "--key", "ecdsa-p256")
    leaf, issuer = x509.load_pem_x509_certificates((out / "cert.pem").read_bytes())
    (out / "leaf.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    (out / "issuer.pem").write_bytes(issuer.public_bytes(Encoding.PEM))


def issuer_of(deployment: Deployment, name: str) -> str:
    """Who issued it, by the path of its CRL."""
    leaf = x509.load_pem_x509_certificate((deployment.directory.parent / name / "leaf.pem").read_bytes())
    points = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert points[0].full_name
    return str(points[0].full_name[0].value).rpartition("/")[2]


def status(deployment: Deployment, name: str) -> tuple[str, str]:
    """What openssl says of it, verifying chain and CRLs, and by OCSP."""
    out = deployment.directory.parent / name
    relying = Relying(Layout(deployment.directory).tls_ca_bundle, out)
    chain = relying.verify(out / "leaf.pem", out / "issuer.pem", check=False)
    return chain, relying.ocsp(out / "leaf.pem", out / "issuer.pem")


def is_good(deployment: Deployment, name: str) -> bool:
    """It verifies with the CRLs, and OCSP calls it good."""
    chain, ocsp = status(deployment, name)
    return "leaf.pem: OK" in chain and "Cert Status: good" in ocsp


def is_revoked(deployment: Deployment, name: str) -> bool:
    """Its CRL and OCSP say so."""
    chain, ocsp = status(deployment, name)
    return "certificate revoked" in chain and "Cert Status: revoked" in ocsp


def revoke(deployment: Deployment, name: str) -> None:
    """Revoke it, and have the CRLs published."""
    leaf = x509.load_pem_x509_certificate((deployment.directory.parent / name / "leaf.pem").read_bytes())
    where = ("--dir", str(deployment.directory), "--serial", f"{leaf.serial_number:x}")
    deployment.ztca("revoke", *where, "--reason", "superseded")


def in_force(deployment: Deployment) -> dict[str, bool]:
    """Whether each ECDSA issuer issues, and the trust directory's names follow the settings."""
    layout = Layout(deployment.directory)
    issuers = load_settings(CaSettings, layout.settings("ca")).issuers
    assert {path.stem for path in layout.issuers.glob("*.pem")} == {item.id for item in issuers}
    return {item.id: not item.retired for item in issuers if item.family == "ecdsa"}


def test_the_rehearsal_says_which_it_will_be(stopped: Deployment) -> None:
    """The token refuses the import, and the sentence names --roll; with it the rehearsal changes nothing."""
    before = Layout(stopped.directory).settings("ca").read_text()
    assert "--roll" in keys(stopped, "migrate", *ROLL, "--rehearse", check=False)
    assert keys(stopped, "migrate", *ROLL, "--rehearse", "--roll") == {"rehearsal": True, "rolled": []}
    assert Layout(stopped.directory).settings("ca").read_text() == before


def test_a_roll_killed_half_way_is_taken_up_again(stopped: Deployment) -> None:
    """SIGKILL when key and certificate are there: the old issuer is in force, and the next attempt takes both."""
    options = ["--dir", str(stopped.directory), "--signer-backends", str(stopped.directory.parent / "backends.toml")]
    stopped.ztca_killed(f"{OLD} is followed by {NEW}", "keys", "migrate", *options, *ROLL, "--roll")
    assert in_force(stopped) == {OLD: True}
    own = Layout(stopped.directory).own_certificate(NEW).read_bytes()
    (rolled,) = keys(stopped, "migrate", *ROLL, "--roll")["rolled"]
    assert (rolled["successor"], rolled["to"]) == (NEW, f"signer-hsm:ca.{NEW}/1")
    assert Layout(stopped.directory).own_certificate(NEW).read_bytes() == own
    assert in_force(stopped) == {OLD: False, NEW: True}


def test_new_leaves_have_the_new_chain_and_old_ones_stay_revocable(stopped: Deployment) -> None:
    """By openssl: both chains verify with their own CRLs and OCSP; the old one's CRL takes a revocation."""
    Layout(stopped.directory).issuers.joinpath(f"{NEW}.pem").unlink()  # as if killed right behind the switch
    stopped.up()
    try:
        issue(stopped, "new")
        assert (issuer_of(stopped, "old"), issuer_of(stopped, "new")) == (OLD, NEW)
        assert is_good(stopped, "old")
        assert is_good(stopped, "new")
        revoke(stopped, "old")
        assert is_revoked(stopped, "old")
        assert is_good(stopped, "new")
    finally:
        assert stopped.stop() == []
    assert in_force(stopped) == {OLD: False, NEW: True}


def test_the_file_stays_while_it_is_needed(stopped: Deployment) -> None:
    """Certificates below the retired issuer are valid: not even --now destroys its key."""
    assert "are valid until" in keys(stopped, "destroy-files", "--now", check=False)
    assert Layout(stopped.directory).key("ca", OLD).exists()


def test_a_retired_issuer_ends_with_its_last_certificate(stopped: Deployment) -> None:
    """Once nothing below it is valid, its files are destroyed, and the audit logs verify."""
    layout = Layout(stopped.directory)
    with closing(sqlite3.connect(layout.database)) as database, database:  # time passes
        database.execute(
            "UPDATE certificates SET not_after = 1 WHERE issuer = ? AND profile <> 'ocsp-responder'", [OLD]
        )
    gone = keys(stopped, "destroy-files", "--now")["files"]
    assert [item["file"] for item in gone] == [str(layout.key("ca", name)) for name in (f"ocsp-{OLD}", OLD)]
    assert not layout.key("ca", OLD).exists()
    assert in_force(stopped) == {NEW: True}
    assert "nothing to go back to" in keys(stopped, "rollback", check=False)
    stopped.ztca("audit", "verify", str(stopped.directory))
