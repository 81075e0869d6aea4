"""What anybody may read of a log over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from pkicore.tlog.checkpoint import verify_checkpoint
from pkicore.tlog.frontier import Frontier
from pkicore.tlog.proofs import inclusion_plan
from pkicore.tlog.tiles import Tile, decode_entries
from services.chassis.asgi import Application
from services.chassis.observability import HttpMetrics
from services.chassis.problems import ProblemTable
from services.chassis.tlog import TileLog, log_routes
from tests.support.clock import ManualClock
from tests.support.logs import ORIGIN, create_log_schema, entry_of, opened_log
from tests.support.pki import MemoryKey

SIZE = 600


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[TileLog]:
    """A log of 600 entries, signed."""
    url = f"sqlite:///{tmp_path / 'log.sqlite3'}"
    await create_log_schema(url)
    async with opened_log(url, MemoryKey.generate("ecdsa-p256"), ManualClock()) as log:
        for start in range(0, SIZE, 200):
            await asyncio.gather(*(log.append(entry_of(start + n)) for n in range(200)))
        await log.proof(SIZE - 1)
        yield log


@pytest.fixture
async def reader(log: TileLog) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who has the log's address and key, and nothing else."""
    metrics = HttpMetrics(CollectorRegistry())
    app = Application("log", log_routes(log, "/logs/one"), problems=ProblemTable({}), metrics=metrics)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://log/logs/one/") as client:
        yield client


async def test_a_reader_makes_proofs_from_tiles_alone(log: TileLog, reader: httpx.AsyncClient) -> None:
    """Checkpoint, then the tiles that a proof needs: what comes out is the log's own proof."""
    answer = await reader.get("checkpoint")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    checkpoint = verify_checkpoint(answer.content, ORIGIN, [log.note_key])
    assert checkpoint.size == SIZE
    plan = inclusion_plan(300, checkpoint.size)
    tiles = {tile: (await reader.get(tile.path)).content for tile in plan.tiles}
    assert tuple(plan.prove(tiles)) == (await log.proof(300)).hashes
    edge = {Tile(0, 2, 88): (await reader.get("tile/0/002.p/88")).content}
    edge[Tile(1, 0, 2)] = (await reader.get("tile/1/000.p/2")).content
    assert Frontier.load(SIZE, edge).root == checkpoint.root


async def test_entries_come_in_bundles(reader: httpx.AsyncClient) -> None:
    """Full ones and partial ones, for ever the same."""
    full, partial = await reader.get("tile/entries/001"), await reader.get("tile/entries/002.p/5")
    assert decode_entries(full.content, 256) == [entry_of(256 + n) for n in range(256)]
    assert decode_entries(partial.content, 5) == [entry_of(512 + n) for n in range(5)]
    assert "immutable" in full.headers["cache-control"]
    assert full.headers["content-type"] == "application/octet-stream"


async def test_a_partial_tile_is_the_beginning_of_the_full_one(reader: httpx.AsyncClient) -> None:
    """Whoever has an older checkpoint still gets the tiles of it."""
    full = (await reader.get("tile/0/000")).content
    assert (await reader.get("tile/0/000.p/17")).content == full[: 17 * 32]


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/003",
        "tile/0/002",
        "tile/0/002.p/89",
        "tile/1/000",
        "tile/1/000.p/3",
        "tile/2/000.p/1",
        "tile/63/000",
        "tile/64/000",
        "tile/entries/002",
        "tile/entries/002.p/89",
        "tile/0/0",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/..%2f..%2fcheckpoint",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "tile/0/-01",
        "tile/",
        "tile",
        "tiles/0/000",
    ],
)
async def test_what_the_log_does_not_have(reader: httpx.AsyncClient, path: str) -> None:
    """Beyond the checkpoint, or no path of a tile: not found, in a sentence."""
    answer = await reader.get(path)
    assert answer.status_code == 404
    assert json.loads(answer.content)["title"] == "No such resource"


async def test_only_reading_is_offered(reader: httpx.AsyncClient) -> None:
    """There is no way in but the service's own."""
    assert (await reader.post("checkpoint", content=b"x")).status_code == 405
    assert (await reader.put("tile/0/000", content=b"x")).status_code == 405
