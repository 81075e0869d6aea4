from typing import Any

import pytest

from services.signing.sbom.bsi import GUIDELINE, report
from services.signing.sbom.detection import detect
from tests.support.sboms import conforming_cyclonedx, cyclonedx, spdx2, spdx3


def _findings(document: dict[str, Any]) -> dict[str, tuple[int, str]]:
    found = report(document, detect(document, None))
    assert found.guideline == GUIDELINE == "BSI TR-03183-2 v2.1.0"
    assert found.unchecked
    return {finding.requirement: (finding.count, finding.first) for finding in found.findings}


def test_a_document_with_everything_has_no_findings() -> None:
    """All fields of the guideline are found where its CycloneDX taxonomy puts them."""
    assert _findings(conforming_cyclonedx()) == {}


def test_what_is_missed_is_counted_once_per_component() -> None:
    """A finding says how often and where first; the subject counts as a component."""
    found = _findings(cyclonedx(components=3))
    assert found["component executable"] == (4, "$.metadata.component")
    assert found["component dependencies"] == (3, "$.components[0]")
    assert found["component licences"] == (1, "$.metadata.component")
    assert found["SBOM creator"] == (1, "$.metadata")
    assert "SBOM timestamp" not in found


@pytest.mark.parametrize(
    ("change", "requirement"),
    [
        ({"metadata": {}}, "primary component"),
        ({"metadata": {}}, "SBOM timestamp"),
        ({"vulnerabilities": []}, "no vulnerabilities"),
        ({"compositions": []}, "completeness"),
    ],
)
def test_the_document_itself_has_requirements(change: dict[str, Any], requirement: str) -> None:
    """Creator, time, subject, completeness, and no vulnerabilities (§5.2.1, §8.1.14)."""
    assert requirement in _findings(conforming_cyclonedx() | change)


def test_a_hash_may_stand_at_the_distribution() -> None:
    """SHA-512 of the deployable form is found at an external reference of that kind as well."""
    document = conforming_cyclonedx()
    hashes = document["components"][0].pop("hashes")
    assert _findings(document)["component hash"] == (1, "$.components[0]")
    reference = {"type": "distribution", "url": "https://example.com/lib", "hashes": hashes}
    document["components"][0]["externalReferences"] = [reference]
    assert _findings(document) == {}


@pytest.mark.parametrize("document", [cyclonedx("1.5"), spdx2("2.2"), spdx2("2.3"), spdx3(version="3.0.0")])
def test_an_older_format_is_a_finding(document: dict[str, Any]) -> None:
    """CycloneDX before 1.6 and SPDX before 3.0.1 are older than the guideline asks for (§4)."""
    assert _findings(document)["format"] == (1, "$")


def test_spdx_2_is_looked_at_all_the_same() -> None:
    """The fields that SPDX 2 has are looked for in every package."""
    document = spdx2(packages=3)
    for package in document["packages"]:
        package |= {"supplier": "Organization: Example (info@example.com)", "packageFileName": "a.so"}
        package["checksums"] = [{"algorithm": "SHA512", "checksumValue": "ab" * 64}]
    document["creationInfo"]["creators"] = ["Tool: example"]
    expected = {
        "format": (1, "$"),
        "SBOM creator": (1, "$.creationInfo"),
        "component dependencies": (2, "$.packages[1]"),
    }
    assert _findings(document) == expected


def test_spdx_3_is_looked_at_across_its_elements() -> None:
    """Creator, licence, file and hash of a package are found behind its relationships."""
    document = spdx3(1)
    assert _findings(document)["component file name"] == (1, "$.@graph[3]")
    maker, package = document["@graph"][1], document["@graph"][3]
    maker["externalIdentifier"] = [
        {"type": "ExternalIdentifier", "externalIdentifierType": "email", "identifier": "a@b.c"}
    ]
    package["suppliedBy"] = maker["spdxId"]
    hashes = [{"type": "Hash", "algorithm": "sha512", "hashValue": "ab" * 64}]
    file = {"type": "software_File", "spdxId": "https://example.com/file", "name": "a.so", "verifiedUsing": hashes}
    link = {"type": "Relationship", "from": package["spdxId"]}
    document["@graph"] += [
        file,
        link | {"relationshipType": "hasDistributionArtifact", "to": [file["spdxId"]]},
        link | {"relationshipType": "hasConcludedLicense", "to": ["https://spdx.org/licenses/MIT"]},
    ]
    assert _findings(document) == {}
