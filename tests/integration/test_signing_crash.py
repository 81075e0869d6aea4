"""The signing service is killed around each of its commits; the same request afterwards is answered once and whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.signing.wire import SignatureRecord
from tests.support.console import ROOT
from tests.support.crashing_signing import sign_once, signer_world
from tests.support.signing_world import SigningWorld

SCRIPT = ROOT / "tests" / "support" / "crashing_signing.py"


def _die(directory: Path, moment: str, nth: int) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, directory, moment, str(nth)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]


@pytest.mark.parametrize(("moment", "nth"), [("before", 1), ("after", 1), ("before", 2), ("after", 2)])
async def test_a_request_that_was_cut_off_is_done_again_safely(tmp_path: Path, moment: str, nth: int) -> None:
    """One record, every file of it there, none else once the sweep has come by; the audit chain goes on."""
    _die(tmp_path, moment, nth)
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
