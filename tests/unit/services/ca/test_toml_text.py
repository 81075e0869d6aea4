import tomllib

import pytest

from services.ca.toml_text import lines, table


@pytest.mark.parametrize(
    "value", [1, 2.5, True, False, 'a"b\\c\nd', ["a", "b"], [], {"A_B": "x", "c.d": 'y"'}, [1, [2]], "\x7f\N{SNOWMAN}"]
)
def test_what_is_written_is_read_again(value: object) -> None:
    """Every kind of value that settings have survives, whatever is in it."""
    assert tomllib.loads(lines({"name": value})) == {"name": value}
    assert tomllib.loads(table("items", {"name": value})) == {"items": [{"name": value}]}
