"""Only what is configured is imported; what cannot work is told by a sentence; nothing stays half open."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from pydantic import TypeAdapter

from pkicore.algorithms import ALGORITHMS
from pkicore.clock import SystemClock
from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.registry import BackendRegistry
from services.signer_hsm.backends.settings import AnyBackendSettings
from services.signer_hsm.errors import BackendError, MisconfiguredError, UnavailableError
from services.signer_hsm.metrics import SignerMetrics
from tests.support.backend_file import file_settings

SDKS = ("pkcs11", "hvac", "requests", "boto3", "botocore", "google.cloud", "google_crc32c", "grpc", "yubihsm")


def named(settings: AnyBackendSettings, name: str, **changes: Any) -> AnyBackendSettings:  # noqa: ANN401 - settings
    """The same settings under another name."""
    return TypeAdapter[AnyBackendSettings](AnyBackendSettings).validate_python(
        {**settings.model_dump(), "name": name, **changes}
    )


async def opened(*settings: AnyBackendSettings, registry: CollectorRegistry | None = None) -> BackendRegistry:
    """The registry of these settings."""
    metrics = SignerMetrics(registry or CollectorRegistry())
    return await BackendRegistry.open(settings, clock=SystemClock(), metrics=metrics)


def run(program: str) -> str:
    """What a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


async def test_back_ends_by_name_in_order(tmp_path: Path) -> None:
    """Each configured back end is found by its name, the first one first, guarded and working."""
    settings = file_settings(tmp_path)
    registry = await opened(settings, named(settings, "second", directory=tmp_path / "second"))
    assert list(registry.backends) == ["file", "second"]
    assert all([(await backend.health()).ready for backend in registry.backends.values()])
    await registry.aclose()
    with pytest.raises(BackendError):
        await registry.backends["file"].load("bank.issuing.v1")


async def test_two_of_one_name(tmp_path: Path) -> None:
    """Two back ends of one name are refused."""
    settings = file_settings(tmp_path)
    with pytest.raises(MisconfiguredError, match="a name of its own, not file, file"):
        await opened(settings, settings)


async def test_when_one_does_not_open_none_stays_open(tmp_path: Path) -> None:
    """A back end that cannot work keeps the service from starting, with its sentence, and the others are closed."""
    good = file_settings(tmp_path)
    bad = named(good, "bad", passphrase_file=tmp_path / "missing")
    before = len(asyncio.all_tasks())
    with pytest.raises(MisconfiguredError, match=r"the back end bad: the passphrase file .*missing cannot be read"):
        await opened(good, bad)
    assert len(asyncio.all_tasks()) == before


async def test_watching_keeps_metrics_fresh(tmp_path: Path) -> None:
    """The watch asks each back end for its health without anybody else asking."""
    metrics = CollectorRegistry()
    registry = await opened(file_settings(tmp_path), registry=metrics)
    watch = asyncio.create_task(registry.watch())
    async with asyncio.timeout(20):
        while metrics.get_sample_value("signer_backend_ready", {"backend": "file"}) != 1:  # noqa: ASYNC110 (a metric)
            await asyncio.sleep(0.01)
    watch.cancel()
    await registry.aclose()


def test_the_service_imports_no_sdk() -> None:
    """With nothing but the registry and the settings imported, no SDK is in memory."""
    loaded = run(
        "import sys, services.signer_hsm.backends.registry, services.signer_hsm.settings\n"
        f"print([name for name in {SDKS!r} if name in sys.modules])"
    )
    assert loaded == "[]"


def test_a_file_back_end_imports_no_sdk(tmp_path: Path) -> None:
    """A service with a file back end alone has no other back end's module or SDK in memory."""
    settings = file_settings(tmp_path)
    loaded = run(
        "import asyncio, sys\n"
        "from prometheus_client import CollectorRegistry\n"
        "from pkicore.clock import SystemClock\n"
        "from services.signer_hsm.backends.registry import BackendRegistry\n"
        "from services.signer_hsm.backends.settings import FileSettings\n"
        "from services.signer_hsm.metrics import SignerMetrics\n"
        "async def main():\n"
        f"    settings = FileSettings.model_validate_json({settings.model_dump_json()!r})\n"
        "    metrics = SignerMetrics(CollectorRegistry())\n"
        "    registry = await BackendRegistry.open([settings], clock=SystemClock(), metrics=metrics)\n"
        "    print(list(registry.backends))\n"
        "    await registry.aclose()\n"
        "asyncio.run(main())\n"
        "others = [f'services.signer_hsm.backends.{kind}' for kind in ('pkcs11', 'vault', 'aws_kms', 'gcp_kms')]\n"
        f"print([name for name in [*others, *{SDKS!r}] if name in sys.modules])\n"
    )
    assert loaded.splitlines() == ["['file']", "[]"]


@pytest.mark.parametrize(
    ("sdk", "extra", "settings"),
    [
        ("pkcs11", "pkcs11", {"type": "pkcs11", "module": "/m.so", "token_label": "t", "pin_variable": "PIN"}),
        ("hvac", "vault", {"type": "vault", "address": "https://vault", "token_file": "/token"}),
        ("boto3", "aws-kms", {"type": "aws_kms", "region": "eu-central-1"}),
        ("google.cloud.kms_v1", "gcp-kms", {"type": "gcp_kms", "project": "p", "location": "l"}),
    ],
)
def test_a_missing_sdk_is_named(sdk: str, extra: str, settings: dict[str, str]) -> None:
    """Without its SDK a configured back end says which extra to install."""
    said = run(
        "import asyncio, sys\n"
        f"sys.modules[{sdk!r}] = None\n"
        "from prometheus_client import CollectorRegistry\n"
        "from pydantic import TypeAdapter\n"
        "from pkicore.clock import SystemClock\n"
        "from services.signer_hsm.backends.registry import BackendRegistry\n"
        "from services.signer_hsm.backends.settings import AnyBackendSettings\n"
        "from services.signer_hsm.errors import MisconfiguredError\n"
        "from services.signer_hsm.metrics import SignerMetrics\n"
        f"settings = TypeAdapter(AnyBackendSettings).validate_python({{'name': 'far', **{settings!r}}})\n"
        "metrics = SignerMetrics(CollectorRegistry())\n"
        "try:\n"
        "    asyncio.run(BackendRegistry.open([settings], clock=SystemClock(), metrics=metrics))\n"
        "except MisconfiguredError as error:\n"
        "    print(error)\n"
    )
    assert f"pqcpki[{extra}]" in said


async def test_a_guarded_back_end_finds_nothing_in_an_empty_place(tmp_path: Path) -> None:
    """What the registry opens is a back end like any."""
    registry = await opened(file_settings(tmp_path))
    assert await registry.backends["file"].find(KeyLabel("bank", "issuing", 1)) is None
    await registry.aclose()


async def test_a_back_end_that_is_away_at_start_keeps_nobody_from_serving(tmp_path: Path) -> None:
    """The others serve, it answers unavailable at once and says so in health and metrics, and it opens by itself."""
    metrics = CollectorRegistry()
    good = file_settings(tmp_path)
    (tmp_path / "mount").write_text("no directory")
    away = named(good, "away", directory=tmp_path / "mount" / "keys")
    registry = await opened(good, away, registry=metrics)
    assert (await registry.backends["file"].health()).ready
    guard = registry.backends["away"]
    begun = time.monotonic()
    with pytest.raises(UnavailableError, match=r"not open yet \(unavailable\)") as caught:
        await guard.load("bank.issuing.v1")
    assert time.monotonic() - begun < good.deadline_seconds / 2
    assert (caught.value.uncertain, caught.value.retry_after) == (False, good.deadline_seconds)
    health = await guard.health()
    assert (health.ready, health.detail["problem"]) == (False, "unavailable")
    failures = {"backend": "away", "operation": "open", "class": "unavailable"}
    assert metrics.get_sample_value("signer_backend_failures_total", failures) == 1
    (tmp_path / "mount").unlink()
    async with asyncio.timeout(30):
        while not guard.offers:  # noqa: ASYNC110 (another task opens it)
            await asyncio.sleep(0.05)
    assert await guard.find(KeyLabel("bank", "issuing", 1)) is None
    assert (await guard.health()).ready
    await registry.aclose()


async def test_a_refused_secret_is_not_tried_again(tmp_path: Path) -> None:
    """The others serve; the back end says that it is misconfigured, and nothing is tried in the background."""
    good = file_settings(tmp_path)
    first = await opened(good)
    await first.backends["file"].create(KeyLabel("bank", "issuing", 1), ALGORITHMS["ecdsa-p256"])
    await first.aclose()
    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_text("another passphrase")
    registry = await opened(
        named(good, "well", directory=tmp_path / "well"), named(good, "refused", passphrase_file=wrong)
    )
    assert (await registry.backends["well"].health()).ready
    guard = registry.backends["refused"]
    for _ in range(2):
        with pytest.raises(MisconfiguredError, match="passphrase"):
            await guard.load("bank.issuing.v1")
    assert (await guard.health()).detail["problem"] == "misconfigured"
    await registry.aclose()


async def test_closing_ends_the_opening(tmp_path: Path) -> None:
    """A back end that never came leaves no task behind."""
    (tmp_path / "mount").write_text("no directory")
    before = len(asyncio.all_tasks())
    registry = await opened(named(file_settings(tmp_path), "away", directory=tmp_path / "mount" / "keys"))
    assert len(asyncio.all_tasks()) == before + 1
    await registry.aclose()
    assert len(asyncio.all_tasks()) == before
