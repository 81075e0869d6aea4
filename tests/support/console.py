"""The console blocks of the documentation: which commands they hold and who runs them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(
    r"(?:<!-- (?P<marker>[^\n]*?) -->\n)?(?P<indent> *)```console\n(?P<body>.*?)\n(?P=indent)```", re.DOTALL
)


@dataclass(frozen=True)
class ConsoleBlock:
    """One ```console block: its page, the marker line above it and its commands."""

    page: Path
    marker: str
    commands: tuple[str, ...]


def pages() -> list[Path]:
    """Every page of the documentation that a user reads."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[ConsoleBlock]:
    """The console blocks of a page; a command is a line that begins with `$ ` and its continuation lines."""
    for match in _BLOCK.finditer(page.read_text()):
        commands = re.findall(r"^ *\$ ((?:.*\\\n)*.*)$", match["body"], re.MULTILINE)
        yield ConsoleBlock(page, match["marker"] or "", tuple(commands))
