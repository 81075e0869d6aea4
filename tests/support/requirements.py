"""What pip would install for an extra of the project, taken from this environment: unpacking it anew takes a minute."""

from __future__ import annotations

from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = "pqcpki"


def required_by(extra: str) -> dict[str, Distribution]:
    """The distributions that the project needs with this extra, and those that they need; by name.

    Raises:
        PackageNotFoundError: one is not installed.
    """
    found: dict[str, Distribution] = {}
    looked_at: set[tuple[str, frozenset[str]]] = set()
    waiting = [(PROJECT, frozenset({extra}))]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in looked_at:
            continue
        looked_at.add((name, extras))
        found[name] = distribution(name)
        for line in found[name].requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": one}) for one in extras | {""}):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    del found[PROJECT]
    return found


def lay_out(directory: Path, extra: str, *further: str) -> Path:
    """Make a directory for PYTHONPATH that holds those distributions and nothing else; pip takes them as installed."""
    directory.mkdir()
    for one in (*required_by(extra).values(), *map(distribution, further)):
        for name in {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}:
            here = directory / name
            if not here.is_symlink():  # `google` belongs to several
                here.symlink_to(Path(str(one.locate_file(name))))
    return directory
