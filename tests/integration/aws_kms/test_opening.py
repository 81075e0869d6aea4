"""Opening the back end: where credentials and endpoints come from, TLS, and settings that cannot work."""

from __future__ import annotations

import ssl
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pkicore.algorithms import ALGORITHMS
from pkicore.clock import SystemClock
from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.aws_kms import open_backend
from services.signer_hsm.errors import DeniedError, MisconfiguredError, UnavailableError
from services.signer_hsm.schemes import SCHEMES
from tests.support.aws_kms_simulator import AwsKmsSimulator
from tests.support.backend_aws_kms import open_simulated, simulator_settings
from tests.support.console import ROOT
from tests.support.openssl import openssl

P256 = ALGORITHMS["ecdsa-p256"]


@pytest.fixture
def credentials_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty credentials file, the only source of credentials that the SDK finds."""
    path = tmp_path / "credentials"
    path.write_text("")
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return path


def write_credentials(path: Path, simulator: AwsKmsSimulator) -> None:
    """As `aws configure` writes them."""
    known = simulator.principals[simulator.credentials.key_id]
    lines = ["[default]", f"aws_access_key_id = {known.key_id}", f"aws_secret_access_key = {known.secret}"]
    lines += [f"aws_session_token = {known.token}"] if known.token else []
    path.write_text("\n".join(lines))


async def test_credentials_come_the_sdk_s_usual_ways(simulator: AwsKmsSimulator, credentials_file: Path) -> None:
    """A shared credentials file is enough."""
    write_credentials(credentials_file, simulator)
    backend = await open_backend(simulator_settings(simulator), clock=SystemClock())
    assert (await backend.health()).ready
    await backend.aclose()


async def test_missing_credentials_are_a_denial_until_there_are_some(
    simulator: AwsKmsSimulator, credentials_file: Path
) -> None:
    """The back end opens, says what is missing, and needs no restart once it is there."""
    backend = await open_backend(simulator_settings(simulator), clock=SystemClock())
    with pytest.raises(DeniedError, match="NoCredentialsError"):
        await backend.find(KeyLabel("ca", "issuing", 1))
    write_credentials(credentials_file, simulator)
    assert await backend.find(KeyLabel("ca", "issuing", 1)) is None
    await backend.aclose()


async def test_expired_credentials_are_read_anew(simulator: AwsKmsSimulator, credentials_file: Path) -> None:
    """A file that was rotated under the running service is seen after one refusal."""
    known = simulator.credentials
    simulator.principals[known.key_id] = replace(known, token="first-token")
    write_credentials(credentials_file, simulator)
    backend = await open_backend(simulator_settings(simulator), clock=SystemClock())
    key = await backend.create(KeyLabel("ca", "issuing", 1), P256)
    await backend.set_enabled(key.handle, enabled=True)  # no longer new: a refusal is not waited out
    simulator.principals[known.key_id] = replace(known, token="second-token")
    write_credentials(credentials_file, simulator)
    with pytest.raises(DeniedError, match="UnrecognizedClientException"):
        await backend.sign(key.handle, SCHEMES["ES256"], "digest", [bytes(32)])
    assert await backend.sign(key.handle, SCHEMES["ES256"], "digest", [bytes(32)])
    await backend.aclose()


async def test_the_environment_does_not_redirect_the_endpoint(
    simulator: AwsKmsSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the settings say where requests go."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:9")
    backend = await open_simulated(simulator, SystemClock())
    assert (await backend.health()).ready
    await backend.aclose()


async def test_the_environment_does_not_redirect_the_default_endpoint(
    simulator: AwsKmsSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without endpoint_url it is AWS's own, and not a listener that a variable names."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", simulator.url)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # so that nothing leaves this machine
    backend = await open_simulated(simulator, SystemClock(), endpoint_url="", attempts=1)
    assert not (await backend.health()).ready
    assert not simulator.calls
    await backend.aclose()


def make_certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate),
    )  # fmt: skip
    return certificate, key


async def test_tls_trusts_the_configured_roots_alone(tmp_path: Path) -> None:
    """The endpoint's certificate is checked against ca_file; another root is an outage, and mends by itself."""
    right, key = make_certificate(tmp_path, "right")
    wrong, _ = make_certificate(tmp_path, "wrong")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(right, key)
    with AwsKmsSimulator(tls=context) as simulator:
        trusting = await open_simulated(simulator, SystemClock(), ca_file=right)
        assert (await trusting.health()).ready
        await trusting.aclose()
        doubting = await open_simulated(simulator, SystemClock(), ca_file=wrong, attempts=1)
        with pytest.raises(UnavailableError, match="SSLError"):
            await doubting.find(KeyLabel("ca", "issuing", 1))
        await doubting.aclose()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"endpoint_url": "not a url"}, "endpoint_url"),
        ({"region": "no region"}, "region"),
        ({"alias_prefix": "aws"}, "alias_prefix"),
    ],
)
async def test_settings_that_make_no_client_are_refused_at_the_start(
    simulator: AwsKmsSimulator, credentials_file: Path, changes: dict[str, object], words: str
) -> None:
    """The sentence names what to look at."""
    write_credentials(credentials_file, simulator)
    with pytest.raises(MisconfiguredError, match=words):
        await open_backend(simulator_settings(simulator, **changes), clock=SystemClock())


async def test_a_profile_that_is_not_there_is_refused_at_the_start(
    simulator: AwsKmsSimulator, credentials_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS_PROFILE names nothing."""
    write_credentials(credentials_file, simulator)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(MisconfiguredError, match="ProfileNotFound"):
        await open_backend(simulator_settings(simulator), clock=SystemClock())


def test_without_the_sdk_the_error_names_the_extra() -> None:
    """A process in which boto3 cannot be imported still imports the back end's package."""
    program = (
        "import asyncio, sys; sys.modules['boto3'] = None\n"
        "from pkicore.clock import SystemClock\n"
        "from services.signer_hsm.backends.aws_kms import open_backend\n"
        "from services.signer_hsm.backends.settings import AwsKmsSettings\n"
        "settings = AwsKmsSettings.model_validate({'type': 'aws_kms', 'name': 'aws', 'region': 'eu-central-1'})\n"
        "asyncio.run(open_backend(settings, clock=SystemClock()))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "MisconfiguredError: the AWS SDK is not installed; install the extra pqcpki[aws-kms]" in ran.stderr
