"""JSON Schema as far as the vendored schemas of manifests use it; a keyword that is not known here is an error.

The library of that name takes three seconds to load where its formats are installed: more than all these tests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

_TYPES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}
_ELSEWHERE: Final = {"properties", "patternProperties", "additionalProperties", "unevaluatedProperties", "definitions"}
_NOTES: Final = {"format", "deprecated", "$id", "$defs", "$comment", "uniqueItems"}


class Schemas:
    """Checks documents against schemas whose references lead into `root`."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def faults(self, schema: Any, value: Any, where: str = "") -> Iterator[str]:  # noqa: ANN401 - JSON
        """A sentence for each thing in a document that its schema does not allow."""
        if schema is False:
            yield f"{where} may not be there"
        if isinstance(schema, bool):
            return
        for keyword, wanted in schema.items():
            if keyword in _NOTES or keyword in _ELSEWHERE:
                continue
            yield from self._keyword(keyword, wanted, value, where)
        if isinstance(value, dict) and _ELSEWHERE & schema.keys():
            yield from self._members(schema, value, where)

    def _members(self, schema: Mapping[str, Any], value: Mapping[str, Any], where: str) -> Iterator[str]:
        patterns = schema.get("patternProperties", {})
        for name, member in value.items():
            matching = [found for pattern, found in patterns.items() if re.search(pattern, str(name))]
            if name in schema.get("properties", {}):
                matching.append(schema["properties"][name])
            for found in matching or [schema.get("additionalProperties", True)]:
                yield from self.faults(found, member, f"{where}/{name}")
            if schema.get("unevaluatedProperties") is False and not self._is_named(schema, str(name)):
                yield f"{where}/{name} may not be there"

    def _is_named(self, schema: Any, name: str) -> bool:  # noqa: ANN401 - JSON
        """Whether a schema, or one that it is made of, says anything of such a member."""
        parts = [*schema.get("allOf", ()), *([self._resolved(schema["$ref"])] if "$ref" in schema else ())]
        return (
            name in schema.get("properties", {})
            or any(re.search(pattern, name) for pattern in schema.get("patternProperties", {}))
            or any(self._is_named(part, name) for part in parts)
        )

    def _keyword(self, keyword: str, wanted: Any, value: Any, where: str) -> Iterator[str]:  # noqa: ANN401 - JSON
        if keyword == "$ref":
            yield from self.faults(self._resolved(wanted), value, where)
        elif keyword == "items" and isinstance(value, list):
            for number, item in enumerate(value):
                yield from self.faults(wanted, item, f"{where}/{number}")
        elif keyword == "allOf":
            for part in wanted:
                yield from self.faults(part, value, where)
        elif keyword in {"anyOf", "oneOf", "not"}:
            parts = [wanted] if keyword == "not" else wanted
            fitting = sum(not any(self.faults(part, value, where)) for part in parts)
            if not {"anyOf": fitting > 0, "oneOf": fitting == 1, "not": fitting == 0}[keyword]:
                yield f"{where}: {fitting} of {keyword} fit {value!r}"
        elif keyword != "items" and not _RULES[keyword](wanted, value):
            yield f"{where}: {value!r} is not as {keyword} {wanted!r} has it"

    def _resolved(self, reference: str) -> Any:  # noqa: ANN401 - JSON
        found: Any = self._root
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
        return found


def _is_a(wanted: str | list[str], value: object) -> bool:
    return any(_TYPES[name](value) for name in ([wanted] if isinstance(wanted, str) else wanted))


_RULES: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "type": _is_a,
    "enum": lambda wanted, value: value in wanted,
    "const": lambda wanted, value: value == wanted,
    "required": lambda wanted, value: not isinstance(value, dict) or value.keys() >= set(wanted),
    "pattern": lambda wanted, value: not isinstance(value, str) or re.search(wanted, value) is not None,
    "minLength": lambda wanted, value: not isinstance(value, str) or len(value) >= wanted,
    "maxLength": lambda wanted, value: not isinstance(value, str) or len(value) <= wanted,
    "minItems": lambda wanted, value: not isinstance(value, list) or len(value) >= wanted,
    "maxItems": lambda wanted, value: not isinstance(value, list) or len(value) <= wanted,
    "minProperties": lambda wanted, value: not isinstance(value, dict) or len(value) >= wanted,
    "maxProperties": lambda wanted, value: not isinstance(value, dict) or len(value) <= wanted,
    "minimum": lambda wanted, value: not _TYPES["number"](value) or value >= wanted,
    "maximum": lambda wanted, value: not _TYPES["number"](value) or value <= wanted,
    "exclusiveMinimum": lambda wanted, value: not _TYPES["number"](value) or value > wanted,
    "multipleOf": lambda wanted, value: not _TYPES["number"](value) or value % wanted == 0,
}
