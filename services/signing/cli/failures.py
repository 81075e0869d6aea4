"""How a command ends when it does not do what was asked: one sentence, what to do next, and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import click
import httpx

from pkicore.errors import KeyAccessError, PkiError
from services.chassis.errors import ChassisError
from services.signing.callers.errors import CallerError
from services.signing.ci import CiError
from services.signing.policy.errors import SigningPolicyError

REFUSED: Final = 1
USAGE: Final = 2
UNAVAILABLE: Final = 3
FILES: Final = 4


class CommandError(Exception):
    """A command cannot go on.

    Attributes:
        status: to exit with.
        advice: what to do next; None where the sentence says it.
    """

    def __init__(self, sentence: str, status: int, advice: str | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.advice = advice


_STATUS: Final[Mapping[type[Exception], int]] = {
    CiError: USAGE,
    httpx.HTTPError: UNAVAILABLE,
    httpx.InvalidURL: USAGE,
    KeyAccessError: FILES,
    PkiError: REFUSED,
    ChassisError: USAGE,
    CallerError: REFUSED,
    SigningPolicyError: REFUSED,
    ConnectionError: UNAVAILABLE,
    TimeoutError: UNAVAILABLE,
    OSError: FILES,
}


@contextmanager
def failing() -> Iterator[None]:
    """Turn every expected error into its sentence, its advice and its exit status."""
    try:
        yield
    except CommandError as error:
        end(str(error), error.status, error.advice)
    except tuple(_STATUS) as error:
        status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
        end(_sentence(error), status)


def end(sentence: str, status: int, advice: str | None = None) -> None:
    """Say it on standard error, and exit."""
    click.echo(f"pqcsign: {plain(sentence)}", err=True)
    if advice:
        click.echo(f"  {plain(advice)}", err=True)
    sys.exit(status)


def plain(text: str) -> str:
    """A text from elsewhere, fit for a terminal: what could steer one is shown as an escape."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _sentence(error: Exception) -> str:
    """The error, and its file first where it has one."""
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
