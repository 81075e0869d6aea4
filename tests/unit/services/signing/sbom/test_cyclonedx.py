import json
import time
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from services.signing.sbom.cyclonedx import problems
from tests.support.sboms import CYCLONEDX_VERSIONS, cyclonedx


def _found(document: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in problems(document, document["specVersion"])]


@pytest.mark.parametrize("version", CYCLONEDX_VERSIONS)
def test_a_valid_document_has_no_problems(version: str) -> None:
    """Ours and the stock validator agree on a good document, and the library's model reads it."""
    document = cyclonedx(version)
    assert _found(document) == []
    assert JsonStrictValidator(SchemaVersion.from_version(version)).validate_str(json.dumps(document)) is None
    assert len(Bom.from_json(document).components) == 2  # type: ignore[attr-defined]  # made by a class decorator


_LICENCE = {"license": {"id": "Not-A-Licence"}}
_BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"version": "1"}, "$.version: is not of the type integer"),
    ({"serialNumber": "urn:uuid:1"}, "$.serialNumber: is not written as the schema demands"),
    ({"surprise": 1}, "$: has a member unknown to the schema: surprise"),
    ({"components": [{"type": "library"}]}, "$.components[0]: lacks the member 'name'"),
    ({"components": [{"type": "thing", "name": "a"}]}, "$.components[0].type: is not one of the values"),
    ({"components": {}}, "$.components: is not of the type array"),
    ({"components": [{"type": "library", "name": "a"}] * 2}, "$.components: has an item twice"),
    ({"metadata": {"timestamp": "yesterday"}}, "$.metadata.timestamp: is not written as the schema demands"),
    ({"externalReferences": [{"type": "website", "url": "a b"}]}, "$.externalReferences[0].url: "),
    ({"components": [{"type": "library", "name": "a", "licenses": [_LICENCE]}]}, "$.components[0].licenses"),
    (
        {"components": [{"type": "library", "name": "a", "components": [{"name": "b"}]}]},
        "$.components[0].components[0]: ",
    ),
]


@pytest.mark.parametrize(("change", "problem"), _BROKEN)
@pytest.mark.parametrize("version", ["1.4", "1.7"])
def test_a_problem_has_its_path_and_one_sentence(version: str, change: dict[str, Any], problem: str) -> None:
    """What the schema forbids is told by place and in words of ours, and the stock validator forbids it likewise."""
    document = cyclonedx(version) | change
    found = _found(document)
    assert found
    assert found[0].startswith(problem)
    assert all(len(one) < 400 for one in found)
    assert JsonStrictValidator(SchemaVersion.from_version(version)).validate_str(json.dumps(document)) is not None


def test_no_sentence_quotes_the_schema_or_the_document() -> None:
    """Enumerations of hundreds of licences and long values of the document stay out of the problems."""
    component = {"type": "x" * 100_000, "name": "a", "licenses": [{"license": {"id": "y" * 100_000}}]}
    found = _found(cyclonedx() | {"components": [component]})
    assert found
    assert all("Apache" not in one and "xxx" not in one and "yyy" not in one for one in found)


def test_many_components_are_compared_in_linear_time() -> None:
    """`uniqueItems` over 2000 objects takes far less than the two million comparisons of the stock keyword."""
    document = cyclonedx(components=2000)
    begun = time.process_time()
    assert _found(document) == []
    assert time.process_time() - begun < 6


@pytest.mark.parametrize("url", ["https://example.com/" + "a" * 200_000, "(((((" * 40_000, "a:" * 100_000])
def test_a_long_address_is_read_in_linear_time(url: str) -> None:
    """An `iri-reference` of 200,000 characters is decided at once."""
    begun = time.process_time()
    assert _found(cyclonedx() | {"externalReferences": [{"type": "website", "url": url}]}) == []
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    "reference", ["http://127.0.0.1:9/schema.json", "file:///etc/passwd", "#/definitions/component"]
)
def test_a_reference_in_the_document_is_data(reference: str) -> None:
    """In a document `$ref` is a member that the schema does not know, and `$schema` a string like others."""
    assert _found(cyclonedx() | {"$ref": reference}) == ["$: has a member unknown to the schema: $ref"]
    assert _found(cyclonedx() | {"$schema": reference}) == []
