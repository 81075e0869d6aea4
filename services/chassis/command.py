"""`python -m services.<name> --config FILE`: how every service is started."""

import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import structlog

from pkicore.errors import PkiError
from services.chassis.errors import ChassisError, SettingsError
from services.chassis.migrations import migrate
from services.chassis.observability import configure_logging
from services.chassis.runner import run
from services.chassis.settings import ProcessSettings, ServiceSettings, Settings, load_settings, unknown_variables


@contextmanager
def importing(service: str, extra: str) -> Generator[None]:
    """Around the imports of a service that needs an extra: where a library is missing, a sentence and exit 1."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in {"services", "pkicore"}:
            raise
        sys.exit(f"{service}: the Python module {missing!r} is missing: pip install 'pqcpki[{extra}]'")


def service_command(
    name: str,
    settings_class: type[Settings],
    serve: Callable[[Settings], Coroutine[Any, Any, None]],
    *own_errors: type[Exception],
    migrations: Path | None = None,
) -> click.Command:
    """The command that runs one service until SIGTERM or SIGINT; an expected error is one sentence and exit 1.

    With `migrations`, the folder of a service that has a database, it takes `--migrate`.
    """
    expected: tuple[type[Exception], ...] = (ChassisError, PkiError, OSError, *own_errors)

    @click.command(help=f"Run {name} until SIGTERM or SIGINT.")
    @click.option("--config", type=click.Path(path_type=Path), help="Settings file (TOML).")
    @click.option("--migrate", "only_migrate", is_flag=True, help="Bring the database to this release, and end.")
    def command(config: Path | None, only_migrate: bool) -> None:  # noqa: FBT001 - a command-line flag
        try:
            settings = load_settings(settings_class, config)
            configure_logging(name, settings.log_level, settings.log_format)
            for sentence in unknown_variables(settings_class):
                structlog.get_logger("settings").warning(sentence)
            run(_migrate(settings, migrations) if only_migrate else serve(settings))
        except expected as error:
            sys.exit(f"{name}: {error}")

    return command


async def _migrate(settings: ProcessSettings, migrations: Path | None) -> None:
    """Bring the service's database to the newest schema.

    Raises:
        SettingsError: it has none.
        UnavailableError: the database cannot be reached or changed.
    """
    if migrations is None or not isinstance(settings, ServiceSettings):
        raise SettingsError("--migrate: this service has no database")
    await migrate(settings.database_url, migrations)
