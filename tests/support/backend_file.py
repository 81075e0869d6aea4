"""The world of the `file` back end: a directory below tmp_path."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pkicore.clock import Clock
from services.signer_hsm.backends.file import open_backend
from services.signer_hsm.backends.settings import FileSettings
from tests.support.backend_world import BackendWorld

ALGORITHMS = ("ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "ed25519", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87", "rsa-2048")


def file_settings(tmp_path: Path) -> FileSettings:
    """Settings of a back end with a passphrase of its own."""
    tmp_path.mkdir(exist_ok=True)
    passphrase_file = tmp_path / "passphrase"
    if not passphrase_file.exists():
        passphrase_file.touch(mode=0o600)
        passphrase_file.write_text("correct horse battery staple")
    return FileSettings.model_validate(
        {"name": "file", "type": "file", "directory": tmp_path / "keys", "passphrase_file": passphrase_file}
    )


@asynccontextmanager
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[BackendWorld]:
    """Sealed files, no device."""
    settings = file_settings(tmp_path)
    made = BackendWorld(
        backend=await open_backend(settings, clock=clock),
        algorithms=ALGORITHMS,
        open_again=lambda: open_backend(settings, clock=clock),
        evidence={"extractable": True},
    )
    try:
        yield made
    finally:
        await made.backend.aclose()
