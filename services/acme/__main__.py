"""`python -m services.acme --config FILE` runs the ACME server."""

import sys
from pathlib import Path

import click

from pkicore.errors import PkiError
from services.acme.app import serve
from services.acme.settings import AcmeSettings
from services.chassis.errors import ChassisError
from services.chassis.observability import configure_logging
from services.chassis.runner import run
from services.chassis.settings import load_settings


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="Settings file (TOML).")
def main(config: Path | None) -> None:
    """Run the ACME server until SIGTERM or SIGINT."""
    try:
        settings = load_settings(AcmeSettings, config)
        configure_logging("acme", settings.log_level, settings.log_format)
        run(serve(settings))
    except (ChassisError, PkiError, OSError) as error:
        sys.exit(f"acme: {error}")


if __name__ == "__main__":
    main()
