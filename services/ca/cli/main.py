"""The command group."""

import logging
import sys

import click
import structlog

from services.ca.cli.audit import audit
from services.ca.cli.certificates import crl, issue, revoke
from services.ca.cli.endpoints import endpoints
from services.ca.cli.init import init
from services.ca.cli.probe import probe
from services.ca.cli.roots import ca
from services.ca.cli.up import up


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Make, run and operate a pqcpki deployment.

    Begin with `ztca init --dir DIR`, then `ztca up --dir DIR`.
    """
    quiet = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=quiet, logger_factory=structlog.PrintLoggerFactory(sys.stderr))


for command in (init, up, endpoints, issue, revoke, crl, ca, audit, probe):
    main.add_command(command)
