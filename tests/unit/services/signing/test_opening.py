"""The name of the log: verifiers know it by the host of a URL, and it keeps its first name when the service moves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pkicore.tlog.checkpoint import verify_checkpoint
from services.chassis.database import Database
from services.chassis.errors import SettingsError
from services.chassis.tlog import ForkedLogError
from services.signing.app import MIGRATIONS
from services.signing.opening import Ground, open_log
from services.signing.published_trust import log_url, trusted_log
from tests.support.clock import ManualClock
from tests.support.migrated import migrated
from tests.support.pki import MemoryKey

OLD, NEW = "https://old.example", "https://new.example:7000"


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """The service's, empty."""
    url = f"sqlite:///{tmp_path / 'signing.sqlite3'}"
    await migrated(url, MIGRATIONS)
    database = await Database.open(url, clock=ManualClock())
    yield database
    await database.close()


async def checkpoint(
    database: Database, directory: Path, key: MemoryKey, base_url: str, log_origin: str = ""
) -> tuple[str, bytes]:
    """One life of a service at this URL: the log's origin, and a checkpoint over one more entry."""
    settings = SimpleNamespace(log_origin=log_origin, state_dir=directory)
    async with AsyncExitStack() as stack:
        ground = SimpleNamespace(settings=settings, base_url=base_url, database=database, stack=stack)
        log = await open_log(cast("Ground", ground), key)
        proof = await log.tiles.proof((await log.tiles.append(b"entry")).index)
        return log.origin, proof.checkpoint


@pytest.mark.parametrize(
    ("base_url", "origin", "url"),
    [
        ("https://signing.example.org", "signing.example.org", "https://signing.example.org"),
        ("https://Signing.Example.org:7000", "signing.example.org", "https://Signing.Example.org:7000"),
        ("https://new.example:7000", "old.example", "https://old.example"),
        ("https://[::1]:7000", "::1", "https://[::1]:7000"),
    ],
)
def test_the_url_of_a_log_says_its_origin(base_url: str, origin: str, url: str) -> None:
    """Whatever the service is called now, verifiers derive the origin that stands in the checkpoints."""
    log = trusted_log(log_url(base_url, origin), MemoryKey.generate("ecdsa-p256").public_key, ManualClock().now())
    assert (log.base_url, log.origin) == (url, origin)


async def test_a_service_that_moves_is_told_to_keep_the_name_of_its_log(database: Database, tmp_path: Path) -> None:
    """The error names both settings and the value; with it the log goes on, and what is published verifies it."""
    key = MemoryKey.generate("ecdsa-p256")
    first = await checkpoint(database, tmp_path, key, OLD)
    with pytest.raises(SettingsError, match=r'set log_origin = "old\.example", or external_url to what it was'):
        await checkpoint(database, tmp_path, key, NEW)
    origin, note = await checkpoint(database, tmp_path, key, NEW, "old.example")
    trusted = trusted_log(log_url(NEW, origin), key.public_key, ManualClock().now())
    for size, one in ((1, first[1]), (2, note)):
        assert verify_checkpoint(one, trusted.origin, [trusted.note_key]).size == size


async def test_the_last_checkpoint_is_kept_in_the_directory_of_the_service(database: Database, tmp_path: Path) -> None:
    """So that its database, restored from an older backup, is noticed."""
    key = MemoryKey.generate("ecdsa-p256")
    _, note = await checkpoint(database, tmp_path, key, OLD)
    assert (tmp_path / "log-checkpoint").read_bytes() == note
    await migrated(f"sqlite:///{tmp_path / 'older.sqlite3'}", MIGRATIONS)
    older = await Database.open(f"sqlite:///{tmp_path / 'older.sqlite3'}", clock=ManualClock())
    try:
        with pytest.raises(ForkedLogError, match="has 0 entries, and 1 were signed"):
            await checkpoint(older, tmp_path, key, OLD)
    finally:
        await older.close()
