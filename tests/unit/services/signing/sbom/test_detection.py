from typing import Any

import pytest

from services.signing.sbom.detection import detect
from services.signing.sbom.errors import BadSbomError
from tests.support.sboms import cyclonedx, spdx2, spdx3


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            cyclonedx("1.4"),
            ("cyclonedx", "1.4", "application/vnd.cyclonedx+json; version=1.4", "https://cyclonedx.org/bom"),
        ),
        (
            cyclonedx("1.7"),
            ("cyclonedx", "1.7", "application/vnd.cyclonedx+json; version=1.7", "https://cyclonedx.org/bom"),
        ),
        (spdx2("2.2"), ("spdx", "2.2", "application/spdx+json", "https://spdx.dev/Document/v2.2")),
        (spdx2("2.3"), ("spdx", "2.3", "application/spdx+json", "https://spdx.dev/Document/v2.3")),
        (spdx3(), ("spdx", "3.0.1", "application/spdx+json", "https://spdx.dev/Document/v3")),
        (spdx3(version="3.0.0"), ("spdx", "3.0.0", "application/spdx+json", "https://spdx.dev/Document/v3")),
    ],
)
def test_the_content_tells_format_version_and_names(document: dict[str, Any], expected: tuple[str, ...]) -> None:
    """Each format and version has its canonical media type and its predicate type."""
    kind = detect(document, None)
    assert (kind.format, kind.version, kind.media_type, kind.predicate_type) == expected


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({}, "$: has none of bomFormat"),
        ({"packages": []}, "$: has none of bomFormat"),
        (cyclonedx() | {"spdxVersion": "SPDX-2.3"}, "$: has several of bomFormat"),
        (cyclonedx() | {"bomFormat": "cyclonedx"}, "$.bomFormat: is not CycloneDX"),
        (cyclonedx("1.3"), "$.specVersion: is not one of 1.4, 1.5, 1.6, 1.7"),
        (cyclonedx() | {"specVersion": 1.6}, "$.specVersion: is not one of"),
        (cyclonedx() | {"specVersion": ["1.6"] * 2 + [{}]}, "$.specVersion: is not one of"),
        (spdx2("2.1"), "$.spdxVersion: is not one of SPDX-2.2, SPDX-2.3"),
        (spdx2() | {"spdxVersion": None}, "$.spdxVersion: is not one of"),
        ({"@context": "https://spdx.org/rdf/3.1/spdx-context.jsonld"}, "$.@context: is not one of"),
        ({"@context": "https://schema.org"}, "$.@context: is not one of"),
        ({"@context": {"@vocab": "https://spdx.org/rdf/3.0.1/"}}, "$.@context: is not one of"),
    ],
)
def test_what_is_no_offered_format_is_refused(document: dict[str, Any], problem: str) -> None:
    """Neither guesses nor mixtures: one mark of one format, with a version that is offered."""
    with pytest.raises(BadSbomError) as caught:
        detect(document, None)
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    "declared",
    [
        "application/json",
        "application/octet-stream",
        "application/vnd.cyclonedx+json",
        "Application/Vnd.CycloneDX+JSON ; Version=1.6",
        'application/vnd.cyclonedx+json; version="1.6"; charset=utf-8',
    ],
)
def test_a_declared_media_type_may_agree(declared: str) -> None:
    """What says no more than JSON agrees with everything; the format's own type agrees with its version."""
    assert detect(cyclonedx("1.6"), declared).version == "1.6"


@pytest.mark.parametrize(
    "declared",
    [
        "application/spdx+json",
        "application/vnd.cyclonedx+xml",
        "application/vnd.cyclonedx+json; version=1.5",
        "text/xml",
        "",
    ],
)
def test_a_declared_media_type_that_disagrees_is_an_error(declared: str) -> None:
    """The content decides what it is, and another declaration is refused rather than ignored."""
    with pytest.raises(BadSbomError, match="was declared to be"):
        detect(cyclonedx("1.6"), declared)


def test_json_ld_is_a_name_of_spdx_3_alone() -> None:
    """`application/ld+json` agrees with SPDX 3 and not with SPDX 2."""
    assert detect(spdx3(), "application/ld+json").version == "3.0.1"
    with pytest.raises(BadSbomError, match=r"is spdx 2\.3, but was declared"):
        detect(spdx2(), "application/ld+json")
