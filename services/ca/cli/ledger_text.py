"""The ledger's rows as people, spreadsheets and programs read them."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Final, TypeAlias

import orjson

from pkicore.clock import from_unix
from services.ca.ledger.wire import LedgerEntry, RefusalEntry

Row: TypeAlias = LedgerEntry | RefusalEntry
_TIMES: Final = frozenset({"not_before", "not_after", "recorded_at", "revoked_at", "at"})
_LEFT_OUT: Final = frozenset({"certificate"})
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
_SHOWN: Final = 3  # names in a line


def moment(seconds: int) -> str:
    """A time as RFC 3339 has it."""
    return from_unix(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def members(row: Row) -> dict[str, Any]:
    """A row for `--json`: as the API has it, with times in RFC 3339."""
    found = {name: value for name, value in asdict(row).items() if name not in _LEFT_OUT or value is not None}
    return {name: moment(value) if name in _TIMES and value is not None else value for name, value in found.items()}


def json_line(row: Row) -> str:
    """A row of a JSON Lines file."""
    return orjson.dumps(members(row)).decode() + "\n"


def csv_heading(kind: type[Row]) -> str:
    """The first line of a CSV file."""
    return _csv([field.name for field in fields(kind) if field.name not in _LEFT_OUT])


def csv_line(row: Row) -> str:
    """A row of a CSV file (RFC 4180)."""
    return _csv([_cell(value) for name, value in members(row).items() if name not in _LEFT_OUT])


FORMATS: Final[Mapping[str, tuple[Callable[[type[Row]], str], Callable[[Row], str]]]] = {
    "json": (lambda _: "", json_line),
    "csv": (csv_heading, csv_line),
}
"""Name of a file format: how it begins, and a row of it."""


def certificate_lines(rows: Iterable[LedgerEntry]) -> list[str]:
    """A table, one line per certificate."""
    heading = ["SERIAL", "STATUS", "ENDS", "PROFILE", "ISSUER", "NAMES"]
    return _table(
        heading,
        [[row.serial, row.status, moment(row.not_after), row.profile, row.issuer, _names(row)] for row in rows],
    )


def refusal_lines(rows: Iterable[RefusalEntry]) -> list[str]:
    """A table, one line per refusal."""
    heading = ["AT", "CALLER", "ACT", "WHAT", "PROBLEM", "RULE", "DETAIL"]
    return _table(
        heading,
        [
            [moment(row.at), row.caller or "-", row.act, _refused(row), row.problem, row.rule or "-", row.detail]
            for row in rows
        ],
    )


def entry_lines(row: LedgerEntry) -> list[str]:
    """Everything about one certificate."""
    revoked = f"{moment(row.revoked_at)}, {row.reason}, by {row.revoked_by or 'unknown'}" if row.revoked_at else None
    lines = {
        "Serial": row.serial,
        "Status": row.status,
        "Revoked": revoked,
        "Names": ", ".join(f"{kind}:{name}" for kind, names in row.names.items() for name in names) or "none",
        "Profile": row.profile,
        "Issuer": row.issuer,
        "Key": f"{row.algorithm or 'unknown'}, SHA-256 {row.key_hash}",
        "Valid": f"{moment(row.not_before)} to {moment(row.not_after)}",
        "Recorded": moment(row.recorded_at),
        "Asked by": row.caller,
        "Validated": row.validated or None,
        "Decision": row.decision or None,
        **{f"- {name}": value for name, value in row.requester.items()},
    }
    return [plain(f"{name + ':':16}{value}") for name, value in lines.items() if value is not None]


def plain(text: str) -> str:
    """Text for a terminal, which acts on control characters."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _refused(row: RefusalEntry) -> str:
    """The profile of a certificate, else the serial, selection, key or endpoint."""
    return row.profile or ", ".join(row.names) or "-"


def _names(row: LedgerEntry) -> str:
    names = list(dict.fromkeys(name for group in row.names.values() for name in group))
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heading, *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _cell(value: object) -> str:
    """A value of a CSV file; what a spreadsheet would take for a formula is marked as text."""
    if isinstance(value, Mapping):
        text = orjson.dumps(value).decode()
    elif isinstance(value, list | tuple):
        text = " ".join(str(item) for item in value)
    else:
        text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _csv(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue()
