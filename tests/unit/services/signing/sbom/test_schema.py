"""Our keywords against the stock ones of the same library."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator  # type: ignore[import-untyped]  # ships no types
from referencing import Registry
from referencing.exceptions import Unresolvable

from services.signing.sbom.schema import quick_validator, saying

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "list": {"type": "array", "uniqueItems": True, "items": {"$ref": "#/definitions/one"}},
        "pair": {"items": [{"type": "string"}, {"type": "integer"}], "additionalItems": False},
        "none": {"items": False},
        "free": {"items": True, "uniqueItems": False},
        "mixed": {"enum": ["a", 1, None, {"b": []}]},
        "again": {"$ref": "#"},
    },
    "additionalProperties": False,
    "definitions": {
        "one": {"oneOf": [{"enum": ["a", "b"]}, {"type": "object", "required": ["x"]}, {"type": "integer"}]}
    },
}
_LEAVES = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["a", "b", "c"])
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*_SCHEMA["properties"], "x", "b"]), inner)
    ),
    max_leaves=8,
)


@given(_VALUES)
@settings(max_examples=150, deadline=None)
def test_ours_find_what_the_stock_validator_finds(instance: object) -> None:
    """The paths of all errors are the same, whatever the instance."""
    stock = Draft7Validator(_SCHEMA)
    expected = sorted(error.json_path for error in stock.iter_errors(instance))
    found = list(quick_validator(stock).iter_errors(instance))
    assert sorted(error.json_path for error in found) == expected
    assert all(len(saying(error)) < 200 for error in found)


@pytest.mark.parametrize("target", ["http://127.0.0.1:9/other.json", "https://example.com/#/x", "other.json"])
def test_a_schema_outside_the_registry_is_not_fetched(target: str) -> None:
    """A reference that the registry lacks is an error, raised without a request."""
    stock = Draft7Validator({"properties": {"a": {"$ref": target}}}, registry=Registry())
    with pytest.raises(Unresolvable):
        list(quick_validator(stock).iter_errors({"a": 1}))


@pytest.mark.parametrize(
    ("value", "good"),
    [
        ("https://example.com/a?b=%20#c", True),
        ("../a/b", True),
        ("", True),
        ("urn:uuid:1", True),
        ("https://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", True),
        ("a b", False),
        ("%zz", False),
        ("a%2", False),
        ("<a>", False),
        ("a\nb", False),
        (7, True),
    ],
)
def test_an_iri_is_told_by_its_characters(value: object, good: bool) -> None:  # noqa: FBT001 - the expected outcome
    """Spaces, controls, brackets and broken percent-escapes are no part of an IRI (RFC 3987 §2.2)."""
    found = list(quick_validator(Draft7Validator({"format": "iri-reference"})).iter_errors(value))
    assert (found == []) is good
