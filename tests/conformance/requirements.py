"""The requirements of the ACME documents, as they stand in `requirements/*.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).parent / "requirements"
ORDER = (
    "rfc8555",
    "rfc8737",
    "rfc8738",
    "rfc8657",
    "rfc8659",
    "rfc9773",
    "profiles",
    "dns-account",
    "dns-persist",
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One sentence of a document that binds somebody.

    Attributes:
        id: document, section, number within it: `rfc8555-6.2-03`.
        level: the document's word, such as MUST NOT.
        party: whom it binds: "server", "client" or "other" (domain owners, operators, authors).
        text: what it asks for, in our words.
        differs: the first cell of a row in docs/divergences.md, where we do otherwise.
    """

    id: str
    section: str
    level: str
    text: str
    party: str = "server"
    differs: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A specification and its requirements.

    Attributes:
        source: the text from which the requirements were listed.
    """

    name: str
    title: str
    source: str
    requirements: tuple[Requirement, ...]


def documents() -> tuple[Document, ...]:
    """All documents, RFC 8555 first."""
    return tuple(_document(DIRECTORY / f"{stem}.toml") for stem in ORDER)


def _document(path: Path) -> Document:
    content = tomllib.loads(path.read_text())
    rows = tuple(Requirement(**row) for row in content["requirements"])
    return Document(content["document"], content["title"], content["source"], rows)
