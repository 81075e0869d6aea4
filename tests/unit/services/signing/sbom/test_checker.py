import asyncio
import os
import resource
import socket
from pathlib import Path
from typing import Any

import pytest

from services.signing.sbom import (
    BadSbomError,
    Limits,
    Problem,
    Sbom,
    SbomBusyError,
    SbomChecker,
    SbomCheckFailedError,
    SbomTooCostlyError,
)
from tests.support.sboms import cyclonedx, spdx2, spdx3, written

_MIB = 1024 * 1024


async def _check(path: Path, limits: Limits | None = None, declared: str | None = None) -> Sbom:
    return await SbomChecker(limits).check_sbom(path, declared)


def _children() -> list[str]:
    """The checks that run, by process id; the process that tests may have other children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [child for child in children if b"services.signing.sbom.check" in _command(child)]


def _command(process: str) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:  # it has ended in between
        return b""


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A file that is never read to its end: a pipe that nobody writes into."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("document", [cyclonedx("1.7"), spdx2("2.3"), spdx3()], ids=["cyclonedx", "spdx2", "spdx3"])
async def test_each_format_is_checked_in_a_process_of_its_own(tmp_path: Path, document: dict[str, Any]) -> None:
    """What the child found comes back whole."""
    sbom = await _check(written(tmp_path, document))
    assert sbom.description.components == 2
    assert sbom.bsi.guideline.startswith("BSI TR-03183-2")
    assert _children() == []


async def test_problems_come_back_with_their_paths(tmp_path: Path) -> None:
    """A refusal in the child is one in the service."""
    with pytest.raises(BadSbomError) as caught:
        await _check(written(tmp_path, cyclonedx() | {"components": [{"type": "library"}]}))
    assert caught.value.problems == (Problem("$.components[0]", "lacks the member 'name'"),)


async def test_a_declaration_that_disagrees_is_refused(tmp_path: Path) -> None:
    """The declared media type reaches the check."""
    with pytest.raises(BadSbomError, match="was declared to be application/spdx"):
        await _check(written(tmp_path, cyclonedx()), declared="application/spdx+json")


@pytest.mark.parametrize("declared", ["", "a" * 201, "a\nb", "a\x00b", "\N{LATIN SMALL LETTER A WITH DIAERESIS}/b"])
async def test_a_declaration_that_is_no_media_type_starts_nothing(tmp_path: Path, declared: str) -> None:
    """What could not be an argument of a process is refused before there is one."""
    with pytest.raises(BadSbomError, match="media type that is none"):
        await _check(tmp_path / "none", declared=declared)


async def test_a_document_over_the_limit_is_refused(tmp_path: Path) -> None:
    """The length is bounded in the child too."""
    with pytest.raises(BadSbomError, match="longer than 100 bytes"):
        await _check(written(tmp_path, cyclonedx()), Limits(document_bytes=100))


async def test_a_document_that_unfolds_in_memory_is_too_costly(tmp_path: Path) -> None:
    """8 MiB of empty lists would take twenty times that; the child stops at its limit."""
    data = b'{"bomFormat": "CycloneDX", "x": [' + b"[]," * (8 * _MIB // 3) + b"[]]}"
    with pytest.raises(SbomTooCostlyError) as caught:
        await _check(written(tmp_path, data), Limits(memory_bytes=128 * _MIB))
    assert caught.value.resource == "memory"


async def test_a_pattern_that_takes_for_ever_is_too_costly(tmp_path: Path) -> None:
    """Text that makes a library's regular expression try everything ends with the processor time allowed."""
    document = spdx2()
    document["creationInfo"]["creators"] = ["Person: " + "(" * 400_000]
    with pytest.raises(SbomTooCostlyError) as caught:
        await _check(written(tmp_path, document), Limits(processor_seconds=1))
    assert caught.value.resource == "processor time"


async def test_a_check_that_never_ends_is_ended(endless: Path) -> None:
    """The wall time is bounded by the kernel, whatever the child waits for."""
    with pytest.raises(SbomTooCostlyError) as caught:
        await _check(endless, Limits(wall_seconds=1))
    assert caught.value.resource == "time"
    assert _children() == []


async def test_a_check_that_is_given_up_leaves_no_process(endless: Path) -> None:
    """When the caller is gone, so is the child."""
    task = asyncio.create_task(_check(endless))
    while not _children():  # noqa: ASYNC110 - the kernel tells nobody that a process is there
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _children() == []


async def test_a_check_that_cannot_read_its_file_has_failed(tmp_path: Path) -> None:
    """A fault of ours is neither the document's nor silent."""
    with pytest.raises(SbomCheckFailedError, match="FileNotFoundError"):
        await _check(tmp_path / "none")


async def test_no_more_checks_run_or_wait_than_allowed(tmp_path: Path, endless: Path) -> None:
    """With one check at once and one that may wait, the third is turned away, the second after its patience."""
    checker = SbomChecker(Limits(children=1, waiting=1, wait_seconds=0.2))
    first = asyncio.create_task(checker.check_sbom(endless, None))
    await asyncio.sleep(0)
    second = asyncio.create_task(checker.check_sbom(endless, None))
    await asyncio.sleep(0)
    with pytest.raises(SbomBusyError) as caught:
        await checker.check_sbom(endless, None)
    assert caught.value.retry_after == 1
    assert not second.done()
    with pytest.raises(SbomBusyError):
        await second
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await checker.check_sbom(written(tmp_path, cyclonedx()), None)).version == "1.6"


async def test_the_services_own_memory_stays_flat(tmp_path: Path) -> None:
    """A document of 24 MiB adds less than 4 MiB to the process that asks."""
    path = tmp_path / "sbom.json"
    with path.open("wb") as file:
        file.write(b'{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": "')
        file.writelines([b"x" * _MIB] * 24)
        file.write(b'"}')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadSbomError):
        await _check(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 * 1024


def _referring(url: str) -> dict[str, tuple[dict[str, Any], bool]]:
    """Documents that refer to `url` in every way, and whether they are good ones."""
    spdx = spdx3()
    spdx["@graph"][2]["import"] = [{"type": "ExternalMap", "externalSpdxId": url, "locationHint": url}]
    checksum = {"algorithm": "SHA1", "checksumValue": "ab" * 20}
    other = {"externalDocumentId": "DocumentRef-a", "spdxDocument": url, "checksum": checksum}
    return {
        "cyclonedx": (cyclonedx() | {"externalReferences": [{"type": "bom", "url": url}], "$schema": url}, True),
        "spdx2": (spdx2() | {"externalDocumentRefs": [other]}, True),
        "spdx3": (spdx, True),
        "schema": (cyclonedx() | {"$ref": url}, False),
        "context": (spdx3() | {"@context": [url]}, False),
    }


@pytest.mark.parametrize("name", ["cyclonedx", "spdx2", "spdx3", "schema", "context"])
async def test_nothing_is_fetched_whatever_a_document_refers_to(tmp_path: Path, name: str) -> None:
    """A server that every reference in the documents points to sees no connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        document, good = _referring(f"http://127.0.0.1:{server.getsockname()[1]}/x")[name]
        path = written(tmp_path, document)
        if good:
            assert (await _check(path)).description.components == 2
        else:
            with pytest.raises(BadSbomError):
                await _check(path)
        with pytest.raises(BlockingIOError):
            server.accept()
