import ast
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.console import ROOT

SOURCES = sorted([*(ROOT / "libs").rglob("*.py"), *(ROOT / "services").rglob("*.py")])
LONGEST_FUNCTION = 60
UNEXPLAINED = re.compile(r"#\s*(noqa(?!: [A-Z]+\d+)|type: ignore(?!\[))")
EXCEPTION = re.compile(r"#\s*(?:noqa: [A-Z0-9, ]+|type: ignore\[[a-z, -]+\])(?P<reason>.*)$")


@functools.cache
def _nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text())))


def _long_functions(path: Path) -> Iterator[str]:
    for node in _nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{node.name}: {length} lines"


def _exceptions_without_reason(path: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if UNEXPLAINED.search(line):
            yield f"line {number} names no rule"
        match = EXCEPTION.search(line)
        if match and len(match["reason"].strip(" #:-")) < 8:
            yield f"line {number} gives no reason"


def _reads_of_the_environment(path: Path) -> Iterator[str]:
    if path.name == "settings.py" or "cli" in path.parts:
        return
    for node in _nodes(path):
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}:
            yield f"line {node.lineno}"


RULES: dict[str, Callable[[Path], Iterator[str]]] = {
    "no function is longer than sixty lines": _long_functions,
    "a noqa or type: ignore names its rule and says why on the same line": _exceptions_without_reason,
    "os.environ is read in settings modules and at the command line, nowhere else": _reads_of_the_environment,
}


@pytest.mark.parametrize("offences", RULES.values(), ids=RULES)
def test_every_module_keeps_the_rule(offences: Callable[[Path], Iterator[str]]) -> None:
    """Whatever module breaks it is named, and where."""
    assert len(SOURCES) > 300
    assert [f"{path.relative_to(ROOT)}: {offence}" for path in SOURCES for offence in offences(path)] == []
