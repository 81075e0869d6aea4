import json

from services.signing.sbom.record import BsiReport, Description, Finding, Sbom


def test_a_record_survives_its_json_form() -> None:
    """What the checking process writes is what the service reads."""
    description = Description("pkg:a", "a", None, "urn:x", 3)
    report = BsiReport("TR", (Finding("format", "too old", 1, "$"), Finding("hash", "none", 9, "$.a")), ("depth",))
    sbom = Sbom("spdx", "2.3", "application/spdx+json", "https://spdx.dev/Document/v2.3", description, report)
    assert Sbom.from_members(json.loads(json.dumps(sbom.to_members()))) == sbom
