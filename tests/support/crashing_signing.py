"""Makes one signature with an SBOM at the signing service's domain, and dies by SIGKILL around one of its commits.

Usage: crashing_signing.py DIRECTORY [before|after NTH [checkpoint]]

With the last word the signature is time-stamped and logged, and the n-th commit is that of a checkpoint of the log that
covers entries.
signer-hsm's device is a directory, so that its keys outlive the process. Prints the answer, if there is one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Literal

from services.chassis.database import CommitObserver
from tests.support.crashing_signer import KeyFiles
from tests.support.sboms import cyclonedx
from tests.support.signer_world import MemoryDevice, SignerWorld
from tests.support.signing_world import KEY_POLICY, KEYS, SigningWorld, make_key, request

IDEMPOTENCY_KEY = "release-7"


async def signer_world(directory: Path) -> SignerWorld:
    """signer-hsm as the last process left it."""
    keys = directory / "device"
    keys.mkdir(exist_ok=True)
    world = await SignerWorld.open(
        f"sqlite:///{directory}/signer.sqlite3",
        policy=KEY_POLICY,
        device=MemoryDevice(keys=KeyFiles(keys)),  # type: ignore[arg-type]  # a mapping that lasts
    )
    for name, algorithm in KEYS.items():
        await make_key(world, f"acme.{name}", algorithm)
    return world


async def sign_once(directory: Path, observer: CommitObserver | None = None, *, witnesses: bool = False) -> bytes:
    """The answer to the one request."""
    signer = await signer_world(directory)
    world = await SigningWorld.open(directory, signer_world=signer, observer=observer, witnesses=witnesses)
    body = request(profile="witnessed" if witnesses else "hybrid", sbom={"content": cyclonedx()})
    async with world.http() as http:
        answer = await http.post("/v1/signatures", json=body, headers={"idempotency-key": IDEMPOTENCY_KEY})
    assert answer.status_code == 201, answer.text
    await world.close()
    await signer.close()
    return answer.content


def main() -> None:
    """Sign, or die."""
    moment, nth = (sys.argv[2], int(sys.argv[3])) if len(sys.argv) > 2 else ("", 0)
    of_log = sys.argv[4] if len(sys.argv) > 4 else ""
    labels = {f"log {of_log}"} if of_log else {"decision", "signature"}
    seen, has_entries = 0, False

    def observe(at: Literal["before", "after"], label: str) -> None:
        nonlocal seen, has_entries
        has_entries = has_entries or label == "log entries"
        if label not in labels or at != moment or (of_log and not has_entries):
            return
        seen += 1
        if seen == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.stdout.buffer.write(asyncio.run(sign_once(Path(sys.argv[1]), observe, witnesses=bool(of_log))))


if __name__ == "__main__":
    main()
