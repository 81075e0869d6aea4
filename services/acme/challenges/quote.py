"""The little of a fetched answer that may be repeated to the applicant."""

from __future__ import annotations

MAX_QUOTE = 60


def quote(data: bytes) -> str:
    """Put the beginning of `data` in quotation marks: at most 60 characters, unprintable ones as dots."""
    text = "".join(
        character if character.isascii() and character.isprintable() and character != '"' else "."
        for character in data[:MAX_QUOTE].decode("latin-1")
    )
    return f'"{text}…"' if len(data) > MAX_QUOTE else f'"{text}"'
