"""JSON Schema (draft 7) at the pace and with the memory that a document of 64 MiB from a stranger allows.

The stock keywords of `jsonschema` decide; some are put in another form here. `uniqueItems` compared every pair of
objects, which is quadratic; `$ref`, `properties` and `items` built a validator anew for each value; `enum` walked lists
of 700 licences; the `iri-reference` format ran an Earley parser, 27 ms for an address of 35 characters. Where ours
decide otherwise: 1 and 1.0 are two items, and IRIs are held to RFC 3987's characters and percent-escapes, not to its
grammar.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias

# The grammar of that Earley parser takes 1.8 s to load, in a process that lives for one document.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None: "not to be imported" (importlib)

from jsonschema import Draft7Validator, FormatChecker, ValidationError  # type: ignore[import-untyped]  # noqa: E402 - ships no types; after the line above
from jsonschema.validators import extend  # type: ignore[import-untyped]  # noqa: E402 - likewise

Errors = Iterator[ValidationError]
_Validator: TypeAlias = Any  # jsonschema makes its classes at run time
_NOT_IN_AN_IRI: Final = re.compile(r'[\x00-\x20"<>\\^`{|}\x7f-\x9f]|%(?![0-9A-Fa-f]{2})')
_SAYINGS: Final = {
    "anyOf": "has none of the forms that the schema allows",
    "const": "is not the one value that the schema allows",
    "dependencies": "lacks a member that goes with another",
    "enum": "is not one of the values that the schema allows",
    "format": "is not written as the schema demands",
    "maxItems": "has too many items",
    "maxLength": "is too long",
    "maximum": "is too large",
    "minItems": "has too few items",
    "minLength": "is too short",
    "minimum": "is too small",
    "oneOf": "has none or several of the forms of which the schema allows one",
    "pattern": "is not written as the schema demands",
    "uniqueItems": "has an item twice",
}


def quick_validator(stock: _Validator) -> _Validator:
    """A validator of the same schema and registry as `stock` (draft 7), with the keywords above."""
    kept = _Kept()
    keywords: dict[str, Callable[..., Errors]] = {
        "$ref": kept.ref,
        "properties": kept.properties,
        "items": kept.items,
        "enum": kept.enum,
        "uniqueItems": _unique_items,
    }
    made = extend(Draft7Validator, keywords)
    return made(stock.schema, registry=stock._registry, format_checker=_formats())  # noqa: SLF001 - it has no public name


def saying(error: ValidationError) -> str:
    """What is wrong, in a short sentence of ours: the library's own quotes the document and whole enumerations."""
    if error.validator == "required":
        missing = next((name for name in error.validator_value if name not in error.instance), "")
        return f"lacks the member {missing!a}"
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = next((name for name in error.instance if name not in known), "")
        return f"has a member unknown to the schema: {unknown:.60}"
    if error.validator == "type":
        return f"is not of the type {error.validator_value}"
    return _SAYINGS.get(str(error.validator), "breaks the schema")


class _Kept:
    """Validators of subschemas and sets of enumerations, made once each.

    Keyed by the identity of what is in the schema, which lives as long as this does.
    """

    def __init__(self) -> None:
        self._children: dict[int, Any] = {}
        self._targets: dict[int, Any] = {}
        self._enums: dict[int, frozenset[str]] = {}

    def ref(self, validator: _Validator, target: str, instance: object, schema: object) -> Errors:
        child = self._targets.get(id(schema))
        if child is None:
            found = validator._resolver.lookup(target)  # noqa: SLF001 - as the stock keyword does
            child = validator.evolve(schema=found.contents, _resolver=found.resolver)
            self._targets[id(schema)] = child
        yield from child.iter_errors(instance)

    def properties(self, validator: _Validator, schemas: Mapping[str, Any], instance: object, _: object) -> Errors:
        if isinstance(instance, dict):
            for name, value in instance.items():
                if name in schemas:
                    yield from _placed(self._child(validator, schemas[name]).iter_errors(value), name)

    def items(self, validator: _Validator, schemas: object, instance: object, schema: object) -> Errors:
        if not isinstance(schemas, dict):  # one schema for each place, or a boolean: rare
            yield from Draft7Validator.VALIDATORS["items"](validator, schemas, instance, schema)
        elif isinstance(instance, list):
            child = self._child(validator, schemas)
            for index, value in enumerate(instance):
                yield from _placed(child.iter_errors(value), index)

    def enum(self, validator: _Validator, values: list[Any], instance: object, schema: object) -> Errors:
        if not isinstance(instance, str):
            yield from Draft7Validator.VALIDATORS["enum"](validator, values, instance, schema)
            return
        known = self._enums.get(id(values))
        if known is None:
            known = self._enums[id(values)] = frozenset(value for value in values if isinstance(value, str))
        if instance not in known:
            yield ValidationError("not in the enumeration")

    def _child(self, validator: _Validator, schema: object) -> _Validator:
        child = self._children.get(id(schema))
        if child is None:
            child = self._children[id(schema)] = validator.evolve(schema=schema)
        return child


def _placed(errors: Errors, place: str | int) -> Errors:
    for error in errors:
        error.path.appendleft(place)
        yield error


def _unique_items(_validator: object, wanted: object, instance: object, _schema: object) -> Errors:
    if not wanted or not isinstance(instance, list):
        return
    seen: set[bytes] = set()
    for value in instance:
        digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()[:16]
        if digest in seen:
            yield ValidationError("an item is there twice")
            return
        seen.add(digest)


def _formats() -> FormatChecker:
    """The stock formats, and `iri-reference` by characters."""
    checker = FormatChecker()
    checker.checkers = {**Draft7Validator.FORMAT_CHECKER.checkers, "iri-reference": (_is_iri_reference, ())}
    return checker


def _is_iri_reference(value: object) -> bool:
    return not isinstance(value, str) or _NOT_IN_AN_IRI.search(value) is None
