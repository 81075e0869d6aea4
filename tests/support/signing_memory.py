"""Signs with a 40 MiB SBOM and prints by how many KiB the process grew at its peak.

Usage: signing_memory.py DIRECTORY

The SBOM's check, which is a process of its own, is left out: a stand-in says what it is.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from services.chassis.observability import HttpMetrics
from services.signing.app import public_application
from services.signing.sbom import BsiReport, Description, Sbom
from tests.contract.test_signing_uploads import BOUNDARY, part
from tests.support.signing_world import OPERATOR, SigningWorld, request

MIB = 1024 * 1024
_HEAD = b'{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":["'
_TAIL = b'"]}'


class SaysCycloneDx:
    """Stands for the check."""

    async def check_sbom(self, path: Path, declared_media_type: str | None) -> Sbom:
        """CycloneDX, whatever it is."""
        del path, declared_media_type
        described = Description(None, None, None, None, 1)
        media_type = "application/vnd.cyclonedx+json"
        return Sbom("cyclonedx", "1.6", media_type, "https://cyclonedx.org/bom", described, BsiReport("", (), ()))


def _resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


async def _upload(world: SigningWorld, mebibytes: int) -> int:
    application = public_application(world.core, HttpMetrics(CollectorRegistry()))
    left = mebibytes * 16
    status = 0
    start = [
        part("request", b'{"subjects":%b,"profile":"hybrid"}' % _subjects()),
        b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="sbom"\r\n\r\n' + _HEAD,
    ]

    async def receive() -> dict[str, Any]:
        nonlocal left
        if start:
            return {"type": "http.request", "body": start.pop(0), "more_body": True}
        left -= 1
        if left >= 0:
            return {"type": "http.request", "body": b"x" * 65_536, "more_body": True}
        return {"type": "http.request", "body": _TAIL + b"\r\n--" + BOUNDARY + b"--\r\n", "more_body": False}

    async def send(message: Any) -> None:  # noqa: ANN401 -- ASGI's own type
        nonlocal status
        status = message.get("status", status)

    headers = [(b"content-type", b"multipart/form-data; boundary=" + BOUNDARY)]
    peer = SimpleNamespace(spiffe_id=OPERATOR, serial=1)
    scope = {"type": "http", "method": "POST", "path": "/v1/signatures", "headers": headers, "state": {"peer": peer}}
    await application(scope, receive, send)
    return status


def _subjects() -> bytes:
    return orjson.dumps(request()["subjects"])


async def _main(directory: Path) -> None:
    world = await SigningWorld.open(directory, sboms=SaysCycloneDx())
    assert await _upload(world, 2) == 201  # what is loaded once is loaded
    _forget_peak()
    before = _resident("VmRSS")
    assert await _upload(world, 40) == 201
    sys.stdout.write(f"{_resident('VmHWM') - before}\n")
    await world.close()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1])))
