"""docs/acme-conformance.md: each requirement and the tests that show it.

`python -m tests.conformance.page` writes it anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.conformance.marks import shown_by
from tests.conformance.requirements import Document, Requirement, documents

PAGE = Path(__file__).parents[2] / "docs/acme-conformance.md"
COMMAND = "python -m tests.conformance.page"
MUSTS = ("MUST", "MUST NOT", "REQUIRED", "SHALL", "SHALL NOT")
OTHERS = {"client": "on the client", "other": "on others"}

_HEAD = f"""# ACME conformance

A row for each MUST and SHOULD of the documents below, in our words, with the tests that show it. The list is
`tests/conformance/requirements/*.toml`; a test names its rows by `@pytest.mark.requirement("…")`, and this page is
written by `{COMMAND}`. A test fails while it is stale. Where a row says that we differ,
[divergences.md](divergences.md) has the reason.
"""


def render(shown: Mapping[str, Sequence[str]], listed: Sequence[Document]) -> str:
    """The whole page."""
    return (
        "\n".join([_HEAD, *_counts(shown, listed), *(line for one in listed for line in _section(one, shown))]) + "\n"
    )


def untested(shown: Mapping[str, Sequence[str]], listed: Sequence[Document]) -> list[Requirement]:
    """What binds the server, is not said to differ, and has no test."""
    rows = (row for document in listed for row in document.requirements)
    return [row for row in rows if row.party == "server" and not row.differs and row.id not in shown]


def _counts(shown: Mapping[str, Sequence[str]], listed: Sequence[Document]) -> Iterator[str]:
    yield "| document | MUST with a test | SHOULD with a test | differs | no test | on clients and others |"
    yield "|---|---|---|---|---|---|"
    for document in listed:
        server = [row for row in document.requirements if row.party == "server"]
        tested = [row for row in server if row.id in shown and not row.differs]
        must = sum(row.level in MUSTS for row in tested)
        differs = sum(bool(row.differs) for row in server)
        cells = (must, len(tested) - must, differs, len(server) - len(tested) - differs)
        rest = len(document.requirements) - len(server)
        yield f"| {document.name} | {' | '.join(str(cell) for cell in cells)} | {rest} |"


def _section(document: Document, shown: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield f"\n## {document.name}: {document.title}\n"
    yield f"Listed from {document.source}.\n"
    yield "| id | level | requirement | test |"
    yield "|---|---|---|---|"
    for row in document.requirements:
        text = row.text.replace("|", "\\|")
        yield f"| {row.id} | {row.level} | {text} | {_proof(row, shown.get(row.id, ()))} |"


def _proof(row: Requirement, tests: Sequence[str]) -> str:
    names = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in tests)
    if row.party != "server":
        return names or OTHERS[row.party]
    if row.differs:
        return f"differs: {row.differs}" + (f"<br>{names}" if names else "")
    return names or "**no test**"


if __name__ == "__main__":
    PAGE.write_text(render(shown_by(), documents()))
