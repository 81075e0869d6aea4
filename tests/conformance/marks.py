"""Which test shows which requirement: read from the marks in the test files, without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]


def shown_by() -> dict[str, list[str]]:
    """The tests of each requirement that has any, as `tests/folder/module.py::name`, by its identifier."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        source = path.read_text()
        if "mark.requirement" not in source:
            continue
        where = path.relative_to(TESTS.parent).as_posix()
        for test, requirement in marks(ast.parse(source)):
            found.setdefault(requirement, []).append(f"{where}::{test}")
    return found


def marks(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Each test of a module with each requirement that its mark names.

    Raises:
        ValueError: a mark has something else than literal identifiers.
    """
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.requirement":
                    yield from ((node.name, _identifier(argument)) for argument in decorator.args)


def _identifier(argument: ast.expr) -> str:
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    raise ValueError(f"line {argument.lineno}: a requirement is named by a string, and by nothing else")
