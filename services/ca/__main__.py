"""`python -m services.ca --config FILE` runs the CA."""

import sys
from pathlib import Path

import click

from pkicore.errors import PkiError
from services.ca.app import serve
from services.ca.errors import CaServiceError
from services.ca.settings import CaSettings
from services.chassis.errors import ChassisError
from services.chassis.observability import configure_logging
from services.chassis.runner import run
from services.chassis.settings import load_settings


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="Settings file (TOML).")
def main(config: Path | None) -> None:
    """Run the CA until SIGTERM or SIGINT."""
    try:
        settings = load_settings(CaSettings, config)
        configure_logging("ca", settings.log_level, settings.log_format)
        run(serve(settings))
    except (ChassisError, PkiError, CaServiceError, OSError) as error:
        sys.exit(f"ca: {error}")


if __name__ == "__main__":
    main()
