"""A CA under `ztca up`, and what openssl, operators and accidents do to it."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.deployment import Deployment, DnsProcess, is_running
from tests.support.fork_server import fork_server
from tests.support.openssl import fetch, openssl


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One running deployment for the whole module."""
    directory = tmp_path_factory.mktemp("ca")
    dns = DnsProcess(directory / "dns.json", {})
    started = Deployment(directory / "state", dns).init().up()
    yield started
    wrong = started.stop()
    dns.stop()
    assert wrong == []


def issue(deployment: Deployment, name: str, out: Path, key: str = "ecdsa-p256") -> str:
    """A client identity for a workload; its serial."""
    made = deployment.ztca("issue", name, "--dir", str(deployment.directory), "--out", str(out), "--key", key, "--json")
    serial: str = json.loads(made.stdout)["serial"]
    return serial


def revoke(deployment: Deployment, serial: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Revoke as an operator does."""
    where = ("--dir", str(deployment.directory))
    return deployment.ztca("revoke", *where, "--serial", serial, "--reason", "keycompromise", check=check)


def parts(out: Path) -> tuple[Path, Path]:
    """The leaf and its issuer as files of their own."""
    leaf, issuer = x509.load_pem_x509_certificates((out / "cert.pem").read_bytes())
    for name, certificate in (("leaf.pem", leaf), ("issuer.pem", issuer)):
        (out / name).write_bytes(certificate.public_bytes(Encoding.PEM))
    return out / "leaf.pem", out / "issuer.pem"


def ocsp(deployment: Deployment, out: Path, *options: str) -> str:
    """What `openssl ocsp` says of the leaf."""
    leaf, issuer = parts(out)
    command = ("-issuer", issuer, "-cert", leaf, "-CAfile", deployment.endpoints["tls_ca_bundle"])
    return openssl("ocsp", *options, *command, "-url", deployment.endpoints["ocsp"])


def verify(deployment: Deployment, out: Path, *, check: bool = True) -> str:
    """What `openssl verify -crl_check_all` says of the leaf."""
    leaf, issuer = parts(out)
    crls = out / "crls.pem"
    crls.write_bytes(
        b"".join(
            x509.load_der_x509_crl(fetch(f"{deployment.endpoints['crl_base']}/{name}")).public_bytes(Encoding.PEM)
            for name in ("issuing-ecdsa", "root-ecdsa")
        )
    )
    root = deployment.endpoints["tls_ca_bundle"]
    return openssl(
        "verify", "-crl_check_all", "-CRLfile", crls, "-CAfile", root, "-untrusted", issuer, leaf, check=check
    )


def test_openssl_sees_a_certificate_live_and_die(deployment: Deployment, tmp_path: Path) -> None:
    """Good by verify and ocsp (SHA-1, SHA-256, nonce or not), then revoked by all of them within seconds."""
    out = tmp_path / "client"
    serial = issue(deployment, "openssl", out)
    assert ": OK" in verify(deployment, out)
    for options in ((), ("-sha256",), ("-no_nonce",)):
        assert "leaf.pem: good" in ocsp(deployment, out, *options)
    revoke(deployment, serial.upper())
    for options in ((), ("-sha256",), ("-no_nonce",)):
        assert "leaf.pem: revoked" in ocsp(deployment, out, *options)
    assert "keyCompromise" in ocsp(deployment, out)
    deadline = time.monotonic() + 5
    while "certificate revoked" not in verify(deployment, out, check=False):
        assert time.monotonic() < deadline, "the CRL does not say so within five seconds"
        time.sleep(0.2)


def test_a_serial_never_issued_is_unknown_to_openssl(deployment: Deployment, tmp_path: Path) -> None:
    """`openssl ocsp -serial` of a made-up number gets unknown."""
    issue(deployment, "neighbour", tmp_path / "client")
    _, issuer = parts(tmp_path / "client")
    command = ("-issuer", issuer, "-serial", "0x1234", "-CAfile", deployment.endpoints["tls_ca_bundle"])
    assert "0x1234: unknown" in openssl("ocsp", *command, "-url", deployment.endpoints["ocsp"])


def test_one_of_many_revocations_wins(deployment: Deployment, tmp_path: Path) -> None:
    """Three operators revoke one serial over mTLS at the same time: one succeeds, two are told that it was revoked."""
    serial = issue(deployment, "raced", tmp_path / "client")
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: revoke(deployment, serial, check=False), range(3)))
    assert sorted(result.returncode for result in results) == [0, 1, 1]
    assert all("revoked before" in result.stderr for result in results if result.returncode)


def test_a_revoked_client_is_refused_by_alert(deployment: Deployment, tmp_path: Path) -> None:
    """Its handshake is accepted before, and refused with the alert certificate_revoked within seconds after."""
    out = tmp_path / "client"
    serial = issue(deployment, "shut-out", out, key="ml-dsa-65")
    shown = ("--cert", str(out / "cert.pem"), "--key", str(out / "key.pem"), "--dir", str(deployment.directory))
    probe = ("probe", deployment.endpoints["ca_internal"], *shown, "--json")
    before = json.loads(deployment.ztca(*probe).stdout)
    assert (before["accepted"], before["group"]) == (True, "X25519MLKEM768")
    assert before["staple"].startswith("good until")
    revoke(deployment, serial)
    deadline = time.monotonic() + 10
    while (result := deployment.ztca(*probe, check=False)).returncode == 0:
        assert time.monotonic() < deadline, "still let in after ten seconds"
    assert json.loads(result.stdout)["verdict"] == "refused by peer: certificate revoked"


def test_crls_are_published_on_demand(deployment: Deployment) -> None:
    """`ztca crl publish` answers with numbers that are public then."""
    numbers = json.loads(deployment.ztca("crl", "publish", "--dir", str(deployment.directory), "--json").stdout)["crls"]
    for name, number in numbers.items():
        crl = x509.load_der_x509_crl(fetch(f"{deployment.endpoints['crl_base']}/{name}"))
        assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number >= number


def test_a_root_crl_is_renewed_while_the_ca_runs(deployment: Deployment) -> None:
    """`ztca ca root-crl` signs the next number; the running CA serves it after its next look."""
    where = ("--dir", str(deployment.directory))
    number = json.loads(deployment.ztca("ca", "root-crl", *where, "--family", "mldsa", "--json").stdout)["number"]
    assert number >= 2
    deployment.ztca("crl", "publish", *where)  # its publisher looks at the roots' CRLs as it wakes
    crl = x509.load_der_x509_crl(fetch(f"{deployment.endpoints['crl_base']}/root-mldsa"))
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == number


def test_a_second_up_is_refused(deployment: Deployment) -> None:
    """One supervisor per state directory, said in a sentence."""
    result = deployment.ztca("up", "--dir", str(deployment.directory), check=False)
    assert result.returncode == 1
    assert "another `ztca up` runs" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("revoke", "--serial", "xyz"), "hex"),
        (("revoke", "--serial", "1234"), "did not issue"),
        (("revoke", "--serial", "1234", "--reason", "because"), "no revocation reason"),
        (("probe", "--cert", "x", "https://localhost:1"), "belong together"),
        (("audit", "verify", "/nonexistent"), "there is no"),
    ],
)
def test_mistakes_are_one_sentence(deployment: Deployment, arguments: tuple[str, ...], said: str) -> None:
    """Status 1, one line that says what is wrong, no trace."""
    where = () if arguments[0] == "audit" else ("--dir", str(deployment.directory))
    result = deployment.ztca(*arguments, *where, check=False)
    assert result.returncode == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_audit_log_is_unbroken_and_a_change_is_found(deployment: Deployment, tmp_path: Path) -> None:
    """Every chain below the directory verifies; an edit, a cut tail and an emptied log are named with status 1."""
    assert "unbroken" in deployment.ztca("audit", "verify", str(deployment.directory)).stdout
    exported = tmp_path / "ca.jsonl"
    exported.write_text(deployment.ztca("audit", "export", "--dir", str(deployment.directory)).stdout)
    assert "unbroken" in deployment.ztca("audit", "verify", str(exported)).stdout
    for damaged in (exported.read_text().replace("ceremony", "burglary", 1), ""):
        exported.write_text(damaged)
        assert deployment.ztca("audit", "verify", str(exported), check=False).returncode == 1
    time.sleep(1.5)  # a checkpoint comes at most once a second
    for number, damage in enumerate(
        (
            "UPDATE audit_log SET actor = 'nobody' WHERE sequence = 3",
            "DELETE FROM audit_log WHERE sequence = (SELECT max(sequence) FROM audit_log)",
            "DELETE FROM audit_log",
        )
    ):
        copy = copied(deployment, tmp_path / str(number))
        with sqlite3.connect(copy / "ca" / "ca.sqlite3") as database:
            database.execute(damage)
        database.close()
        result = deployment.ztca("audit", "verify", str(copy), check=False)
        assert result.returncode == 1, damage
        assert "record" in result.stderr


def copied(deployment: Deployment, target: Path) -> Path:
    """The CA's state as a backup would have it."""
    (target / "ca").mkdir(parents=True)
    with sqlite3.connect(deployment.directory / "ca" / "ca.sqlite3") as source:
        source.execute("VACUUM INTO ?", [str(target / "ca" / "ca.sqlite3")])
    source.close()
    shutil.copy(deployment.directory / "ca" / "audit-checkpoints.jsonl", target / "ca")
    shutil.copytree(deployment.directory / "trust", target / "trust")
    return target


def test_a_killed_ca_comes_back_on_its_ports(deployment: Deployment) -> None:
    """The supervisor replaces a killed process; its URLs stay, its number in endpoints.json is new."""
    before = deployment.endpoints
    os.kill(before["pids"]["ca"], signal.SIGKILL)
    published = deployment.directory / "endpoints.json"
    deadline = time.monotonic() + 30
    while json.loads(published.read_text())["pids"]["ca"] == before["pids"]["ca"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    deployment.endpoints = json.loads(published.read_text())
    assert deployment.endpoints["ca_internal"] == before["ca_internal"]
    assert deployment.endpoints["crl_base"] == before["crl_base"]
    assert fetch(f"{before['crl_base']}/issuing-ecdsa")


def test_a_killed_supervisor_leaves_nothing_running(deployment: Deployment) -> None:
    """`kill -9` of `ztca up` ends its services too, and a new one comes up in the same place."""
    pids = list(deployment.pids.values())
    assert deployment._up is not None
    deployment._up.kill()
    deployment._up.wait(10)
    deadline = time.monotonic() + 5
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, "services outlive their supervisor"
        time.sleep(0.05)
    before = deployment.endpoints
    deployment.up()
    assert deployment.endpoints["ca_internal"] == before["ca_internal"]
    assert deployment.endpoints["crl_base"] == before["crl_base"]


def test_strangers_may_probe(deployment: Deployment, tmp_path: Path) -> None:
    """Away from a deployment a server is described and not verified; with its root it is accepted."""
    command = ["probe", deployment.endpoints["acme_directory"], "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PQCPKI_")}

    def probe(*options: str) -> tuple[int, dict[str, str]]:
        with contextlib.chdir(tmp_path):
            done = fork_server().run("ztca", [*command, *options], environment, timeout=60, check=False)
        return done.returncode, json.loads(done.stdout)

    status, report = probe()
    assert (status, report["verdict"]) == (1, "not verified: no trust bundle")
    assert report["group"] == "X25519MLKEM768"
    assert report["chain"][0] == "CN=localhost"
    assert report["staple"].startswith("good until")
    status, report = probe("--trust", deployment.endpoints["tls_ca_bundle"])
    assert (status, report["verdict"]) == (0, "accepted")
    status, report = probe("--trust", str(deployment.directory / "trust" / "root-mldsa.pem"))
    assert (status, report["verdict"]) == (1, "unable to get local issuer certificate")


def test_a_moved_deployment_comes_up(deployment: Deployment) -> None:
    """After `mv` of the state directory `ztca warm-up`, and then `ztca up`, find everything in the new place."""
    assert deployment.stop() == []
    old = deployment.directory
    deployment.directory = old.with_name("moved")
    old.rename(deployment.directory)
    assert "was moved here" in deployment.ztca("warm-up", "--dir", str(deployment.directory)).stdout
    assert deployment.ztca("warm-up", "--dir", str(deployment.directory)).stdout == ""
    deployment.up()
    assert "unbroken" in deployment.ztca("audit", "verify", str(deployment.directory)).stdout
    assert not old.exists()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config/ca.toml", b"[", "ca.toml is not TOML"),
        ("config/policy.toml", b"\xff\xfe", "policy.toml is not a text"),
        ("config/profiles.toml", b"[", "not TOML"),
        ("ca/keys/issuing-ecdsa.key", b"{", "issuing-ecdsa.key"),
        ("trust/issuers/issuing-ecdsa.pem", b"x", "issuing-ecdsa.pem is no certificate"),
        ("secrets/passphrase", b"wrong", "cannot be opened with this passphrase"),
        ("ca/ca.sqlite3", b"", "not the one of its ceremony"),
        ("ca/ca.sqlite3", b"no database", "file is not a database"),
    ],
)
def test_damage_is_one_sentence(deployment: Deployment, file: str, content: bytes, said: str) -> None:
    """A deployment with a file that makes no sense does not come up, and says in one line which file it is."""
    if deployment._up is not None:
        assert deployment.stop() == []
    path = deployment.directory / file
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        result = deployment.ztca("up", "--dir", str(deployment.directory), check=False)
    finally:
        path.write_bytes(before)
    assert result.returncode == 1
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (deployment.directory / "endpoints.json").exists()


def request_file(folder: Path, *options: str) -> Path:
    """A certificate request that openssl made, for a key of P-256."""
    csr = folder / "request.csr"
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", folder / "request.key")
    openssl("req", "-new", *key, "-out", csr, *options)
    return csr


def test_an_operator_has_a_request_certified(deployment: Deployment, tmp_path: Path) -> None:
    """Names and key are those of the request, the end is the one that was asked for, and the ledger says who asked."""
    if not (deployment.directory / "endpoints.json").exists():  # stopped to be damaged
        deployment.up()
    csr = request_file(tmp_path, "-subj", "/CN=app.example", "-addext", "subjectAltName=DNS:app.example,IP:192.0.2.7")
    out, where = tmp_path / "chain.pem", ("--dir", str(deployment.directory))
    end = datetime.now(UTC).date() + timedelta(days=20)
    said = deployment.ztca("certify", str(csr), *where, "--out", str(out), "--not-after", f"{end}", "--json").stdout
    assert json.loads(said)["names"] == ["dns:app.example", "ip:192.0.2.7"]
    leaf = x509.load_pem_x509_certificates(out.read_bytes())[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["app.example"]
    assert leaf.not_valid_after_utc.date() == end
    assert leaf.public_key() == x509.load_pem_x509_csr(csr.read_bytes()).public_key()
    assert "/operator/admin" in deployment.ztca("show", *where, f"{leaf.serial_number:x}").stdout


def test_an_operator_cannot_have_a_ca_certified(deployment: Deployment, tmp_path: Path) -> None:
    """Nor by the profile, nor by what the request asks for; no file is left."""
    csr = request_file(tmp_path, "-subj", "/CN=app.example", "-addext", "basicConstraints=critical,CA:TRUE")
    for profile in ("sub-ca", "issuing-ca", "ocsp-responder", "server"):
        options = ("--dir", str(deployment.directory), "--out", str(tmp_path / "chain.pem"), "--profile", profile)
        refused = deployment.ztca("certify", str(csr), *options, check=False)
        assert refused.returncode == 1
        assert "ztca: " in refused.stderr
    assert not (tmp_path / "chain.pem").exists()


def test_what_an_operator_was_refused_is_on_record(deployment: Deployment, tmp_path: Path) -> None:
    """A weak key is for the CA to refuse; where the chain finds no place, the CA is not asked."""
    where = ("--dir", str(deployment.directory))
    openssl("req", "-new", "-newkey", "rsa:1024", "-nodes", "-keyout", tmp_path / "key", "-out", tmp_path / "weak.csr",
            "-subj", "/CN=weak.example")  # fmt: skip
    refused = deployment.ztca("certify", str(tmp_path / "weak.csr"), *where, "--out", str(tmp_path / "x"), check=False)
    assert "1024 bits is refused" in refused.stderr
    assert "1024 bits is refused" in deployment.ztca("list", "--refusals", *where).stdout
    csr = request_file(tmp_path, "-subj", "/CN=nowhere.example")
    nowhere = deployment.ztca("certify", str(csr), *where, "--out", str(tmp_path / "a" / "chain.pem"), check=False)
    assert "no directory that can be written to" in nowhere.stderr
    assert "nowhere.example" not in deployment.ztca("list", *where).stdout
