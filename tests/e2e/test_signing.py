"""A deployment with the signing service: sign once, and have strangers' tools verify everything that came of it."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from sigstore.errors import VerificationError as SigstoreError
from sigstore.models import Bundle
from sigstore.models import TrustedRoot as SigstoreRoot
from sigstore.verify import Verifier
from sigstore.verify.policy import Identity

from pkicore.algorithms import PublicKey, known_public_key
from pkicore.errors import BadSignatureError, PkiError
from services.ca.layout import Layout
from services.ca.signing_settings import ARTEFACT_KEYS, KEYS
from services.signing.cli.main import main
from services.signing.verification import VerificationError, verify_hybrid
from tests.support.ci_tokens import AUDIENCE, GITHUB, KEY, ci_token, write_keys
from tests.support.console import ROOT, blocks
from tests.support.deployment import Deployment, DnsProcess, is_running
from tests.support.fork_server import fork_server
from tests.support.oidc_simulator import CLIENT, OidcSimulator, oidc_simulator_in_thread
from tests.support.openssl import openssl
from tests.support.otlp_collector import OtlpCollector

PATIENCE_SECONDS = 120.0
ES256 = "default.artefact-es256"
ATTESTING = "default.attestation-es256", "default.attestation-mldsa65"
ALICE = "alice@example.org"
WORKFLOW = "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/v1.2.3"
RELEASES = """
@id("release-builds")
permit (
    principal in Tenant::"default",
    action in [Action::"sign_certificate", Action::"read"],
    resource == Tenant::"default"
)
when { principal.kind == "oidc" }
when { context.claims has repository_id && context.claims.repository_id == "74" };
@id("people")
permit (
    principal in Tenant::"default",
    action in [Action::"sign_certificate", Action::"read"],
    resource == Tenant::"default"
)
when { principal.kind == "oidc" }
when { context.claims has email && context.claims.email == "alice@example.org" };
"""
BUILD = {
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "acme/app",
    "GITHUB_REPOSITORY_ID": "74",
    "GITHUB_REPOSITORY_OWNER_ID": "65",
    "GITHUB_REF": "refs/tags/v1.2.3",
    "GITHUB_SHA": "a" * 40,
    "GITHUB_WORKFLOW_REF": "acme/app/.github/workflows/release.yml@refs/tags/v1.2.3",
    "GITHUB_RUN_ID": "5001",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_EVENT_NAME": "push",
}


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcSimulator]:
    """A simulated OIDC issuer where Alice logs in, which is the runner of a CI provider too."""
    with oidc_simulator_in_thread(tmp_path_factory.mktemp("issuer")) as simulator:
        simulator.key = KEY
        simulator.invitation = {"interval": 1}
        yield simulator


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, dns: DnsProcess, issuer: OidcSimulator, collector: OtlpCollector
) -> Iterator[Deployment]:
    """A traced deployment that is up, and takes tokens of a simulated CI provider, and of an issuer it discovers."""
    directory = tmp_path_factory.mktemp("signing")
    deployment = Deployment(directory / "state", dns, collector.environment).init("--signing")
    layout = Layout(deployment.directory)
    keys = write_keys(directory / "issuer.json", KEY)
    with layout.settings("signing").open("a") as settings:
        settings.write(
            f'\n[[oidc_issuers]]\nissuer = "{GITHUB}"\naudience = "{AUDIENCE}"\nprovider = "github"\n'
            f'jwks_file = "{keys}"\nalgorithms = ["RS256"]\n\n[[oidc_issuers.github]]\ntenant = "default"\n'
            'repository_owner_id = "65"\nrepository_id = "74"\n'
            f'\n[[oidc_issuers]]\nissuer = "{issuer.issuer}"\naudience = "{CLIENT}"\nprovider = "generic"\n'
            f'discover = true\njwks_ca_file = "{issuer.ca_file}"\nalgorithms = ["RS256"]\n\n'
            f'[[oidc_issuers.generic]]\ntenant = "default"\nclaims = {{ email = "{ALICE}" }}\n'
        )
    (layout.signing_policies / "releases.cedar").write_text(RELEASES)
    deployment.up()
    yield deployment
    assert deployment.stop() == []


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    """Something to sign."""
    path = tmp_path / "app.tar.gz"
    path.write_bytes(os.urandom(4096))
    return path


def pqcsign(
    deployment: Deployment, *arguments: str | Path, check: bool = True, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `pqcsign` to its end."""
    whole = {**deployment.environment, **(environment or {})}
    result = fork_server().run("pqcsign", [*map(str, arguments)], whole, timeout=PATIENCE_SECONDS, check=False)
    assert result.returncode == 0 or not check, result.stdout + result.stderr
    return result


def verify(*words: str | Path) -> Result:
    """`pqcsign verify`, which asks nobody: so it runs here, and need not be loaded each time."""
    return CliRunner().invoke(main, ["verify", *map(str, words)])


def signed(deployment: Deployment, artefact: Path, *options: str | Path) -> dict[str, Any]:
    """The record of an artefact that was signed by the operator, or as the options say."""
    output = pqcsign(deployment, "sign", artefact, "--dir", deployment.directory, "--json", *options).stdout
    record: dict[str, Any] = json.loads(output)["record"]
    return record


def public_key(deployment: Deployment, key_id: str) -> Path:
    """Where the ceremony laid a key's public half."""
    return Layout(deployment.directory).signing_public_key(key_id)


def loaded(deployment: Deployment, key_id: str) -> PublicKey:
    """That public half."""
    return known_public_key(load_pem_public_key(public_key(deployment, key_id).read_bytes()))


def ask(deployment: Deployment, path: str, body: bytes | None = None, **headers: str) -> bytes:
    """A request without credentials, over TLS as everybody speaks it."""
    context = ssl.create_default_context(cafile=deployment.endpoints["tls_ca_bundle"])
    url = deployment.endpoints["signing"] + path
    request = urllib.request.Request(url, body, {name.replace("_", "-"): value for name, value in headers.items()})  # noqa: S310 - the deployment's own https URL
    answer: HTTPResponse
    with urllib.request.urlopen(request, timeout=30, context=context) as answer:  # noqa: S310 - likewise
        return answer.read()


def trusted_root(deployment: Deployment, directory: Path) -> Path:
    """What the service tells verifiers to trust, in a file."""
    path = directory / "trusted_root.json"
    path.write_bytes(ask(deployment, "/v1/trusted-root"))
    return path


def token(directory: Path) -> Path:
    """A fresh token of a release build."""
    now = int(time.time())
    path = directory / "token"
    path.touch(mode=0o600)
    path.write_text(ci_token(GITHUB, KEY, None, iat=now, nbf=now, exp=now + 300))
    return path


def test_openssl_verifies_what_an_operator_had_signed(running: Deployment, artefact: Path) -> None:
    """The raw signature verifies with the public key that the ceremony laid out, and of nothing else."""
    record = signed(running, artefact)
    assert record["tenant"] == "default"
    assert record["policy"]["determining"] == ["default-signing"]
    signature = artefact.with_name(f"{artefact.name}.sig")
    key = public_key(running, ES256)
    said = openssl("dgst", "-sha256", "-verify", key, "-signature", signature, artefact)
    assert "Verified OK" in said
    artefact.write_bytes(b"something else")
    said = openssl("dgst", "-sha256", "-verify", key, "-signature", signature, artefact, check=False)
    assert "Verified OK" not in said


def test_one_trace_leads_from_the_request_to_the_key(
    running: Deployment, artefact: Path, collector: OtlpCollector
) -> None:
    """A signature's request, what signer-hsm was asked for it, and the key's use are one trace."""
    signed(running, artefact)
    request = collector.wait_for("signing", "POST /v1/signatures")
    *way, _key, outermost = collector.way_to(collector.wait_for("signer-hsm", "sign file", request.trace_id))
    assert way == [
        "signer-hsm client sign file",
        "signer-hsm server POST /v1/keys/{id}/sign",
        "signing client POST signer-hsm",
    ]
    assert outermost == "signing server POST /v1/signatures"


def test_openssl_verifies_the_time(running: Deployment, artefact: Path, tmp_path: Path) -> None:
    """A time-stamp that openssl asked for, and the one of a signature, verify with the chain of the ceremony."""
    chain, root = Layout(running.directory).timestamp_chain, running.endpoints["tls_ca_bundle"]
    trust = ("-CAfile", root, "-untrusted", chain)
    query, reply = tmp_path / "query.tsq", tmp_path / "reply.tsr"
    openssl("ts", "-query", "-data", artefact, "-sha256", "-cert", "-out", query)
    answer = ask(running, "/v1/timestamp", query.read_bytes(), content_type="application/timestamp-query")
    reply.write_bytes(answer)
    assert "Verification: OK" in openssl("ts", "-verify", "-queryfile", query, "-in", reply, *trust)
    signed(running, artefact)
    signature, stamp = (artefact.with_name(artefact.name + suffix) for suffix in (".sig", ".tsr"))
    assert "Verification: OK" in openssl("ts", "-verify", "-data", signature, "-in", stamp, *trust)


def test_both_keys_of_a_hybrid_are_demanded(running: Deployment, artefact: Path) -> None:
    """Our verifier wants both keys of the envelope, and takes no other in place of either; nor does the CLI."""
    signed(running, artefact)
    envelope = artefact.with_name(f"{artefact.name}.intoto.jsonl")
    keys = [loaded(running, key_id) for key_id in ATTESTING]
    digests = {"sha256": bytes.fromhex(openssl("dgst", "-sha256", "-r", artefact).split()[0])}
    (document,) = envelope.read_bytes().splitlines()
    verify_hybrid(document, keys, digests)
    stranger = loaded(running, "signing.log")
    for wrong in ([stranger, keys[1]], [keys[0], stranger]):
        with pytest.raises((VerificationError, BadSignatureError, PkiError)):
            verify_hybrid(document, wrong, digests)
    options = [option for key_id in ATTESTING for option in ("--key", public_key(running, key_id))]
    assert "verified" in pqcsign(running, "verify", artefact, "--bundle", envelope, *options).stdout
    artefact.write_bytes(b"something else")
    assert pqcsign(running, "verify", artefact, "--bundle", envelope, *options, check=False).returncode == 1


def test_openssl_verifies_the_cms_signature(running: Deployment, artefact: Path, tmp_path: Path) -> None:
    """The ceremony has certified the artefact keys; the classical file is for every OpenSSL."""
    signed(running, artefact, "--format", "cms")
    signature = artefact.with_name(f"{artefact.name}.classical.p7s")
    how = ("-verify", "-binary", "-inform", "DER", "-purpose", "any", "-in", signature, "-content", artefact)
    trust = ("-CAfile", running.endpoints["tls_ca_bundle"], "-out", tmp_path / "out")
    assert "successful" in openssl("cms", *how, *trust)
    artefact.write_bytes(b"something else")
    assert "successful" not in openssl("cms", *how, *trust, check=False)


def test_sigstore_verifies_what_a_build_had_signed(running: Deployment, artefact: Path, tmp_path: Path) -> None:
    """By its OIDC token it gets a certificate of our CA: sigstore-python needs our trusted root and nothing else."""
    record = signed(running, artefact, "--oidc", "--token-file", token(tmp_path))
    assert record["policy"]["determining"] == ["release-builds"]
    assert {one["key"] for one in record["signatures"]} <= {"certificate"}
    verifier = Verifier(trusted_root=SigstoreRoot.from_file(str(trusted_root(running, tmp_path))))
    bundle = Bundle.from_json(artefact.with_name(f"{artefact.name}.sigstore.json").read_bytes())
    verifier.verify_artifact(artefact.read_bytes(), bundle, Identity(identity=WORKFLOW, issuer=GITHUB))
    other = Identity(identity=WORKFLOW.replace("acme/app", "mallory/app"), issuer=GITHUB)
    with pytest.raises(SigstoreError):
        verifier.verify_artifact(artefact.read_bytes(), bundle, other)


def test_a_person_logs_in_and_signs(running: Deployment, issuer: OidcSimulator, artefact: Path, tmp_path: Path) -> None:
    """By a code typed in elsewhere; the service finds the issuer's keys by itself, and the certificate has the name."""
    now = int(time.time())
    claims = {"email": ALICE, "email_verified": True, "iat": now, "nbf": now, "exp": now + 300}
    issuer.token_answers = [(400, {"error": "authorization_pending"}), issuer.tokens(**claims)]
    mine = {"XDG_STATE_HOME": str(tmp_path / "state")}
    where = ("--dir", running.directory)
    at = ("--issuer", issuer.issuer, "--client-id", CLIENT, "--oidc-ca", issuer.ca_file)
    said = pqcsign(running, "login", *at, *where, environment=mine)
    assert f"Logged in at {issuer.issuer} as alice" in said.stdout
    formats = [word for name in ("raw", "jws", "cms", "dsse", "bundle") for word in ("--format", name)]
    signed = pqcsign(running, "sign", artefact, "--oidc", *where, *formats, "--json", environment=mine)
    assert json.loads(signed.stdout)["record"]["policy"]["determining"] == ["people"]
    root = ("--trusted-root", trusted_root(running, tmp_path))
    identity = ("--certificate-identity", ALICE, "--certificate-oidc-issuer", issuer.issuer)
    assert verify(artefact, *root, *identity).exit_code == 0
    for suffix in (".sig", ".jws", ".p7s"):
        beside = ["--signature", f"{artefact}{suffix}"]
        name = f"{artefact}{suffix}".removesuffix(".sig")
        beside += ["--log-entry", f"{name}.log-entry.json"]
        if suffix != ".p7s":
            beside += ["--timestamp", f"{name}.tsr", "--certificate-chain", f"{artefact}.chain.pem"]
        result = verify(artefact, *beside, *root, *identity)
        assert result.exit_code == 0, result.output
        mallory = (*root, "--certificate-identity", "mallory@example.org", *identity[2:])
        assert verify(artefact, *beside, *mallory).exit_code == 1


def test_a_build_finds_its_token_by_itself(
    running: Deployment, issuer: OidcSimulator, artefact: Path, tmp_path: Path
) -> None:
    """It asks its runner for one that is for the service, signs, and attests what the environment says of the build."""
    now = int(time.time())
    issuer.runner_answer = (200, {"value": ci_token(GITHUB, KEY, None, iat=now, nbf=now, exp=now + 300)})
    job = {**issuer.runner_environment, **BUILD, "PQCSIGN_OIDC_CA": str(issuer.ca_file)}
    words = ("sign", artefact, "--oidc", "--audience", AUDIENCE, "--provenance-from-ci", "--dir", running.directory)
    said = pqcsign(running, *words, environment=job)
    assert "credential: GitHub Actions" in said.stderr
    assert [asked.query["audience"] for asked in issuer.asked if asked.path == "/runner"] == [[AUDIENCE]]
    root = ("--trusted-root", trusted_root(running, tmp_path))
    identity = ("--certificate-identity", WORKFLOW, "--certificate-oidc-issuer", GITHUB)
    demand = ("--bundle", f"{artefact}.sigstore.jsonl", "--predicate-type", "https://slsa.dev/provenance/v1")
    result = verify(artefact, *demand, *root, *identity)
    assert result.exit_code == 0, result.output


def test_a_build_of_another_repository_is_refused(running: Deployment, artefact: Path, tmp_path: Path) -> None:
    """A good token of the same provider opens nothing where no binding and no policy is for it."""
    now = int(time.time())
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(ci_token(GITHUB, KEY, None, iat=now, nbf=now, exp=now + 300, repository_id="75"))
    options = ("--dir", running.directory, "--oidc", "--token-file", path)
    refused = pqcsign(running, "sign", artefact, *options, check=False)
    assert refused.returncode == 1
    assert not list(tmp_path.glob("app.tar.gz.*"))


def test_what_was_signed_outlives_a_killed_service(running: Deployment, artefact: Path, tmp_path: Path) -> None:
    """After kill -9 the supervisor starts it again at the same URL; record, log and time-stamps go on without a gap."""
    before = signed(running, artefact, "--format", "bundle")
    url = running.endpoints["signing"]
    killed = running.pids["signing"]
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_SECONDS
    again = tmp_path / "again"
    again.mkdir()
    where = ("--dir", running.directory)
    while pqcsign(running, "sign", artefact, *where, "--out", again, "--format", "bundle", check=False).returncode:
        assert time.monotonic() < deadline, "the service does not come back"
        time.sleep(0.2)
    running.endpoints = json.loads((running.directory / "endpoints.json").read_text())
    assert running.endpoints["signing"] == url
    assert running.pids["signing"] != killed
    assert is_running(running.pids["signing"])
    shown = json.loads(pqcsign(running, "show", before["id"], *where, "--json").stdout)
    assert before["id"] in json.dumps(shown)
    after = signed(running, artefact, "--format", "bundle", "--out", tmp_path / "third")
    assert before["log"]["tree_size"] <= after["log"]["index"] < after["log"]["tree_size"]
    assert after["log"]["origin"] == before["log"]["origin"]


def test_the_audit_logs_of_all_services_verify(running: Deployment) -> None:
    """The signing service's log is one of the deployment's, with decisions in it."""
    said = running.ztca("audit", "verify", str(running.directory)).stdout
    assert "signing" in said


def test_the_last_checkpoints_are_kept_outside_the_databases(running: Deployment, artefact: Path) -> None:
    """Of both logs, the service's as new as what it shows: a restored backup of a database is noticed by them."""
    signed(running, artefact, "--format", "bundle")
    kept = (running.directory / "signing" / "log-checkpoint").read_bytes()
    assert kept.splitlines()[0] == b"localhost"
    assert int(kept.splitlines()[1]) >= int(ask(running, "/v1/log/checkpoint").splitlines()[1]) > 0
    domain = (running.directory / "ca" / "ct-checkpoint").read_bytes().splitlines()[0]
    assert domain.endswith(b"/ct")


def test_the_ends_of_certificates_are_to_be_seen(running: Deployment) -> None:
    """A year from now, for the authority and each artefact key; none of them is due for renewal."""
    ops = json.loads((running.directory / "signing" / "listeners.json").read_text())["ops"]
    with urllib.request.urlopen(f"{ops}/metrics", timeout=30) as answer:  # noqa: S310 - the deployment's own listener on loopback
        lines = answer.read().decode().splitlines()
    ends = [float(line.split()[-1]) for line in lines if line.startswith("signing_certificate_not_after_seconds{")]
    assert len(ends) == 1 + len(ARTEFACT_KEYS)
    assert all(end - time.time() > 300 * 86_400 for end in ends)


def test_the_keys_stay_at_signer_hsm(running: Deployment) -> None:
    """No file of the signing service holds a key that it signs with; the public halves are the ones it answers with."""
    layout = Layout(running.directory)
    assert [path.name for path in (layout.state("signing") / "keys").iterdir()] == ["audit.key"]
    for key_id in KEYS:
        if key_id.startswith("default."):
            answered = ask(running, f"/v1/keys/{key_id}/public-key")
            assert load_pem_public_key(answered) == load_pem_public_key(public_key(running, key_id).read_bytes())


@pytest.mark.parametrize("name", ["README.md", "operations.md"])
def test_the_commands_of_a_page_work(running: Deployment, tmp_path: Path, name: str) -> None:
    """Whoever types the commands of a page of docs/signing, in order, meets no error."""
    fork_server().lay_out(tmp_path / ".venv")
    (tmp_path / "pki").symlink_to(running.directory)
    (tmp_path / "config").mkdir()
    marker = "run by: tests/e2e/test_signing.py"
    page = ROOT / "docs/signing" / name
    commands = [command for block in blocks(page) if block.marker == marker for command in block.commands]
    assert commands
    result = subprocess.run(
        ["bash", "-x", "-e", "-u", "-o", "pipefail", "-c", "\n".join(commands)],
        cwd=tmp_path,
        env=running.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-5000:]}"
