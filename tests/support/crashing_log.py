"""Appends to a log until it dies by SIGKILL around one of its commits; what it was promised goes to standard output.

Usage: crashing_log.py URL KEY_FILE before|after LABEL NTH
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives.serialization import load_pem_private_key

from pkicore.algorithms import PrivateKey
from pkicore.clock import SystemClock
from services.chassis.database import CommitObserver
from tests.support.logs import opened_log
from tests.support.pki import MemoryKey

ROUNDS = 20
AT_ONCE = 3


def killer(moment: str, label: str, nth: int) -> CommitObserver:
    """Dies at the n-th commit with this label: no handler, no clean-up, no last words."""
    left = [nth]

    def observe(now: str, name: str) -> None:
        if (now, name) == (moment, label):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return observe


def kept_beside(key_file: Path) -> Path:
    """Where the last checkpoint is kept outside the database."""
    return key_file.with_suffix(".checkpoint")


def say(**what: object) -> None:
    """A line that is out before anything else happens."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


async def run(url: str, key: MemoryKey, observer: CommitObserver, kept: Path) -> None:
    """Append and prove, round after round."""
    async with opened_log(url, key, SystemClock(), observer=observer, kept=kept) as log:
        for number in range(ROUNDS):
            bodies = [b"round %d entry %d" % (number, place) for place in range(AT_ONCE)]
            for entry in await asyncio.gather(*map(log.append, bodies)):
                say(index=entry.index, entry=entry.data.decode())
            proof = await log.proof(entry.index)
            say(checkpoint=base64.b64encode(proof.checkpoint).decode())


def main() -> None:
    """As the arguments say."""
    url, key_file, moment, label, nth = sys.argv[1:]
    key = MemoryKey(cast("PrivateKey", load_pem_private_key(Path(key_file).read_bytes(), None)))
    asyncio.run(run(url, key, killer(moment, label, int(nth)), kept_beside(Path(key_file))))


if __name__ == "__main__":
    main()
