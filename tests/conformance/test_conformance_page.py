import ast
import re
from pathlib import Path

import pytest

from tests.conformance.marks import marks, shown_by
from tests.conformance.page import COMMAND, MUSTS, PAGE, render, untested
from tests.conformance.requirements import DIRECTORY, ORDER, Document, Requirement, documents

ROOT = Path(__file__).parents[2]
LEVELS = {*MUSTS, "SHOULD", "SHOULD NOT", "RECOMMENDED"}


def _rows() -> list[Requirement]:
    return [row for document in documents() for row in document.requirements]


def test_the_page_is_as_the_tests_are() -> None:
    """docs/acme-conformance.md names every requirement with the tests that are there now."""
    assert PAGE.read_text() == render(shown_by(), documents()), f"stale: run {COMMAND}"


def test_tests_name_requirements_that_exist() -> None:
    """No test claims to show a requirement that nobody listed."""
    assert set(shown_by()) - {row.id for row in _rows()} == set()


def test_every_must_of_the_server_has_a_test() -> None:
    """What a document demands of the server is shown by a test, or said to differ."""
    assert [row.id for row in untested(shown_by(), documents()) if row.level in MUSTS] == []


@pytest.mark.parametrize(
    ("row", "tests", "cell", "counts", "is_untested"),
    [
        (Requirement("x-1-01", "1", "MUST", "a"), (), "**no test**", "0 | 0 | 0 | 1 | 0", True),
        (Requirement("x-1-01", "1", "MUST", "a"), ("tests/b.py::c",), "`b.py::c`", "1 | 0 | 0 | 0 | 0", False),
        (Requirement("x-1-01", "1", "SHOULD", "a"), ("tests/b.py::c",), "`b.py::c`", "0 | 1 | 0 | 0 | 0", False),
        (Requirement("x-1-01", "1", "MUST", "a", differs="d"), (), "differs: d", "0 | 0 | 1 | 0 | 0", False),
        (Requirement("x-1-01", "1", "MUST", "a", "client"), (), "on the client", "0 | 0 | 0 | 0 | 1", False),
    ],
    ids=["no test", "MUST", "SHOULD", "differs", "client"],
)
def test_a_row_says_what_shows_it(
    row: Requirement,
    tests: tuple[str, ...],
    cell: str,
    counts: str,
    is_untested: bool,  # noqa: FBT001 -- a case
) -> None:
    """A row without a test says so, is counted as such, and fails the test of the MUSTs; others are not."""
    shown, listed = {row.id: tests} if tests else {}, [Document("X", "of X", "its text", (row,))]
    lines = render(shown, listed).splitlines()
    assert lines[-1] == f"| x-1-01 | {row.level} | a | {cell} |"
    assert f"| X | {counts} |" in lines
    assert "Listed from its text." in lines
    assert (untested(shown, listed) == [row]) is is_untested


def test_the_list_is_in_form() -> None:
    """Identifiers are unique and tell document and section; every file is read; levels are the documents' words."""
    rows = _rows()
    assert len({row.id for row in rows}) == len(rows)
    assert {path.stem for path in DIRECTORY.glob("*.toml")} == set(ORDER)
    assert {row.level for row in rows} <= LEVELS
    assert {row.party for row in rows} <= {"server", "client", "other"}
    for row in rows:
        assert re.fullmatch(rf"({'|'.join(ORDER)})-{re.escape(row.section)}-\d\d", row.id), row.id


def test_what_differs_stands_among_the_divergences() -> None:
    """A requirement that is said to differ names a row of docs/divergences.md."""
    cells = {
        line.split("|")[1].strip() for line in (ROOT / "docs/divergences.md").read_text().splitlines() if "|" in line
    }
    assert {row.differs for row in _rows() if row.differs} <= cells


def test_marks_are_read_from_functions_and_classes_alike() -> None:
    """Each argument of each mark counts; another decorator does not; what is no literal is refused."""
    source = "@pytest.mark.requirement('a', 'b')\n@other('c')\ndef test_one(): ...\n"
    nested = "class T:\n    @pytest.mark.requirement('d')\n    async def test_two(self): ...\n"
    assert set(marks(ast.parse(source + nested))) == {("test_one", "a"), ("test_one", "b"), ("test_two", "d")}
    with pytest.raises(ValueError, match="line 1"):
        list(marks(ast.parse("@pytest.mark.requirement(f'{x}')\ndef test_three(): ...")))
