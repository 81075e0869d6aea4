"""How `pqcsign` gets to the service over real TLS, what it says before, and its policy and login commands."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import orjson
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import Encoding

from services.signing.cli.connection import Surroundings
from services.signing.cli.failures import FILES, REFUSED, UNAVAILABLE, USAGE, plain
from services.signing.cli.logins import Logins
from services.signing.cli.main import main
from services.signing.trusted_root import client_trust_config, signing_config
from tests.support.clock import ManualClock
from tests.support.oidc_simulator import CLIENT, USER_CODE, OidcSimulator, oidc_simulator
from tests.support.sigstore_world import SigstoreWorld

COMMANDS: Final = (
    "sign", "verify", "show", "policy", "login", "logout", "api-keys", "webhooks", "evidence", "holds", "trusted-root",
)  # fmt: skip
CEDAR: Final = '@id("all-of-acme")\npermit (principal in Tenant::"acme", action == Action::"read", resource);\n'
CASE: Final = """\
[[cases]]
name = "acme reads"
action = "read"
expect = "{expect}"
[cases.caller]
kind = "api-key"
id = "k"
tenant = "acme"
"""


def run(*words: object, environment: dict[str, str] | None = None) -> Result:
    """A command with an environment of its own."""
    around = Surroundings(environment or {}, ManualClock(), no_wait)
    return CliRunner().invoke(main, [str(word) for word in words], obj=around, env={"PQCPKI_DIR": "/none"})


async def no_wait(_seconds: float) -> None:
    """Nobody waits."""


@pytest.fixture
async def issuer(tmp_path: Path) -> AsyncIterator[OidcSimulator]:
    """A running issuer."""
    async with oidc_simulator(tmp_path) as simulator:
        yield simulator


@asynccontextmanager
async def service(
    issuer: OidcSimulator, root: bytes, answers: Mapping[str, bytes] = MappingProxyType({})
) -> AsyncIterator[str]:
    """A server with the issuer's certificate that answers requests by path, and every other one with `root`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        body = answers.get(path, root)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=issuer.tls)
    async with listener:
        yield f"https://localhost:{listener.sockets[0].getsockname()[1]}"


def test_the_help_names_every_command_and_exit_status() -> None:
    """Each command's own help is there too."""
    shown = CliRunner().invoke(main, ["--help"]).output
    assert all(f"\n  {name} " in shown for name in COMMANDS)
    assert all(f"\n    {status}  " in shown for status in range(5))
    for name in COMMANDS:
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0
    assert CliRunner().invoke(main, ["nothing"]).exit_code == USAGE


def test_commands_load_what_they_need_and_no_more() -> None:
    """The help is there at once; whoever signs or verifies waits for no database, policies or settings."""
    script = (
        "import sys\nfrom services.signing.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'OpenSSL', 'httpx', 'cedarpy', 'cryptography', 'sqlalchemy'} & sys.modules.keys()))\n"
        "import services.signing.cli.sign, services.signing.cli.verify\n"
        "print(sorted({'cedarpy', 'sqlalchemy', 'pydantic', 'fastapi'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["[]", "[]"]


async def test_the_trusted_root_is_fetched_over_tls_with_the_roots_that_are_given(
    tmp_path: Path, issuer: OidcSimulator
) -> None:
    """No credential is looked for; it is read before it is written, and never written over another."""
    root, out = SigstoreWorld().trusted_root.to_json(), tmp_path / "trusted_root.json"
    async with service(issuer, root) as url:
        words = ("trusted-root", "--url", url, "--ca", issuer.ca_file, "--out", out)
        done = await asyncio.to_thread(run, *words)
        assert (done.exit_code, out.read_bytes()) == (0, root), done.output
        again = await asyncio.to_thread(run, *words)
        assert (again.exit_code, again.stderr.count(str(out)), "--force" in again.stderr) == (FILES, 1, True)
        assert "temporary" not in again.stderr
        assert f".{out.name}" not in again.stderr
        assert (await asyncio.to_thread(run, *words, "--force")).exit_code == 0


async def test_a_file_for_sigstore_has_root_and_configuration(tmp_path: Path, issuer: OidcSimulator) -> None:
    """Octet for octet; beside the trusted root or alone; what is in the way stays."""
    root, config = SigstoreWorld().trusted_root.to_json(), signing_config("acme")
    out, joined = tmp_path / "trusted_root.json", tmp_path / "trust.json"
    answers = {"/v1/trusted-root": root, "/v1/signing-config": config}
    async with service(issuer, root, answers) as url:
        words = ("trusted-root", "--url", url, "--ca", issuer.ca_file, "--client-trust-config", joined)
        done = await asyncio.to_thread(run, *words, "--out", out)
        assert (done.exit_code, out.read_bytes()) == (0, root), done.output
        assert joined.read_bytes() == client_trust_config(root, config)
        again = await asyncio.to_thread(run, *words)
        assert (again.exit_code, f"{joined} is there already" in again.stderr) == (FILES, True)
    assert (root in joined.read_bytes(), config in joined.read_bytes()) == (True, True)


async def test_a_server_of_other_roots_is_not_asked(tmp_path: Path, issuer: OidcSimulator) -> None:
    """Nor one of another name; trying again would not help, so the exit status does not say so."""
    other = tmp_path / "other.pem"
    other.write_bytes(SigstoreWorld().root.certificate.public_bytes(Encoding.PEM))
    async with service(issuer, b"{}") as url:
        done = await asyncio.to_thread(run, "trusted-root", "--url", url, "--ca", other)
        assert (done.exit_code, "not trusted" in done.stderr) == (REFUSED, True), done.output
        done = await asyncio.to_thread(run, "trusted-root", "--url", url, "--ca", issuer.ca_file)
        assert (done.exit_code, "trusted root" in done.stderr) == (REFUSED, True), done.output


async def test_a_service_that_is_not_there_is_unavailable(issuer: OidcSimulator) -> None:
    """A closed port."""
    async with service(issuer, b"") as url:
        pass
    done = await asyncio.to_thread(run, "trusted-root", "--url", url, "--ca", issuer.ca_file)
    assert (done.exit_code, "does not answer" in done.stderr) == (UNAVAILABLE, True), done.output


@pytest.mark.parametrize("url", ["http://localhost", "localhost", "https://localhost/path", "ftp://x", "https://"])
def test_a_url_must_be_https_host_and_port(tmp_path: Path, url: str) -> None:
    """Nothing is sent in the clear."""
    done = run("show", "x", "--url", url, "--ca", tmp_path / "none")
    assert (done.exit_code, "URL" in done.stderr) == (USAGE, True)


def test_a_deployment_without_the_service_says_so(tmp_path: Path) -> None:
    """As one that does not run."""
    assert run("show", "x", "--dir", tmp_path / "none").exit_code == USAGE
    (tmp_path / "endpoints.json").write_bytes(orjson.dumps({"ca": "https://localhost:1"}))
    done = run("show", "x", "--dir", tmp_path)
    assert (done.exit_code, "has no signing service" in done.stderr) == (USAGE, True)


def test_roots_that_are_none_are_named(tmp_path: Path) -> None:
    """With the status of files."""
    nonsense = tmp_path / "ca.pem"
    nonsense.write_text("nonsense")
    for path in (nonsense, tmp_path / "none"):
        done = run("trusted-root", "--url", "https://localhost:1", "--ca", path)
        assert (done.exit_code, path.name in done.stderr) == (FILES, True)


async def test_a_login_is_kept_used_and_forgotten(tmp_path: Path, issuer: OidcSimulator) -> None:
    """The invitation goes to standard error, the token nowhere but into the file."""
    issuer.token_answers = [(400, {"error": "authorization_pending"}), issuer.tokens()]
    url = ("--url", "https://signing.example.org", "--ca", tmp_path / "none")
    environment = {"HOME": str(tmp_path)}
    words = ("login", "--issuer", issuer.issuer, "--client-id", CLIENT, "--oidc-ca", issuer.ca_file, *url)
    done = await asyncio.to_thread(lambda: run(*words, "--json", environment=environment))
    assert done.exit_code == 0, done.output
    answer: dict[str, Any] = orjson.loads(done.stdout)
    assert (answer["subject"], answer["service"]) == ("alice", "https://signing.example.org")
    assert USER_CODE in done.stderr
    kept = Logins.of(environment).find("https://signing.example.org")
    assert kept is not None
    assert (kept.id_token, kept.id_token in done.output) == (issuer.id_token(), False)
    for sentence in ("Forgotten.", "There was none."):
        assert run("logout", *url, environment=environment).stdout.strip() == sentence


async def test_a_login_that_is_refused_keeps_nothing(tmp_path: Path, issuer: OidcSimulator) -> None:
    """And says so."""
    issuer.token_answers = [(400, {"error": "access_denied"})]
    words = ("login", "--issuer", issuer.issuer, "--client-id", CLIENT, "--oidc-ca", issuer.ca_file)
    url = ("--url", "https://signing.example.org", "--ca", tmp_path / "none")
    done = await asyncio.to_thread(lambda: run(*words, *url, environment={"HOME": str(tmp_path)}))
    assert (done.exit_code, "access_denied" in done.stderr) == (REFUSED, True)
    assert not (tmp_path / ".local").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exp": 1_893_456_000}, "expired already"),
        ({"iat": 1_893_456_000 + 61}, "begins in the future"),
        ({"iat": None}, "iat"),
        ({"aud": "somebody"}, "another client"),
        ({"aud": [CLIENT, "somebody"]}, "azp"),
        ({"azp": "somebody"}, "azp"),
    ],
)
async def test_a_token_that_is_not_good_is_no_login(
    tmp_path: Path, issuer: OidcSimulator, changes: dict[str, Any], words: str
) -> None:
    """Its times and its audience are looked at before anything is kept or called good."""
    issuer.token_answers = [issuer.tokens(**changes)]
    command = ("login", "--issuer", issuer.issuer, "--client-id", CLIENT, "--oidc-ca", issuer.ca_file)
    url = ("--url", "https://signing.example.org", "--ca", tmp_path / "none")
    done = await asyncio.to_thread(lambda: run(*command, *url, environment={"HOME": str(tmp_path)}))
    assert (done.exit_code, words in done.stderr) == (REFUSED, True), done.output
    assert not (tmp_path / ".local").exists()


def test_policies_are_tested_by_their_cases(tmp_path: Path) -> None:
    """Those beside them, or those in files that are named; an answer that is not expected is exit status 1."""
    (tmp_path / "all.cedar").write_text(CEDAR)
    words = ("policy", "test", "--policies", tmp_path)
    assert (run(*words).exit_code, "no case" in run(*words).stderr) == (REFUSED, True)
    (tmp_path / "all.test.toml").write_text(CASE.format(expect="allow"))
    passed = orjson.loads(run(*words, "--json").stdout)
    assert (passed["passed"], passed["failed"], len(passed["sha256"])) == (1, 0, 64)
    wrong = tmp_path / "elsewhere"
    wrong.write_text(CASE.format(expect="deny"))
    done = run(*words, wrong)
    assert (done.exit_code, "acme reads: expected deny" in done.stdout) == (REFUSED, True)
    (tmp_path / "all.cedar").write_text(CEDAR.replace("read", "raed"))
    done = run(*words)
    assert (done.exit_code, "all.cedar" in done.stderr) == (REFUSED, True)


def test_cases_that_are_no_text_are_named(tmp_path: Path) -> None:
    """As files that cannot be read."""
    (tmp_path / "all.cedar").write_text(CEDAR)
    (tmp_path / "case").write_bytes(b"\xff")
    for name in ("case", "none"):
        assert run("policy", "test", tmp_path / name, "--policies", tmp_path).exit_code == FILES


def test_a_terminal_is_not_steered_by_what_others_say() -> None:
    """Escapes are shown, not sent."""
    assert plain("a\x1b[2Jb\n\u202ec") == "a\\x1b[2Jb\\n\\u202ec"


@pytest.mark.parametrize("words", [("--ca", "{ca}"), ("--ca", "{ca}", "--url", "https://localhost:1")])
def test_the_operator_of_the_deployment_stays_with_other_roots(tmp_path: Path, words: tuple[str, ...]) -> None:
    """`--ca` says whom the service must be of, not who calls; at a URL of elsewhere the certificate is not shown."""
    (tmp_path / "operator").mkdir()
    (tmp_path / "operator" / "cert.pem").write_text("x")
    (tmp_path / "endpoints.json").write_bytes(orjson.dumps({"signing": "https://localhost:1"}))
    ca = tmp_path / "ca.pem"
    ca.write_text("nonsense")
    given = [word.format(ca=ca) for word in words]
    environment = {"HOME": str(tmp_path)}
    done = run("show", "x", "--dir", tmp_path, *given, environment=environment)
    assert (done.exit_code, "credential: the operator" in done.stderr) == (FILES, True), done.output
    done = run("show", "x", "--dir", tmp_path, "--ca", ca, "--url", "https://localhost:2", environment=environment)
    assert (done.exit_code, "of another deployment" in done.stderr) == (USAGE, True), done.output
