"""The process that checks one SBOM: `python -m services.signing.sbom.check PATH LIMITS [MEDIA-TYPE]`.

What a stranger sent meets the parsers here and not in the service: under limits on memory, processor time and time
that the kernel enforces, and without network, child processes or writing. One line of JSON comes out, with one member:
`sbom`, `refused` (a list of problems), `costly` (what ran out) or `failed` (name and place of a fault, no content).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Final

from services.signing.sbom.bsi import report
from services.signing.sbom.description import describe
from services.signing.sbom.detection import detect
from services.signing.sbom.errors import MAX_PROBLEMS, BadSbomError, Problem
from services.signing.sbom.limits import Limits
from services.signing.sbom.reading import read_document
from services.signing.sbom.record import Kind, Sbom

_FORBIDDEN: Final = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "urllib.",
    "ctypes.",
)


def read_sbom(path: Path, declared: str | None, max_bytes: int) -> Sbom:
    """Check the document in `path`, in this process.

    Raises:
        BadSbomError: not an SBOM of an accepted format, or of another than declared.
        OSError: the file cannot be read.
    """
    document = read_document(path, max_bytes)
    kind = detect(document, declared)
    try:
        found = list(islice(_problems(document, kind), MAX_PROBLEMS))
    except RecursionError:
        raise BadSbomError.of("$", "is nested too deeply") from None
    if found:
        raise BadSbomError(found)
    description, bsi = describe(document, kind), report(document, kind)
    return Sbom(kind.format, kind.version, kind.media_type, kind.predicate_type, description, bsi)


def _problems(document: dict[str, Any], kind: Kind) -> Iterator[Problem]:
    """The rules of one format; the libraries of the others are not loaded."""
    if kind.format == "cyclonedx":
        from services.signing.sbom import cyclonedx

        return cyclonedx.problems(document, kind.version)
    if kind.version.startswith("2."):
        from services.signing.sbom import spdx2

        return spdx2.problems(document, kind.version)
    from services.signing.sbom import spdx3

    return spdx3.problems(document)


def confine(limits: Limits) -> None:
    """Give up what a parser does not need; there is no way back.

    SIGXCPU and SIGALRM end the process, whatever it is doing.
    """
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.processor_seconds, limits.processor_seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_REAL, limits.wall_seconds)
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(_FORBIDDEN):
        raise PermissionError(f"a check does no {event}")
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
        raise PermissionError("a check writes no files")


def answer(path: Path, declared: str | None, limits: Limits) -> dict[str, Any]:
    """The one member of the line that `main` writes."""
    try:
        return {"sbom": read_sbom(path, declared, limits.document_bytes).to_members()}
    except BadSbomError as error:
        return {"refused": [asdict(problem) for problem in error.problems]}
    except MemoryError:
        return {"costly": "memory"}
    except Exception as error:  # noqa: BLE001 - the parent logs it; a traceback would quote the document
        last = traceback.extract_tb(error.__traceback__)[-1]
        return {"failed": f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"}


def main() -> None:
    """Check the document that the command line names."""
    path, limits = Path(sys.argv[1]), Limits(**json.loads(sys.argv[2]))
    confine(limits)
    line = json.dumps(answer(path, sys.argv[3] if len(sys.argv) > 3 else None, limits))  # noqa: PLR2004 - the optional argument
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()
