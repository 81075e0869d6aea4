"""How the Cloud KMS back end reaches KMS: TLS, credentials, event loops. The server is a simulator."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pkicore.algorithms import ALGORITHMS
from services.signer_hsm.backends import Backend, KeyLabel
from services.signer_hsm.backends.gcp_kms import open_backend
from services.signer_hsm.backends.payloads import verify_payload
from services.signer_hsm.errors import DeniedError, MisconfiguredError, UnavailableError
from services.signer_hsm.schemes import SCHEMES
from tests.support.backend_gcp_kms import resources_of, settings_for
from tests.support.clock import ManualClock
from tests.support.gcp_kms_simulator import GcpKmsSimulator, Relay, ServiceAccount, simulator
from tests.support.tls_pki import Authority

Use = Callable[[dict[str, Any]], None]
LABEL = KeyLabel("ca", "issuing", 1)
EMAIL = "signer@test.iam.gserviceaccount.com"
DIGEST = hashlib.sha256(b"to be signed").digest()


@pytest.fixture(scope="module")
def account_key() -> rsa.RSAPrivateKey:
    """The service account's key."""
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture
def authority() -> Authority:
    """Who vouches for the server."""
    return Authority.make("root", "ecdsa")


@pytest.fixture
def ca_file(authority: Authority, tmp_path: Path) -> Path:
    """The root as a PEM file."""
    path = tmp_path / "ca.pem"
    path.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    return path


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Use:
    """A machine where the SDK finds no credentials anywhere, until it is given some."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "no-gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "test")

    def give(credentials: dict[str, Any]) -> None:
        path = tmp_path / "credentials.json"
        path.write_text(json.dumps(credentials))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))

    return give


@pytest.fixture
def service_account(account_key: rsa.RSAPrivateKey, use: Use) -> ServiceAccount:
    """A service account whose key file the SDK finds."""
    pem = account_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    use(
        {
            "type": "service_account",
            "project_id": "test",
            "private_key_id": "1",
            "private_key": pem,
            "client_email": EMAIL,
            "client_id": "1",
            "token_uri": "http://127.0.0.1:9/never-asked",
        }
    )
    return ServiceAccount(EMAIL, account_key.public_key())


@asynccontextmanager
async def tls_server(authority: Authority, account: ServiceAccount | None = None) -> AsyncIterator[GcpKmsSimulator]:
    """A simulator behind a certificate for this machine."""
    credentials = authority.issue(family="ecdsa")
    chain = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in credentials.chain)
    key = credentials.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    async with simulator(resources_of(ManualClock()), (key, chain), account) as server:
        yield server


@asynccontextmanager
async def opened(server: GcpKmsSimulator, **changes: Any) -> AsyncIterator[Backend]:  # noqa: ANN401 - settings of any type
    """A back end, closed at the end."""
    backend = await open_backend(settings_for(server, **changes), clock=ManualClock())
    try:
        yield backend
    finally:
        await backend.aclose()


async def life(backend: Backend) -> None:
    """Make a key, sign with it and verify."""
    key = await backend.create(LABEL, ALGORITHMS["ecdsa-p256"])
    (answer,) = await backend.sign(key.handle, SCHEMES["ES256"], "digest", [DIGEST])
    assert isinstance(answer, bytes)
    verify_payload(key.public_key, SCHEMES["ES256"], "digest", DIGEST, answer)


async def test_over_tls_with_the_token_of_a_service_account(
    authority: Authority, ca_file: Path, service_account: ServiceAccount
) -> None:
    """The server's certificate is checked against ca_file, and each request carries a token that its key signed."""
    async with (
        tls_server(authority, service_account) as server,
        opened(server, insecure_channel=False, ca_file=str(ca_file)) as backend,
    ):
        await life(backend)


async def test_a_token_of_another_key_is_denied(
    authority: Authority, ca_file: Path, service_account: ServiceAccount
) -> None:
    """UNAUTHENTICATED is the service's own trouble: denied."""
    other = ServiceAccount(service_account.email, rsa.generate_private_key(65537, 2048).public_key())
    async with (
        tls_server(authority, other) as server,
        opened(server, insecure_channel=False, ca_file=str(ca_file)) as backend,
    ):
        with pytest.raises(DeniedError, match="credentials"):
            await life(backend)


@pytest.mark.usefixtures("service_account")
async def test_a_server_that_nobody_vouches_for_gets_no_request(authority: Authority, tmp_path: Path) -> None:
    """With another root in ca_file, or the system's roots alone, the handshake fails and nothing is sent."""
    foreign = tmp_path / "foreign.pem"
    foreign.write_bytes(Authority.make("foreign", "ecdsa").certificate.public_bytes(Encoding.PEM))
    async with tls_server(authority) as server:
        for changes in ({"ca_file": str(foreign)}, {}):
            async with opened(server, insecure_channel=False, **changes) as backend:
                with pytest.raises(UnavailableError):
                    await life(backend)
        assert not server.requests


@pytest.mark.usefixtures("service_account")
async def test_a_certificate_for_another_name_is_refused(authority: Authority, ca_file: Path) -> None:
    """The certificate must name the endpoint."""
    async with (
        tls_server(authority) as server,
        opened(server, insecure_channel=False, ca_file=str(ca_file), endpoint=f"127.0.0.2:{server.port}") as backend,
    ):
        with pytest.raises(UnavailableError):
            await life(backend)
        assert not server.requests


@pytest.mark.usefixtures("service_account")
async def test_tls_to_a_server_in_plain_text_is_unavailable(ca_file: Path) -> None:
    """A server without TLS is no KMS; no token is sent to it."""
    async with (
        simulator(resources_of(ManualClock())) as server,
        opened(server, insecure_channel=False, ca_file=str(ca_file)) as backend,
    ):
        with pytest.raises(UnavailableError):
            await life(backend)
        assert not server.requests


@pytest.mark.usefixtures("use")
async def test_without_credentials_the_back_end_is_misconfigured() -> None:
    """Nothing to sign in with is said when the service starts, not at the first signature."""
    async with simulator(resources_of(ManualClock())) as server:
        with pytest.raises(MisconfiguredError, match="application default credentials"):
            await open_backend(settings_for(server, insecure_channel=False), clock=ManualClock())


async def test_garbled_credentials_are_misconfigured(use: Use) -> None:
    """A credentials file that is none is a setting to be mended; its content is in no message."""
    use({"type": "service_account", "private_key": "secret octets"})
    async with simulator(resources_of(ManualClock())) as server:
        with pytest.raises(MisconfiguredError) as caught:
            await open_backend(settings_for(server, insecure_channel=False), clock=ManualClock())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"garbage"])
async def test_a_ca_file_that_is_none_is_misconfigured(tmp_path: Path, content: bytes | None) -> None:
    """A missing or garbled ca_file is named."""
    path = tmp_path / "roots.pem"
    if content is not None:
        path.write_bytes(content)
    async with simulator(resources_of(ManualClock())) as server:
        with pytest.raises(MisconfiguredError, match=r"roots\.pem"):
            await open_backend(settings_for(server, insecure_channel=False, ca_file=str(path)), clock=ManualClock())


@pytest.mark.parametrize("endpoint", ["", "kms.test:443", "10.0.0.1:443", "127.0.0.1.kms.test:443"])
async def test_plain_text_goes_to_this_machine_only(endpoint: str) -> None:
    """insecure_channel to any other machine is refused before anything is sent."""
    async with simulator(resources_of(ManualClock())) as server:
        with pytest.raises(MisconfiguredError, match="this machine only"):
            await open_backend(settings_for(server, endpoint=endpoint), clock=ManualClock())


class TokenServer:
    """SIMULATOR of a token service (RFC 8693): gives out tokens that last a second, or refuses."""

    def __init__(self) -> None:
        """Args: none."""
        self.refuses = False
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listen; the URL."""
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/token"

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        good = {
            "access_token": "t",
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer",
            "expires_in": 1,
        }
        body = json.dumps({"error": "invalid_grant"} if self.refuses else good).encode()
        status = "400 Bad Request" if self.refuses else "200 OK"
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()


async def test_a_refused_token_is_denied_and_a_missing_token_server_is_not(
    authority: Authority, ca_file: Path, use: Use, tmp_path: Path
) -> None:
    """Credentials that were withdrawn are an alarm (denied); a token server that is away passes (unavailable)."""
    tokens = TokenServer()
    (tmp_path / "subject").write_text("subject")
    use(
        {
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/x",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": await tokens.start(),
            "credential_source": {"file": str(tmp_path / "subject")},
        }
    )
    async with (
        tls_server(authority) as server,
        opened(server, insecure_channel=False, ca_file=str(ca_file)) as backend,
    ):
        await life(backend)
        tokens.refuses = True
        with pytest.raises(DeniedError, match="no access token"):
            await life(backend)
        tokens.refuses = False
        await life(backend)
        tokens.stop()
        with pytest.raises(UnavailableError):
            await life(backend)


def test_everything_works_under_uvloop_and_leaves_nothing_behind() -> None:
    """Services run on uvloop: 64 signatures at once, a death in mid-call, the return and the close; no task is left."""

    async def scenario() -> None:
        async with simulator(resources_of(ManualClock())) as server:
            relay = Relay(server.port)
            await relay.start()
            async with opened(server, endpoint=f"127.0.0.1:{relay.port}", workers=64) as backend:
                await asyncio.gather(*(life(backend) for _ in range(64)))
                server.faults.delay = 5.0
                call = asyncio.create_task(life(backend))
                await asyncio.sleep(0.1)
                await relay.stop()
                with pytest.raises(UnavailableError):
                    await call
                server.faults.delay = 0.0
                await relay.start()
                await _until_it_lives(backend)
            await relay.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    for run in (uvloop.run, asyncio.run, uvloop.run):  # one loop after another in one process, as a restart in place
        run(scenario())


async def _until_it_lives(backend: Backend) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                return await life(backend)
            except UnavailableError:
                await asyncio.sleep(0.05)


def test_a_process_that_signed_ends_in_peace() -> None:
    """A process on uvloop that signs, closes and ends prints nothing and returns 0, warnings being errors."""
    program = """
import uvloop
from tests.integration.gcp_kms.test_channel import life, opened, resources_of, simulator, ManualClock
async def main():
    async with simulator(resources_of(ManualClock())) as server, opened(server) as backend:
        await life(backend)
uvloop.run(main())
"""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    noise = [line for line in done.stderr.splitlines() if not line.startswith(("I", "WARNING: All log", "Executing"))]
    assert (done.returncode, done.stdout, noise) == (0, "", [])


def test_a_missing_sdk_is_named_by_its_extra() -> None:
    """Without google-cloud-kms the back end is misconfigured, and says what to install."""
    program = """
import asyncio, sys
sys.modules["google.cloud.kms_v1"] = None
from services.signer_hsm.backends.gcp_kms import open_backend
from services.signer_hsm.backends.settings import GcpKmsSettings
from services.signer_hsm.errors import MisconfiguredError
settings = GcpKmsSettings(name="gcp", type="gcp_kms", project="p", location="l")
try:
    asyncio.run(open_backend(settings, clock=None))
except MisconfiguredError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "the back end gcp needs the extra gcp-kms: pqcpki[gcp-kms]\n"
