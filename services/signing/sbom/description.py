"""What an SBOM says of itself, read from a document that its format's rules have accepted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from services.signing.sbom.record import Description, Kind, quoted

SPDX3_PACKAGE: Final = "software_Package"


def describe(document: Mapping[str, Any], kind: Kind) -> Description:
    """Its subject, name, version, serial number and how many components it lists."""
    if kind.format == "cyclonedx":
        return _cyclonedx(document)
    return (_spdx3 if kind.version.startswith("3.") else _spdx2)(document)


def components(document: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every component of CycloneDX below the top level with its JSON path, those inside others included."""
    rest: list[tuple[str, Mapping[str, Any]]] = [("$", document)]
    while rest:
        path, holder = rest.pop()
        for index, component in enumerate(holder.get("components", ())):
            where = f"{path}.components[{index}]"
            yield where, component
            if "components" in component:
                rest.append((where, component))


def described(document: Mapping[str, Any]) -> Iterator[object]:
    """The ids of what an SPDX 2 document describes."""
    yield from document.get("documentDescribes") or ()
    own = document["SPDXID"]
    for one in document.get("relationships") or ():
        if one.get("relationshipType") == "DESCRIBES" and one.get("spdxElementId") == own:
            yield one.get("relatedSpdxElement")
        elif one.get("relationshipType") == "DESCRIBED_BY" and one.get("relatedSpdxElement") == own:
            yield one.get("spdxElementId")


def _cyclonedx(document: Mapping[str, Any]) -> Description:
    subject = document.get("metadata", {}).get("component", {})
    return Description(
        subject=quoted(subject.get("purl")) or quoted(subject.get("bom-ref")),
        name=quoted(subject.get("name")),
        version=quoted(subject.get("version")),
        serial=quoted(document.get("serialNumber")),
        components=sum(1 for _ in components(document)),
    )


def _spdx2(document: Mapping[str, Any]) -> Description:
    packages = document.get("packages") or ()
    subject = next(described(document), None) or next((package["SPDXID"] for package in packages), None)
    package: Mapping[str, Any] = next((one for one in packages if one["SPDXID"] == subject), {})
    return Description(
        subject=quoted(subject),
        name=quoted(package.get("name")) or quoted(document.get("name")),
        version=quoted(package.get("versionInfo")),
        serial=quoted(document.get("documentNamespace")),
        components=len(packages),
    )


def _spdx3(document: Mapping[str, Any]) -> Description:
    graph = document["@graph"]
    itself = next(element for element in graph if element["type"] == "SpdxDocument")
    roots = itself.get("rootElement") or [None]
    root = roots[0] if isinstance(roots, list) else roots
    subject: Mapping[str, Any] = next(
        (element for element in graph if root is not None and element.get("spdxId") == root), {}
    )
    return Description(
        subject=quoted(root),
        name=quoted(subject.get("name")) or quoted(itself.get("name")),
        version=quoted(subject.get("software_packageVersion")),
        serial=quoted(itself.get("spdxId")),
        components=sum(1 for element in graph if element["type"] == SPDX3_PACKAGE),
    )
