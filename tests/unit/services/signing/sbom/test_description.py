from services.signing.sbom.description import components, describe
from services.signing.sbom.detection import detect
from services.signing.sbom.record import MAX_TEXT, Description
from tests.support.sboms import cyclonedx, spdx2, spdx3


def test_each_format_says_what_it_is_about() -> None:
    """Subject, name, version and serial number are found where each format has them."""
    serial = "urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79"
    documents = (cyclonedx(), spdx2(), spdx3())
    assert [describe(document, detect(document, None)) for document in documents] == [
        Description("app", "app", "1.0.0", serial, 2),
        Description("SPDXRef-Package-0", "package-0", "1.0", "https://example.com/sbom/app-1", 2),
        Description("https://example.com/package-0", "package-0", "1.0", "https://example.com/document", 2),
    ]


def test_what_is_not_said_is_none() -> None:
    """A document that names neither subject nor serial number is described with gaps."""
    document = {"bomFormat": "CycloneDX", "specVersion": "1.6"}
    assert describe(document, detect(document, None)) == Description(None, None, None, None, 0)
    described_by = spdx2() | {"documentDescribes": None, "relationships": []}
    assert describe(described_by, detect(described_by, None)).subject == "SPDXRef-Package-0"
    rootless = spdx3()
    rootless["@graph"][2].pop("rootElement")
    assert describe(rootless, detect(rootless, None)).name == "app"


def test_components_within_components_count() -> None:
    """Each component is found once, with the path that leads to it."""
    document = cyclonedx(components=1)
    document["components"][0]["components"] = [{"type": "file", "name": "a"}, {"type": "file", "name": "b"}]
    assert [path for path, _ in components(document)] == [
        "$.components[0]",
        "$.components[0].components[0]",
        "$.components[0].components[1]",
    ]


def test_quotations_are_bounded_and_printable() -> None:
    """A name of the document is cut, and its control characters are replaced."""
    document = cyclonedx()
    document["metadata"]["component"] |= {"name": "\x1b" + "n" * 10_000, "purl": "pkg:generic/app"}
    description = describe(document, detect(document, None))
    assert description.subject == "pkg:generic/app"
    assert description.name is not None
    assert len(description.name) == MAX_TEXT
    assert description.name.isprintable()
