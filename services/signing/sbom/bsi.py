"""How far an SBOM goes with BSI TR-03183-2 v2.1.0 (20 August 2025): reported, never a reason to refuse.

The guideline's data fields (§5.2) are looked for where its CycloneDX taxonomy (`bsi:component:*`) and its SPDX mapping
put them. Whether what is there is true, nobody can tell from the document, and conformity gives no presumption of
conformity with the Cyber Resilience Act. SPDX 2 cannot conform (§4 asks for 3.0.1); its fields are looked at as well.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from services.signing.sbom.description import SPDX3_PACKAGE, components
from services.signing.sbom.errors import bounded
from services.signing.sbom.record import BsiReport, Finding, Kind

GUIDELINE: Final = "BSI TR-03183-2 v2.1.0"
_OLDEST: Final = {"cyclonedx": (1, 6), "spdx": (3, 0, 1)}
_WITH_CONTACT: Final = re.compile(r"[^\s@]+@[^\s@]+|https?://", re.ASCII)
_MAX_PATH: Final = 160  # characters
_FLAGS: Final = ("executable", "archive", "structured")
_UNCHECKED: Final = ("whether dependencies are complete", "whether licence identifiers are SPDX's", "transitive depth")
_UNCHECKED_SPDX: Final = ("executable, archive and structured flags",)


def report(document: Mapping[str, Any], kind: Kind) -> BsiReport:
    """Look at a valid document."""
    tally = _Tally()
    if tuple(map(int, kind.version.split("."))) < _OLDEST[kind.format]:
        tally.miss("format", "the format's version is older than the guideline asks for", "$")
    if kind.format == "cyclonedx":
        _cyclonedx(document, tally)
        return BsiReport(GUIDELINE, tally.findings(), _UNCHECKED)
    (_spdx3 if kind.version.startswith("3.") else _spdx2)(document, tally)
    return BsiReport(GUIDELINE, tally.findings(), _UNCHECKED + _UNCHECKED_SPDX)


class _Tally:
    """Counts what is missed, by requirement."""

    def __init__(self) -> None:
        self._missed: dict[str, list[Any]] = {}

    def miss(self, requirement: str, message: str, path: str) -> None:
        self._missed.setdefault(requirement, [message, 0, bounded(path, _MAX_PATH)])[1] += 1

    def want(self, present: object, requirement: str, message: str, path: str) -> None:
        if not present:
            self.miss(requirement, message, path)

    def findings(self) -> tuple[Finding, ...]:
        return tuple(Finding(requirement, *rest) for requirement, rest in self._missed.items())


def _component(tally: _Tally, path: str, has: Mapping[str, object]) -> None:
    """The fields that every component must have (§5.2.2); `has` says which are there."""
    for requirement, message in _COMPONENT_FIELDS.items():
        if requirement in has:
            tally.want(has[requirement], requirement, message, path)


_COMPONENT_FIELDS: Final = {
    "component creator": "a component has no creator with an e-mail address or URL",
    "component version": "a component has no version",
    "component file name": "a component has no file name",
    "component dependencies": "a component's dependencies are not stated",
    "component licences": "a component has no licence",
    "component hash": "a component has no SHA-512 of its deployable form",
    **{f"component {flag}": f"a component does not say whether it is {flag}" for flag in _FLAGS},
}


def _cyclonedx(document: Mapping[str, Any], tally: _Tally) -> None:
    metadata = document.get("metadata", {})
    makers = [*metadata.get("authors", ()), metadata.get("manufacturer"), metadata.get("supplier")]
    tally.want(any(map(_reachable, makers)), "SBOM creator", "no creator with an e-mail address or URL", "$.metadata")
    tally.want(metadata.get("timestamp"), "SBOM timestamp", "the time of its making is not stated", "$.metadata")
    tally.want("vulnerabilities" not in document, "no vulnerabilities", "an SBOM must not carry them", "$")
    tally.want(document.get("compositions"), "completeness", "how complete dependencies are is not stated", "$")
    related = {one["ref"] for one in document.get("dependencies", ())}
    subject = metadata.get("component")
    tally.want(subject, "primary component", "what the SBOM describes is not stated", "$.metadata")
    if subject:
        _cyclonedx_component("$.metadata.component", subject, related, tally)
    for path, component in components(document):
        _cyclonedx_component(path, component, related, tally)


def _cyclonedx_component(path: str, component: Mapping[str, Any], related: set[str], tally: _Tally) -> None:
    properties = {one.get("name") for one in component.get("properties", ()) if one.get("value")}
    makers = [component.get("manufacturer"), component.get("supplier"), *component.get("authors", ())]
    distributions = [one for one in component.get("externalReferences", ()) if one["type"].startswith("distribution")]
    hashes = [one for holder in (component, *distributions) for one in holder.get("hashes", ())]
    has: dict[str, object] = {
        "component creator": any(map(_reachable, makers)),
        "component version": component.get("version"),
        "component file name": "bsi:component:filename" in properties,
        "component dependencies": component.get("bom-ref") in related,
        "component licences": component.get("licenses"),
        "component hash": any(one["alg"] == "SHA-512" for one in hashes),
    }
    _component(tally, path, has | {f"component {flag}": f"bsi:component:{flag}" in properties for flag in _FLAGS})


def _reachable(maker: Mapping[str, Any] | None) -> bool:
    """Whether an organisation or person of CycloneDX comes with an e-mail address or URL."""
    if not maker:
        return False
    return bool(maker.get("email") or maker.get("url") or any(one.get("email") for one in maker.get("contact", ())))


def _spdx2(document: Mapping[str, Any], tally: _Tally) -> None:
    creators = document["creationInfo"]["creators"]
    tally.want(
        any(map(_contact, creators)), "SBOM creator", "no creator with an e-mail address or URL", "$.creationInfo"
    )
    related = {one["spdxElementId"] for one in document.get("relationships") or ()}
    for index, package in enumerate(document.get("packages") or ()):
        licences = (package.get("licenseConcluded"), package.get("licenseDeclared"))
        has: dict[str, object] = {
            "component creator": _contact(package.get("originator")) or _contact(package.get("supplier")),
            "component version": package.get("versionInfo"),
            "component file name": package.get("packageFileName"),
            "component dependencies": package["SPDXID"] in related,
            "component licences": any(
                isinstance(one, str) and one not in {"", "NOASSERTION", "NONE"} for one in licences
            ),
            "component hash": any(one.get("algorithm") == "SHA512" for one in package.get("checksums") or ()),
        }
        _component(tally, f"$.packages[{index}]", has)


def _contact(actor: object) -> bool:
    return isinstance(actor, str) and _WITH_CONTACT.search(actor) is not None


def _spdx3(document: Mapping[str, Any], tally: _Tally) -> None:
    graph = document["@graph"]
    by_id = {element["spdxId"]: element for element in graph if "spdxId" in element}
    links: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for one in graph:
        if isinstance(one.get("from"), str):
            links[one["from"]][one.get("relationshipType", "")] += _many(one.get("to"))
    creators = [maker for one in graph if one["type"] == "CreationInfo" for maker in _many(one.get("createdBy"))]
    tally.want(
        any(_known(by_id, one) for one in creators), "SBOM creator", "no creator with an e-mail address or URL", "$"
    )
    for index, element in enumerate(graph):
        if element["type"] != SPDX3_PACKAGE:
            continue
        to = links.get(element.get("spdxId", ""), {})
        files = [by_id.get(one, {}) for one in to.get("hasDistributionArtifact", ()) if isinstance(one, str)]
        hashes = [one for holder in (element, *files) for one in _many(holder.get("verifiedUsing"))]
        makers = [*_many(element.get("originatedBy")), *_many(element.get("suppliedBy"))]
        has: dict[str, object] = {
            "component creator": any(_known(by_id, one) for one in makers),
            "component version": element.get("software_packageVersion"),
            "component file name": any(one.get("name") for one in files),
            "component dependencies": "dependsOn" in to or "contains" in to,
            "component licences": "hasConcludedLicense" in to or "hasDeclaredLicense" in to,
            "component hash": any(isinstance(one, dict) and one.get("algorithm") == "sha512" for one in hashes),
        }
        _component(tally, f"$.@graph[{index}]", has)


def _known(by_id: Mapping[str, Any], agent: object) -> bool:
    """Whether an agent of SPDX 3, or one given by its id, has an e-mail address or URL."""
    found = by_id.get(agent) if isinstance(agent, str) else agent
    identifiers = _many(found.get("externalIdentifier")) if isinstance(found, dict) else []
    return any(
        isinstance(one, dict) and one.get("externalIdentifierType") in {"email", "urlScheme"} for one in identifiers
    )


def _many(value: object) -> list[Any]:
    """A member that may be one value or several."""
    return value if isinstance(value, list) else [] if value is None else [value]
