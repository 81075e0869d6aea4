"""Small SBOMs of each format, valid by the formats' own libraries."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

CYCLONEDX_VERSIONS = ("1.4", "1.5", "1.6", "1.7")
SPDX2_VERSIONS = ("2.2", "2.3")


def cyclonedx(version: str = "1.6", components: int = 2) -> dict[str, Any]:
    """A CycloneDX document about `app` with so many libraries."""
    libraries = [_library(number) for number in range(components)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": version,
        "serialNumber": "urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79",
        "version": 1,
        "metadata": {
            "timestamp": "2026-01-02T03:04:05Z",
            "component": {"type": "application", "bom-ref": "app", "name": "app", "version": "1.0.0"},
        },
        "components": libraries,
        "dependencies": [{"ref": "app", "dependsOn": [library["bom-ref"] for library in libraries]}],
    }


def _library(number: int) -> dict[str, Any]:
    purl = f"pkg:pypi/library-{number}@1.{number}"
    digest = hashlib.sha256(purl.encode()).hexdigest()
    return {
        "type": "library",
        "bom-ref": purl,
        "name": f"library-{number}",
        "version": f"1.{number}",
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": digest}],
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "externalReferences": [{"type": "website", "url": f"https://example.com/library-{number}?a=%20"}],
    }


def conforming_cyclonedx() -> dict[str, Any]:
    """A CycloneDX document in which the report on BSI TR-03183-2 finds nothing amiss."""
    maker = {"name": "Example", "url": ["https://example.com"]}
    document = cyclonedx("1.6", 1)
    document["metadata"]["manufacturer"] = maker
    document["compositions"] = [{"aggregate": "complete", "assemblies": ["app"]}]
    document["dependencies"].append({"ref": document["components"][0]["bom-ref"]})
    flags = {
        "executable": "non-executable",
        "archive": "no archive",
        "structured": "unstructured",
        "filename": "lib.so",
    }
    for component in (document["metadata"]["component"], *document["components"]):
        component["manufacturer"] = maker
        component["hashes"] = [{"alg": "SHA-512", "content": "ab" * 64}]
        component["licenses"] = [{"license": {"id": "MIT"}}]
        component["properties"] = [{"name": f"bsi:component:{name}", "value": value} for name, value in flags.items()]
    return document


def spdx2(version: str = "2.3", packages: int = 2) -> dict[str, Any]:
    """An SPDX 2 document that describes the first of so many packages, with a file, a snippet and notes."""
    return {
        "spdxVersion": f"SPDX-{version}",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "app",
        "documentNamespace": "https://example.com/sbom/app-1",
        "creationInfo": {
            "created": "2026-01-02T03:04:05Z",
            "creators": ["Tool: example-1", "Person: Ada (a@b.example)"],
        },
        "packages": [_package(number) for number in range(packages)],
        "files": [_FILE],
        "snippets": [_SNIPPET],
        "annotations": [_ANNOTATION],
        "hasExtractedLicensingInfos": [{"licenseId": "LicenseRef-own", "extractedText": "Do as you please."}],
        "documentDescribes": ["SPDXRef-Package-0"],
        "relationships": [
            _relationship("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Package-0"),
            *(_relationship("SPDXRef-Package-0", "DEPENDS_ON", f"SPDXRef-Package-{n}") for n in range(1, packages)),
        ],
    }


def _package(number: int) -> dict[str, Any]:
    return {
        "name": f"package-{number}",
        "SPDXID": f"SPDXRef-Package-{number}",
        "versionInfo": f"1.{number}",
        "downloadLocation": f"https://example.com/package-{number}.tgz",
        "filesAnalyzed": False,
        "licenseConcluded": "MIT AND LicenseRef-own",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "checksums": [{"algorithm": "SHA256", "checksumValue": "ab" * 32}],
        "annotations": [_ANNOTATION],
    }


def _relationship(one: str, kind: str, other: str) -> dict[str, Any]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


_ANNOTATION = {
    "annotationType": "REVIEW",
    "annotator": "Person: Ada",
    "annotationDate": "2026-01-02T03:04:05Z",
    "comment": "seen",
}
_FILE = {
    "fileName": "./a.c",
    "SPDXID": "SPDXRef-File",
    "checksums": [{"algorithm": "SHA1", "checksumValue": "ab" * 20}],
    "licenseConcluded": "MIT",
    "licenseInfoInFiles": ["MIT"],
    "copyrightText": "NOASSERTION",
}
_SNIPPET = {
    "SPDXID": "SPDXRef-Snippet",
    "snippetFromFile": "SPDXRef-File",
    "licenseConcluded": "MIT",
    "licenseInfoInSnippets": ["MIT"],
    "copyrightText": "NOASSERTION",
    "ranges": [
        {
            "startPointer": {"offset": 1, "reference": "SPDXRef-File"},
            "endPointer": {"offset": 9, "reference": "SPDXRef-File"},
        }
    ],
}


def spdx3(packages: int = 2, version: str = "3.0.1") -> dict[str, Any]:
    """An SPDX 3 document about the first of so many packages."""
    about = "_:creation"
    libraries = [
        {
            "type": "software_Package",
            "spdxId": f"https://example.com/package-{number}",
            "creationInfo": about,
            "name": f"package-{number}",
            "software_packageVersion": f"1.{number}",
            "verifiedUsing": [{"type": "Hash", "algorithm": "sha256", "hashValue": "ab" * 32}],
        }
        for number in range(packages)
    ]
    return {
        "@context": f"https://spdx.org/rdf/{version}/spdx-context.jsonld",
        "@graph": [
            {
                "type": "CreationInfo",
                "@id": about,
                "specVersion": version,
                "created": "2026-01-02T03:04:05Z",
                "createdBy": ["https://example.com/maker"],
            },
            {"type": "Organization", "spdxId": "https://example.com/maker", "creationInfo": about, "name": "Example"},
            {
                "type": "SpdxDocument",
                "spdxId": "https://example.com/document",
                "creationInfo": about,
                "name": "app",
                "rootElement": ["https://example.com/package-0"],
                "profileConformance": ["core", "software"],
            },
            *libraries,
            {
                "type": "Relationship",
                "spdxId": "https://example.com/relationship",
                "creationInfo": about,
                "from": "https://example.com/package-0",
                "relationshipType": "dependsOn",
                "to": [library["spdxId"] for library in libraries[1:]] or ["https://example.com/maker"],
                "completeness": "complete",
            },
        ],
    }


def written(directory: Path, document: object) -> Path:
    """The document as a file; bytes as they are."""
    path = directory / "sbom.json"
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return path
