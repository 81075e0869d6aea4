"""CycloneDX JSON 1.4 to 1.7, held to the official schema as cyclonedx-python-lib bundles it (the strict one).

Not checked: that references between components (`bom-ref`) lead anywhere, and signatures within the document (JSF).
Nothing is fetched: the schemas' registry holds all that they refer to and has no retriever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from services.signing.sbom.errors import Problem
from services.signing.sbom.schema import quick_validator, saying

# After our schema module, which keeps a slow grammar from being loaded.
from cyclonedx.schema import SchemaVersion  # isort: skip
from cyclonedx.validation.json import JsonStrictValidator  # isort: skip
from jsonschema.exceptions import best_match  # type: ignore[import-untyped]  # isort: skip  # ships no types


def problems(document: Mapping[str, Any], version: str) -> Iterator[Problem]:
    """What breaks the schema of a version, found one by one."""
    stock = JsonStrictValidator(SchemaVersion.from_version(version))._validator  # noqa: SLF001 - the schema with its registry has no public name
    for error in quick_validator(stock).iter_errors(document):
        nearest = best_match(iter([error])) or error
        yield Problem.at(nearest.json_path, saying(nearest))
