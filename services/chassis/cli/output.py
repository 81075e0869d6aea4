"""How commands speak: sentences for people, `--json` for programs, one sentence and exit 1 when something is wrong."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson
import structlog

from pkicore.errors import PkiError
from services.chassis.errors import ChassisError
from services.chassis.paths import plain_path

Command = TypeVar("Command", bound=Callable[..., Any])


class PlainPath(click.Path):
    """A path on the command line, made absolute and plain: it is written into settings, logs and errors."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ANN401 - what click passes
        """As `click.Path`."""
        return plain_path(Path(os.fsdecode(super().convert(value, param, ctx))))


def log_errors_only() -> None:
    """A command's output is its own; of the library's log lines only errors are shown, on standard error."""
    quiet = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=quiet, logger_factory=structlog.PrintLoggerFactory(sys.stderr))


def json_option(command: Command) -> Command:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Answer in JSON on standard output.")(command)


def directory_option(command: Command) -> Command:
    """`--dir`, the state directory of a deployment."""
    return click.option(
        "--dir",
        "directory",
        type=PlainPath(),
        envvar="PQCPKI_DIR",
        default=Path("pqcpki-state"),
        show_default=True,
        show_envvar=True,
        help="State directory of the deployment.",
    )(command)


def tell(as_json: bool, value: dict[str, Any], *sentences: str) -> None:  # noqa: FBT001 - the flag is the command's own
    """Print the value for programs, or the sentences for people."""
    if as_json:
        click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
        return
    for sentence in sentences:
        click.echo(sentence)


@contextmanager
def failing_cleanly(program: str, *own_errors: type[Exception]) -> Iterator[None]:
    """Turn every expected error into its sentence, led by the program's name, and exit status 1."""
    expected: tuple[type[Exception], ...] = (PkiError, ChassisError, OSError, *own_errors)
    try:
        yield
    except BrokenPipeError:  # who read the output has enough, as `| head`: click ends quietly
        raise
    except expected as error:
        click.echo(f"{program}: {_sentence(error)}", err=True)
        sys.exit(1)


def _sentence(error: Exception) -> str:
    """The error without its number, and with its file first."""
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return f"{error.filename}: {error.strerror}"
    return str(error)
