"""A service that signs while its disk is full, and after; prints what became of each request, and dies by SIGKILL.

Usage: full_disk_service.py DIRECTORY limit|fill ca|signing
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from tests.support.audited_services import SERVICES, Answer
from tests.support.full_disk_signer import FullDisk

WITH_ROOM = 3
REFUSED = 8  # requests that are refused before there is room again
MOST = 400


async def main(directory: Path, kind: str, name: str) -> None:
    """Sign with room, without, and with room again."""
    service, disk = await SERVICES[name].open(directory), FullDisk(directory, kind)
    seen: list[Answer] = [await service.ask(number) for number in range(WITH_ROOM)]
    disk.shut()
    while sum(answer.status >= 400 for answer in seen) < REFUSED and len(seen) < MOST:
        seen.append(await service.ask(len(seen)))
    disk.opened()
    room_again = len(seen)
    seen.append(await service.ask(len(seen)))
    told = {"seen": [asdict(answer) for answer in seen], "room_again": room_again, "signed": service.signatures()}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
