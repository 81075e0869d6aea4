"""`python -m services.<name> --config FILE`: how every service is started."""

import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click
import structlog

from pkicore.errors import PkiError
from services.chassis.errors import ChassisError
from services.chassis.observability import configure_logging
from services.chassis.runner import run
from services.chassis.settings import Settings, load_settings, unknown_variables


def service_command(
    name: str,
    settings_class: type[Settings],
    serve: Callable[[Settings], Coroutine[Any, Any, None]],
    *own_errors: type[Exception],
) -> click.Command:
    """The command that runs one service until SIGTERM or SIGINT; an expected error is one sentence and exit 1."""
    expected: tuple[type[Exception], ...] = (ChassisError, PkiError, OSError, *own_errors)

    @click.command(help=f"Run {name} until SIGTERM or SIGINT.")
    @click.option("--config", type=click.Path(path_type=Path), help="Settings file (TOML).")
    def command(config: Path | None) -> None:
        try:
            settings = load_settings(settings_class, config)
            configure_logging(name, settings.log_level, settings.log_format)
            for sentence in unknown_variables(settings_class):
                structlog.get_logger("settings").warning(sentence)
            run(serve(settings))
        except expected as error:
            sys.exit(f"{name}: {error}")

    return command
