import ast
import re
from pathlib import Path

import pytest

from tests.support.console import ROOT

SOURCES = sorted([*(ROOT / "libs").rglob("*.py"), *(ROOT / "services").rglob("*.py")])
LONGEST_FUNCTION = 60
UNEXPLAINED = re.compile(r"#\s*(noqa(?!: [A-Z]+\d+)|type: ignore(?!\[))")
EXCEPTION = re.compile(r"#\s*(?:noqa: [A-Z0-9, ]+|type: ignore\[[a-z, -]+\])(?P<reason>.*)$")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_functions_stay_short(path: Path) -> None:
    """No function is longer than sixty lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name}: {length} lines"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_every_exception_to_a_rule_has_its_reason(path: Path) -> None:
    """A noqa or type: ignore names its rule and says why, on the same line."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        assert not UNEXPLAINED.search(line), f"line {number} names no rule"
        match = EXCEPTION.search(line)
        assert not match or len(match["reason"].strip(" #:-")) >= 8, f"line {number} gives no reason"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_only_settings_read_the_environment(path: Path) -> None:
    """os.environ is read in settings modules and at the command line, nowhere else."""
    if path.name == "settings.py" or "cli" in path.parts:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}), f"line {node.lineno}"
