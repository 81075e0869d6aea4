from pathlib import Path

import pytest

from services.signing.sbom.errors import BadSbomError
from services.signing.sbom.reading import MAX_DEPTH, read_document
from tests.support.sboms import written


def _problem(directory: Path, data: bytes) -> str:
    with pytest.raises(BadSbomError) as caught:
        read_document(written(directory, data))
    (problem,) = caught.value.problems
    return str(problem)


def test_a_document_is_read_as_it_is(tmp_path: Path) -> None:
    """Objects, lists, numbers, literals and paired surrogates come out as JSON has them."""
    data = b'{"a": [1, 2.5, -1e3, true, null], "b": {"c": "\\ud83d\\ude00\\u00e4"}, "\xc3\xa4": ""}'
    expected = {
        "a": [1, 2.5, -1000.0, True, None],
        "b": {"c": "\N{GRINNING FACE}\N{LATIN SMALL LETTER A WITH DIAERESIS}"},
    }
    assert read_document(written(tmp_path, data)) == expected | {"\N{LATIN SMALL LETTER A WITH DIAERESIS}": ""}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "$: is not JSON: expecting value (line 1, column 1)"),
        (b'{"a": 1,}', "$: is not JSON: expecting property name enclosed in double quotes (line 1, column 9)"),
        (b'{"a": 1} x', "$: is not JSON: extra data (line 1, column 10)"),
        (b"[]", "$: is not a JSON object"),
        (b'"CycloneDX"', "$: is not a JSON object"),
        (b'{"a": "\xff"}', "$: is not UTF-8 at byte 7"),
        (b'{"a": "\xed\xa0\x80"}', "$: is not UTF-8 at byte 7"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "$: the member 'b' is given twice in one object"),
        (b'{"a": NaN}', "$: NaN is not JSON"),
        (b'{"a": -Infinity}', "$: -Infinity is not JSON"),
        (b'{"a": 1e999}', "$: has a number that is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "$: has a number that is too long"),
        (b'{"a": ["\\ud800"]}', "$: a string has half of a surrogate pair"),
        (b'{"\\udc00": 1}', "$: a string has half of a surrogate pair"),
        (b'{"a": ' * 100_000, "$: is nested too deeply"),
        (b"[" * 1_000_000, "$: is nested too deeply"),
    ],
)
def test_whatever_could_be_read_in_two_ways_is_refused(tmp_path: Path, data: bytes, problem: str) -> None:
    """A document that is not one JSON object with one meaning is refused with one short sentence."""
    assert _problem(tmp_path, data) == problem


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_refused(tmp_path: Path, encoding: str) -> None:
    """JSON is UTF-8 without a mark (RFC 8259 §8.1)."""
    assert "byte order mark" in _problem(tmp_path, '{"a": 1}'.encode(encoding))


def test_a_document_may_be_as_long_as_the_limit_and_no_longer(tmp_path: Path) -> None:
    """The limit is met at the byte."""
    path = written(tmp_path, b'{"a": 12}')
    assert read_document(path, 9) == {"a": 12}
    with pytest.raises(BadSbomError, match="longer than 8 bytes"):
        read_document(path, 8)


def test_an_error_quotes_little_and_nothing_that_does_not_print(tmp_path: Path) -> None:
    """The name of a member that is given twice is cut, and control characters in it are replaced."""
    name = b"\\u001b[31m" + b"x" * 10_000
    problem = _problem(tmp_path, b'{"' + name + b'": 1, "' + name + b'": 2}')
    assert len(problem) < 200
    assert problem.isprintable()


@pytest.mark.parametrize(("depth", "fits"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False)])
def test_nesting_has_a_bound(tmp_path: Path, depth: int, fits: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """So many objects and lists within each other are read, one more is not."""
    path = written(tmp_path, b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1))
    if fits:
        read_document(path)
    else:
        with pytest.raises(BadSbomError, match="nested too deeply"):
            read_document(path)
