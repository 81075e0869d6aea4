from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ca.cli.ledger_text import (
    certificate_lines,
    csv_heading,
    csv_line,
    entry_lines,
    json_line,
    plain,
    refusal_lines,
)
from services.ca.ledger.wire import LedgerEntry, RefusalEntry

ENTRY = LedgerEntry(
    serial="0a",
    status="revoked",
    issuer="issuing-ecdsa",
    profile="client",
    caller="spiffe://pki.test/service/acme",
    account="https://ca.test/acct/1",
    names={"common_name": ["printer"], "dns": ["a.test", "b.test", "c.test", "d.test"]},
    algorithm="ecdsa-p256",
    key_hash="ab" * 32,
    not_before=0,
    not_after=86_400,
    recorded_at=60,
    requester={"order": "7"},
    revoked_at=120,
    reason="superseded",
    revoked_by="spiffe://pki.test/operator/admin",
)
REFUSAL = RefusalEntry("00", 0, "spiffe://pki.test/a", "", "server", ["a.test"], "forbidden", "1", "no")


def cells(line: str) -> list[str]:
    """The cells of one CSV line."""
    (row,) = csv.reader(io.StringIO(line, newline=""))
    return row


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "|", "%"])
def test_no_cell_is_a_formula(start: str) -> None:
    """What a spreadsheet would run is text, wherever it came from; the value can still be read."""
    evil = f"{start}cmd|' /C calc'!A0"
    for row in (replace(ENTRY, account=evil, profile=evil), replace(REFUSAL, detail=evil, names=[evil])):
        found = cells(csv_line(row))
        assert f"'{evil}" in found
        assert not [cell for cell in found if cell.startswith(tuple("=+-@\t\r\n|%"))]


@given(st.text())
def test_a_line_has_a_cell_for_each_heading(text: str) -> None:
    """Whatever a value holds, it stays in its cell, and no line has more or fewer than the first."""
    row = replace(ENTRY, account=text, requester={"order": text})
    assert len(cells(csv_line(row))) == len(cells(csv_heading(LedgerEntry)))


def test_a_json_line_is_the_row_with_times() -> None:
    """JSON Lines hold the row as the API has it, times in RFC 3339, one line each."""
    line = json_line(replace(REFUSAL, detail="a\nb"))
    assert line.count("\n") == 1
    assert json.loads(line)["at"] == "1970-01-01T00:00:00Z"
    assert json.loads(json_line(ENTRY))["revoked_at"] == "1970-01-01T00:02:00Z"
    assert "certificate" not in json.loads(json_line(ENTRY))


def test_a_terminal_gets_no_control_characters() -> None:
    """Names and sentences of others cannot move the cursor or colour the screen."""
    evil = "\x1b[2Jgone\r\u202e"
    assert plain(evil) == "?[2Jgone??"
    shown = entry_lines(replace(ENTRY, names={"common_name": [evil]}, requester={evil: evil}))
    shown += certificate_lines([replace(ENTRY, names={"common_name": [evil]})])
    shown += refusal_lines([replace(REFUSAL, detail=evil)])
    assert all(line.isprintable() for line in shown)


def test_a_table_shows_the_first_names() -> None:
    """Columns stand below their heading; of many names the first are shown, and how many more there are."""
    heading, line = certificate_lines([ENTRY])
    assert line.index("printer, a.test, b.test and 2 more") == heading.index("NAMES")


def test_a_certificate_is_shown_with_who_and_how() -> None:
    """One line for each fact: who asked, how it was validated, what became of it and by whom."""
    shown = "\n".join(entry_lines(ENTRY))
    for fact in ("superseded, by spiffe://pki.test/operator/admin", "- order:        7", "dns:a.test", "service/acme"):
        assert fact in shown
