"""The signing service is killed around each of its commits; the same request afterwards is answered once and whole."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from pkicore.tlog.checkpoint import verify_checkpoint
from pkicore.tlog.frontier import Frontier
from pkicore.tlog.merkle import leaf_hash
from pkicore.tlog.proofs import verify_consistency
from services.signing.wire import SignatureRecord
from tests.support.crashing_signing import sign_once, signer_world
from tests.support.fork_server import fork_server
from tests.support.signing_world import ORIGIN, SigningWorld


def _die(directory: Path, *when: str) -> None:
    arguments = [str(directory), *when]
    done = fork_server().run("tests.support.crashing_signing", arguments, os.environ, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]


@pytest.mark.parametrize(("moment", "nth"), [("before", 1), ("after", 1), ("before", 2), ("after", 2)])
async def test_a_request_that_was_cut_off_is_done_again_safely(tmp_path: Path, moment: str, nth: int) -> None:
    """One record, every file of it there, none else once the sweep has come by; the audit chain goes on."""
    _die(tmp_path, moment, str(nth))
    answer = await sign_once(tmp_path)
    record = SignatureRecord.from_json(answer)
    signer = await signer_world(tmp_path)
    world = await SigningWorld.open(tmp_path, signer_world=signer)
    assert [one["id"] for one in await world.audit("signature.created")] == [record.id]
    urls = {one.url for one in record.signatures} | {one.url for one in record.bundles} | set(record.urls.values())
    for url in urls:
        assert (await world.fetch(url)).status_code == 200, url
    await world.core.objects.sweep(world.core.store.object_is_used, now=time.time() + 3700)
    for url in urls:
        assert (await world.fetch(url)).status_code == 200, url
    named = [one.sha256 for one in await world.core.store.artefacts(record.id) if one.content is None]
    assert sorted(path.parent.name + path.name for path in world.files()) == sorted(set(named))
    assert len(await world.audit("sign.decision")) >= 1
    await world.close()
    await signer.close()


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_log_killed_between_append_and_checkpoint_goes_on_as_one(tmp_path: Path, moment: str) -> None:
    """What was entered before SIGKILL stays, is covered by the next checkpoint, and is counted as of no record."""
    _die(tmp_path, moment, "1", "checkpoint")
    before = _log_head(tmp_path)
    record = SignatureRecord.from_json(await sign_once(tmp_path, witnesses=True))
    signer = await signer_world(tmp_path)
    world = await SigningWorld.open(tmp_path, signer_world=signer, witnesses=True)
    assert world.log is not None
    size, recorded = await world.log.size(), await world.core.store.recorded_log_entries()
    assert size - recorded == before.size
    checkpoint = verify_checkpoint((await world.log.tiles.proof(size - 1)).checkpoint, ORIGIN, [world.log.note_key])
    entries = await world.log.tiles.entries(0, size)
    assert Frontier.empty().append([leaf_hash(entry) for entry in entries])[0].root == checkpoint.root
    if before.note:
        signed = verify_checkpoint(before.note, ORIGIN, [world.log.note_key])
        proof = await world.log.tiles.consistency(signed.size, size)
        verify_consistency(signed.size, size, proof, signed.root, checkpoint.root)
    assert record.log is not None
    assert record.log.index >= before.size > 0
    await world.close()
    await signer.close()


class _Head(NamedTuple):
    size: int
    note: bytes


def _log_head(directory: Path) -> _Head:
    """What a killed process has left of its log."""
    with closing(sqlite3.connect(directory / "signing.sqlite3")) as connection:
        return _Head(*connection.execute("SELECT size, checkpoint FROM log_head").fetchone())
