"""What resources answer, before nonce and index link are added."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from services.acme.errors import AcmeError
from services.chassis.asgi import Response, json_response

Header = tuple[bytes, bytes]


def answer(document: Mapping[str, Any], *headers: Header, status: int = 200) -> Response:
    """A JSON object."""
    return json_response(document, status, headers)


def rfc3339(seconds: int) -> str:
    """A time as RFC 8555 writes it, in whole seconds UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def location(url: str) -> Header:
    """The URL of what was made or found."""
    return (b"location", url.encode())


def retry_after(seconds: int) -> Header:
    """When to ask again."""
    return (b"retry-after", b"%d" % seconds)


def link(url: str, relation: str) -> Header:
    """A typed link (RFC 8288)."""
    return (b"link", f'<{url}>;rel="{relation}"'.encode())


def not_found() -> AcmeError:
    """The one answer for what does not exist and for what belongs to somebody else."""
    return AcmeError("malformed", "no such resource", status=404)
