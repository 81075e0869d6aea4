"""A remote perspective as an operator makes and runs it, beside a whole deployment."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from pkicore.identity import SpiffeId
from pkicore.mtls import INTERNAL
from services.acme.challenges.dns01 import txt_value
from services.acme.identifiers import Identifier
from services.acme.perspectives.corroboration import UNANSWERED
from services.acme.perspectives.remote import RemotePerspective, perspective_http
from services.chassis.cli.deployed import Deployed, trust_domain_of
from tests.support.attempts import attempt
from tests.support.deployment import Deployment

PATIENCE = 60.0
ATTEMPT = attempt("dns-01", Identifier("dns", "perspective.pqcpki.test"))


def started(folder: Path, environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], dict[str, str]]:
    """The process, and where it listens."""
    command = [sys.executable, "-m", "services.acme.perspective", "--config", str(folder / "perspective.toml")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT)
    listeners, deadline = folder / "state" / "listeners.json", time.monotonic() + PATIENCE
    while not listeners.exists():
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.05)
    return process, json.loads(listeners.read_text())


async def seen(deployment: Deployment, url: str, identity: Path) -> str | None:
    """What the perspective answers to whoever has the identity in this directory: the error type, None for a proof."""
    certificate = identity / "cert.pem"
    domain = trust_domain_of(certificate)
    tls = await Deployed.read(deployment.directory).client(
        INTERNAL, certificate, identity / "key.pem", require_staple=True
    )
    async with perspective_http(tls, url, SpiffeId.service(domain, "perspective-oslo")) as http:
        return (await RemotePerspective("oslo", http, 20).look(ATTEMPT)).error


@pytest.mark.slow
async def test_a_perspective_is_made_run_and_asked(deployment: Deployment, tmp_path: Path) -> None:
    """What `ztca perspective create` writes runs as it is, and answers the ACME server alone."""
    folder = tmp_path / "oslo"
    deployment.ztca(
        "perspective",
        "create",
        "--dir",
        str(deployment.directory),
        "--name",
        "oslo",
        "--out",
        str(folder),
        "--address",
        "127.0.0.1",
        "--port",
        "0",
    )
    assert [path.stat().st_mode & 0o777 for path in (folder, folder / "tls" / "key.pem")] == [0o700, 0o600]
    told = {"PQCPKI_PERSPECTIVE_RESOLVER": deployment.dns.address, "PQCPKI_PERSPECTIVE_OPS_PORT": "0"}
    process, listeners = started(folder, told)
    try:
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{listeners['ops']}/readyz")).json() == {"status": "ready"}
        acme, operator = deployment.directory / "acme" / "tls" / "internal", deployment.directory / "operator"
        deployment.dns.set("_acme-challenge.perspective.pqcpki.test", TXT=["something else"])
        assert await seen(deployment, listeners["internal"], acme) == "incorrectResponse"
        deployment.dns.set("_acme-challenge.perspective.pqcpki.test", TXT=[txt_value(ATTEMPT.key_authorization)])
        assert await seen(deployment, listeners["internal"], acme) is None
        assert await seen(deployment, listeners["internal"], operator) == UNANSWERED
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0
    assert "error" not in {json.loads(line)["level"] for line in (folder / "log").read_text().splitlines()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--name", "../oslo"), "lower-case letters"),
        (("--name", "Oslo"), "lower-case letters"),
        (("--ca-url", "ca.corp.example:5000"), "--ca-url: must be scheme://host"),
        (("--out", "."), "exists; give another --out"),
    ],
)
def test_a_perspective_that_cannot_be_is_not_made(
    deployment: Deployment, tmp_path: Path, options: tuple[str, str], sentence: str
) -> None:
    """A name that fits into no SPIFFE ID, a URL that is none, a directory in use: nothing is written."""
    told = {"--dir": str(deployment.directory), "--name": "lima", "--out": str(tmp_path / "lima")}
    told[options[0]] = options[1]
    result = deployment.ztca("perspective", "create", *(word for pair in told.items() for word in pair), check=False)
    assert result.returncode == 1
    assert sentence in result.stdout + result.stderr
    assert not (tmp_path / "lima").exists()
