"""Which format a document is in: told from its content alone; a declared media type may only agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from services.signing.sbom.errors import BadSbomError, bounded
from services.signing.sbom.record import Kind

_SPDX_MEDIA_TYPE: Final = "application/spdx+json"
_ANY_JSON: Final = frozenset({"application/json", "application/octet-stream", "text/plain"})


def _cyclonedx(version: str) -> Kind:
    media_type = "application/vnd.cyclonedx+json"
    full = f"{media_type}; version={version}"
    return Kind("cyclonedx", version, full, "https://cyclonedx.org/bom", (media_type,))


def _spdx2(version: str) -> Kind:
    predicate_type = f"https://spdx.dev/Document/v{version}"
    return Kind("spdx", version, _SPDX_MEDIA_TYPE, predicate_type, (_SPDX_MEDIA_TYPE,))


def _spdx3(version: str) -> Kind:
    accepted = (_SPDX_MEDIA_TYPE, "application/ld+json")
    return Kind("spdx", version, _SPDX_MEDIA_TYPE, "https://spdx.dev/Document/v3", accepted)


_CYCLONEDX: Final = {version: _cyclonedx(version) for version in ("1.4", "1.5", "1.6", "1.7")}
_SPDX2: Final = {f"SPDX-{version}": _spdx2(version) for version in ("2.2", "2.3")}
_SPDX3: Final = {f"https://spdx.org/rdf/{v}/spdx-context.jsonld": _spdx3(v) for v in ("3.0.0", "3.0.1")}
KINDS: Final = (*_CYCLONEDX.values(), *_SPDX2.values(), *_SPDX3.values())
_MARKS: Final = (
    ("bomFormat", "specVersion", _CYCLONEDX, "CycloneDX"),
    ("spdxVersion", "spdxVersion", _SPDX2, "SPDX 2"),
    ("@context", "@context", _SPDX3, "SPDX 3"),
)


def detect(document: Mapping[str, Any], declared: str | None) -> Kind:
    """The format and version of a document.

    Raises:
        BadSbomError: none or several of the formats, a version that is not offered, or another one than declared.
    """
    marks = [mark for mark in _MARKS if mark[0] in document]
    if len(marks) != 1:
        what = "several" if marks else "none"
        raise BadSbomError.of("$", f"has {what} of bomFormat (CycloneDX), spdxVersion (SPDX 2) and @context (SPDX 3)")
    _, member, versions, name = marks[0]
    if name == "CycloneDX" and document["bomFormat"] != "CycloneDX":
        raise BadSbomError.of("$.bomFormat", "is not CycloneDX")
    version = document.get(member)
    if isinstance(version, list) and len(version) == 1 and versions is _SPDX3:
        version = version[0]
    if not isinstance(version, str) or version not in versions:
        raise BadSbomError.of(f"$.{member}", f"is not one of {', '.join(versions)}")
    kind = versions[version]
    _check_declared(kind, declared)
    return kind


def _check_declared(kind: Kind, declared: str | None) -> None:
    if declared is None:
        return
    name, *parameters = (part.strip() for part in declared.split(";"))
    if name.lower() in _ANY_JSON:
        return
    if name.lower() not in kind.accepted:
        raise BadSbomError.of("$", f"is {kind.format} {kind.version}, but was declared to be {bounded(declared, 80)}")
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key.strip().lower() == "version" and value.strip().strip('"') != kind.version:
            raise BadSbomError.of("$", f"is of version {kind.version}, but was declared to be {bounded(declared, 80)}")
