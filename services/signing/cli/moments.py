"""Times as commands show them."""

from __future__ import annotations

from datetime import UTC, datetime


def utc(moment: int) -> str:
    """Unix seconds as people read them, in UTC."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
