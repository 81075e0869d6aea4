"""What an archive says it holds: each file with its size and digest, as JSON and as `sha256sum -c` reads it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pkicore.encoding import canonical_json
from services.signing.evidence.archive import ArchiveFile

MANIFEST: Final = "manifest.json"
CHECKSUMS: Final = "SHA256SUMS"
VERIFY: Final = "VERIFY.md"
SIGNATURE_DIRECTORY: Final = "manifest-signature"
FORMAT: Final = "pqcpki evidence 1"
EVIDENCE_TYPE: Final = "urn:pqcpki:evidence:v1"
"""Predicate type of the statement about a manifest: this service makes it for archives alone, whoever asks."""


def manifest(name: str, tenant: str, files: Iterable[ArchiveFile]) -> bytes:
    """The manifest, in canonical JSON: it covers everything but itself, the signatures over it and VERIFY.md."""
    listed = [
        {"path": file.path, "size": file.size, "sha256": file.sha256}
        for file in sorted(files, key=lambda file: file.path)
    ]
    return canonical_json({"format": FORMAT, "release": name, "tenant": tenant, "files": listed})


def checksums(files: Iterable[ArchiveFile]) -> bytes:
    """The same files for `sha256sum -c`; their names hold nothing that it would read otherwise."""
    return "".join(f"{file.sha256}  {file.path}\n" for file in sorted(files, key=lambda file: file.path)).encode()
