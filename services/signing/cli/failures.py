"""How a command ends when it does not do what was asked: one sentence, what to do next, and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

import click
import httpx

from pkicore.errors import KeyAccessError, PkiError
from services.chassis.errors import ChassisError
from services.signing.ci import CiError
from services.signing.client import (
    SigningClientError,
    SigningRefusedError,
    SigningUnavailableError,
    UntrustedServiceError,
)

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


_NEXT: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "the credential is named above; `pqcsign --help` says which ones are looked for",
    HTTPStatus.FORBIDDEN: "the scopes of the API key, and a Cedar policy of the service, must allow it: "
    "`pqcsign policy test` tries policies out",
}
_NEXT_BY_KIND: Final[Mapping[str, str]] = {
    "idempotency-conflict": "give another --idempotency-key",
    "key-unusable": "is the key's name right? signer-hsm also needs a rule that lets the signing service use it: "
    "config/keys.toml",
}
_STATUS: Final[Mapping[type[Exception], int]] = {
    SigningUnavailableError: UNAVAILABLE,
    SigningClientError: REFUSED,
    CiError: USAGE,
    httpx.HTTPError: UNAVAILABLE,
    httpx.InvalidURL: USAGE,
    KeyAccessError: FILES,
    PkiError: REFUSED,
    ChassisError: USAGE,
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
        end(_sentence(error), status_of(error), advice_of(error))


def end(sentence: str, status: int, advice: str | None = None) -> None:
    """Say it on standard error, and exit."""
    click.echo(f"pqcsign: {plain(sentence)}", err=True)
    if advice:
        click.echo(f"  {plain(advice)}", err=True)
    sys.exit(status)


def status_of(error: Exception) -> int:
    """The exit status of an expected error."""
    if isinstance(error, CommandError):
        return error.status
    return next(status for kind, status in _STATUS.items() if isinstance(error, kind))


def advice_of(error: Exception) -> str | None:
    """What to do next about an error of the service; None where its sentence says it."""
    if isinstance(error, UntrustedServiceError):
        return "is --url right, and does --ca hold the roots of its certificate?"
    if isinstance(error, SigningUnavailableError):
        return "try again " + ("later" if error.retry_after is None else f"in {error.retry_after:g} s")
    if isinstance(error, SigningRefusedError):
        return _NEXT_BY_KIND.get(error.kind, _NEXT.get(error.status))
    return None


def plain(text: str) -> str:
    """A text from elsewhere, fit for a terminal: what could steer one is shown as an escape."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def plain_lines(text: str) -> str:
    """Likewise, of a text of several lines."""
    return "\n".join(plain(line) for line in text.splitlines())


def _sentence(error: Exception) -> str:
    """The error, and its file first where it has one."""
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
