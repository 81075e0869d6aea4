"""The service's side of checking SBOMs: each document in a process of its own, a bounded number of them at once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from services.signing.sbom.errors import (
    BadSbomError,
    Problem,
    SbomBusyError,
    SbomCheckFailedError,
    SbomError,
    SbomTooCostlyError,
)
from services.signing.sbom.limits import Limits
from services.signing.sbom.record import Sbom

_MAX_LINE: Final = 64 * 1024  # octets of a child's answer
_MAX_MEDIA_TYPE: Final = 200  # characters
_GRACE: Final = 2.0  # seconds in which the kernel's own limit should have ended a child
_COSTLY_SIGNALS: Final[dict[int, str]] = {
    signal.SIGXCPU: "processor time",
    signal.SIGALRM: "time",
    signal.SIGKILL: "memory",
}


class SbomChecker:
    """Checks SBOMs on disk; the documents never come into this process."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._slots = asyncio.Semaphore(self._limits.children)
        self._waiting = 0

    async def check_sbom(self, path: Path, declared_media_type: str | None) -> Sbom:
        """Check the document in `path`, by its content; a declared media type must agree.

        Raises:
            BadSbomError: not an SBOM of an accepted format; `.problems` has at most 10.
            SbomTooCostlyError: it takes more memory or time than allowed.
            SbomBusyError: too many checks wait, or this one waited for too long.
            SbomCheckFailedError: the check broke down.
        """
        if declared_media_type is not None and not _is_short_text(declared_media_type):
            raise BadSbomError.of("$", "was declared to be of a media type that is none")
        async with self._slot():
            return await self._in_child(path, declared_media_type)

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        if self._slots.locked() and self._waiting >= self._limits.waiting:
            raise SbomBusyError(self._retry_after)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._limits.wait_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise SbomBusyError(self._retry_after) from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()

    @property
    def _retry_after(self) -> int:
        return max(1, int(self._limits.wait_seconds))

    async def _in_child(self, path: Path, declared: str | None) -> Sbom:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-m", "services.signing.sbom.check"),
            *(os.fspath(path), json.dumps(asdict(self._limits)), *([declared] if declared else [])),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=DEVNULL,  # its tracebacks would quote the document
            env={},
            limit=_MAX_LINE,
        )
        try:
            async with asyncio.timeout(self._limits.wall_seconds + _GRACE):
                line = await _line_of(process)
                status = await process.wait()
        except TimeoutError:
            raise SbomTooCostlyError("time") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return _read_answer(line, status)


async def _line_of(process: Process) -> bytes:
    assert process.stdout is not None  # noqa: S101 - PIPE above
    try:
        return await process.stdout.readline()
    except ValueError:  # longer than the limit of the stream
        return b""


def _read_answer(line: bytes, status: int) -> Sbom:
    if not line.endswith(b"\n"):
        raise _unanswered(status)
    answer: dict[str, Any] = json.loads(line)
    if "sbom" in answer:
        return Sbom.from_members(answer["sbom"])
    if "refused" in answer:
        raise BadSbomError([Problem(**problem) for problem in answer["refused"]])
    if "costly" in answer:
        raise SbomTooCostlyError(answer["costly"])
    raise SbomCheckFailedError(f"the check of an SBOM failed: {answer.get('failed')}")


def _unanswered(status: int) -> SbomError:
    resource = _COSTLY_SIGNALS.get(-status)
    if resource is not None:
        return SbomTooCostlyError(resource)
    return SbomCheckFailedError(f"the check of an SBOM ended with status {status} and without an answer")


def _is_short_text(text: str) -> bool:
    return 0 < len(text) <= _MAX_MEDIA_TYPE and text.isascii() and text.isprintable()
