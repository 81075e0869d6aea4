"""signer-hsm's domain while its disk is full, and after; prints what became of each request, and dies by SIGKILL.

Usage: full_disk_signer.py DIRECTORY limit|fill

`limit` lets no file of the process grow beyond a size (EFBIG); `fill` fills the directory's file system (ENOSPC), which
must be a small one. Room is made again while the service runs.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from services.chassis.ops import Readiness
from services.signer_hsm.readiness import DATABASE, ReadinessWatch
from tests.support.signer_world import CA, SignerWorld

ROOM = 200_000  # octets that are left for the log of the database
AT_ONCE = 16
ENOUGH = 64  # refusals that are waited for
PATIENCE_SECONDS = 60.0


class FullDisk:
    """A disk that is full when `shut`, and not any more when `opened`."""

    def __init__(self, directory: Path, kind: str) -> None:
        """With room still."""
        self._directory = directory
        self._filler = directory / "filler"
        self._limits = kind == "limit"

    def shut(self) -> None:
        """Leave a little room."""
        if self._limits:
            size = max(path.stat().st_size for path in self._directory.iterdir())
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + ROOM, resource.RLIM_INFINITY))
            return
        free = os.statvfs(self._directory)
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - ROOM)

    def opened(self) -> None:
        """Make room."""
        if self._limits:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        else:
            self._filler.unlink()


class Requests:
    """Signs one digest after the other, and notes what came of each."""

    def __init__(self, world: SignerWorld) -> None:
        """None yet."""
        self._http = world.http(CA)
        self._count = 0
        self.seen: list[dict[str, Any]] = []

    async def send(self) -> None:
        """As many as at once."""
        await asyncio.gather(*(self._one() for _ in range(AT_ONCE)))

    async def _one(self) -> None:
        self._count += 1
        number, digest = self._count, hashlib.sha256(str(self._count).encode()).digest()
        body = {"kind": "digest", "payload": base64.b64encode(digest).decode()}
        if number % 2:
            body["idempotency_key"] = str(number)
        answer: httpx.Response = await self._http.post("/v1/keys/ca.issuing/sign", json=body)
        self.seen.append(
            {
                "status": answer.status_code,
                "problem": answer.json().get("type"),
                "payload": digest.hex(),
                "payload_sha256": hashlib.sha256(digest).hexdigest(),
            }
        )

    async def until(self, holds: Callable[[], bool]) -> None:
        """Go on until it holds."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError
            await self.send()

    def with_status(self, status: int) -> int:
        """How many had this status."""
        return sum(item["status"] == status for item in self.seen)


class Watched:
    """What `/readyz` would say, asked every ten seconds of a clock of its own."""

    def __init__(self, world: SignerWorld) -> None:
        """Nothing is known yet."""
        self._seconds = 0.0
        self._readiness = Readiness(DATABASE)
        self._watch = ReadinessWatch(world.core.store, {}, self._readiness, lambda: self._seconds)

    async def says(self, *, ready: bool) -> bool:
        """Whether it says so soon: the last pages of a disk may take a small write where they take no request's."""
        for _ in range(100):
            self._seconds += 10
            await self._watch.look_at_database()
            if ready == (not self._readiness.reasons):
                return True
        return False


async def main(directory: Path, kind: str) -> None:
    """Sign with room, without, and with room again."""
    world = await SignerWorld.open(f"sqlite:///{directory}/s.sqlite3")
    await world.make("ca.issuing")
    disk, requests, watched = FullDisk(directory, kind), Requests(world), Watched(world)
    await requests.send()
    ready = [await watched.says(ready=True)]
    disk.shut()
    await requests.until(lambda: requests.with_status(200) + ENOUGH <= len(requests.seen))
    ready.append(await watched.says(ready=False))
    disk.opened()
    before = len(requests.seen)
    await requests.until(lambda: requests.with_status(200) > 0 and requests.seen[-1]["status"] == 200)
    ready.append(await watched.says(ready=True))
    signed = [payload.hex() for payload in world.device.signed]
    told = {"seen": requests.seen, "room_again": before, "signed": signed, "ready": ready}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
