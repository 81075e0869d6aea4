"""What is in deploy/vault, against a real server: configuration, set-up script, audit log; and a kill in between."""

import json
import os
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from pkicore.algorithms import ALGORITHMS
from services.chassis.observability import begin_request
from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.settings import VaultSettings
from services.signer_hsm.backends.vault import open_backend
from services.signer_hsm.errors import DeniedError, UnavailableError
from services.signer_hsm.schemes import SCHEMES
from tests.support.openbao import binary, free_port, until_answering
from tests.support.vault_fixtures import MovableClock
from tests.support.vault_tls import self_signed

pytest_plugins = ("tests.support.vault_fixtures",)

DEPLOY = Path(__file__).parents[2] / "deploy" / "vault"
EC = ALGORITHMS["ecdsa-p256"]
LABEL = KeyLabel("ca", "issuing", 1)


class Deployed:
    """A server with the shipped configuration, below a directory of the test's."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self.cluster_port = free_port(), free_port()
        self.address = f"https://127.0.0.1:{self.port}"
        self.certificate, self.key = self_signed(directory)
        self.audit = directory / "audit.log"
        self.client = httpx.Client(
            base_url=f"{self.address}/v1/",
            verify=ssl.create_default_context(cafile=self.certificate),
            trust_env=False,
            timeout=30,
        )
        self.root, self.share = "", ""
        (directory / "data").mkdir()

    def configuration(self) -> Path:
        """The shipped file with this directory's paths and ports."""
        text = (DEPLOY / "openbao.hcl").read_text("ascii")
        for shipped, ours in (
            ("/var/lib/openbao/data", self.directory / "data"),
            ("/etc/openbao/tls/server.pem", self.certificate),
            ("/etc/openbao/tls/server.key", self.key),
            ("/var/log/openbao/audit.log", self.audit),
            ("127.0.0.1:8200", f"127.0.0.1:{self.port}"),
            ("127.0.0.1:8201", f"127.0.0.1:{self.cluster_port}"),
        ):
            assert shipped in text
            text = text.replace(shipped, str(ours))
        file = self.directory / "openbao.hcl"
        file.write_text(text, "ascii")
        return file

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """The process, sealed."""
        program = binary()
        if program is None or not program.endswith("bao"):
            pytest.skip("no bao on PATH: the shipped configuration is OpenBao's")
        command = [program, "server", f"-config={self.configuration()}"]
        environment = {"HOME": str(self.directory), "PATH": os.environ["PATH"], "SKIP_SETCAP": "1"}
        with (self.directory / "server.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            until_answering(lambda: self.client.get("sys/seal-status").is_success)
            yield process
        finally:
            process.kill()
            process.wait()

    def initialise(self) -> None:
        """One share, which the test may hold."""
        answer = self.client.put("sys/init", json={"secret_shares": 1, "secret_threshold": 1}).json()
        self.root, self.share = answer["root_token"], answer["keys_base64"][0]

    def unseal(self) -> None:
        """And wait until it is active."""
        self.client.put("sys/unseal", json={"key": self.share}).raise_for_status()
        until_answering(lambda: self.client.get("sys/health").status_code == httpx.codes.OK)

    def set_up(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The shipped script."""
        environment = {"BAO_ADDR": self.address, "BAO_CACERT": str(self.certificate), "BAO_TOKEN": self.root}
        return subprocess.run(
            [str(DEPLOY / "set-up.sh"), str(self.directory / "role"), *words],
            env={**environment, "PATH": os.environ["PATH"], "HOME": str(self.directory)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def settings(self, **changes: Any) -> VaultSettings:  # noqa: ANN401 - fields of the settings
        """As the README has them."""
        values: dict[str, Any] = {
            "name": "vault",
            "type": "vault",
            "address": self.address,
            "ca_file": self.certificate,
            "role_id_file": self.directory / "role" / "role-id",
            "secret_id_file": self.directory / "role" / "secret-id",
        }
        return VaultSettings(**{**values, **changes})


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployed]:
    """Not started yet."""
    made = Deployed(tmp_path)
    yield made
    made.client.close()


@pytest.mark.slow
async def test_the_shipped_set_up_signs_audits_and_survives_a_kill(
    deployed: Deployed, vault_clock: MovableClock
) -> None:
    """TLS, script, policies, audit with the request's id and no secret; after kill -9 and unsealing it goes on."""
    with deployed.running() as process:
        deployed.initialise()
        deployed.unseal()
        done = deployed.set_up("keys")
        assert done.returncode == 0, done.stderr
        assert (deployed.directory / "role" / "secret-id").stat().st_mode & 0o777 == 0o600
        backend = await open_backend(deployed.settings(), clock=vault_clock)
        try:
            begin_request("request-0001")
            key = await backend.create(LABEL, EC)
            await backend.sign(key.handle, SCHEMES["ES256"], "digest", [bytes(32)])
            process.send_signal(signal.SIGKILL)
            process.wait()
            with pytest.raises(UnavailableError):
                await backend.sign(key.handle, SCHEMES["ES256"], "digest", [bytes(32)])
            with deployed.running():
                with pytest.raises(UnavailableError, match="sealed"):
                    await backend.sign(key.handle, SCHEMES["ES256"], "digest", [bytes(32)])
                deployed.unseal()
                assert len(await backend.sign(key.handle, SCHEMES["ES256"], "digest", [bytes(32)])) == 1
                assert (await backend.load(key.handle)).public_key == key.public_key
        finally:
            await backend.aclose()
    check_audit(deployed)


def check_audit(deployed: Deployed) -> None:
    """The signature's line has our request id; no line has a secret."""
    text = deployed.audit.read_text("utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    signed = [line for line in lines if line["request"].get("path", "").startswith("transit/sign/")]
    assert signed
    assert {str(line["request"]["headers"]["x-request-id"]) for line in signed} == {"['request-0001']"}
    assert (deployed.directory / "role" / "secret-id").read_text("ascii").strip() not in text
    assert deployed.audit.stat().st_mode & 0o077 == 0


@pytest.mark.slow
async def test_the_script_narrows_what_the_service_may_do(deployed: Deployed, vault_clock: MovableClock) -> None:
    """Run again with `sign`: the next login cannot make keys; an unknown word is refused."""
    with deployed.running():
        deployed.initialise()
        deployed.unseal()
        assert deployed.set_up("all").returncode == 2
        for _ in range(2):
            done = deployed.set_up("sign")
            assert done.returncode == 0, done.stderr
        backend = await open_backend(deployed.settings(), clock=vault_clock)
        try:
            assert await backend.find(LABEL) is None
            with pytest.raises(DeniedError):
                await backend.create(LABEL, EC)
        finally:
            await backend.aclose()
