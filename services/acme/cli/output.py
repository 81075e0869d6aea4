"""How these commands speak: as every command of `ztca`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import UTC, datetime

from services.acme.client import AcmeAdminError
from services.chassis.cli.output import failing_cleanly as failing_as


def failing_cleanly() -> AbstractContextManager[None]:
    """Turn every expected error into its sentence and exit status 1."""
    return failing_as("ztca", AcmeAdminError)


def moment(seconds: int) -> str:
    """A time for people, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
