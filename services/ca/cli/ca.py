"""The group `ztca ca`."""

import click

from services.ca.cli.rollover import activate, activate_root, list_, prepare, prepare_root, retire, retire_root
from services.ca.cli.roots import root_crl


@click.group()
def ca() -> None:
    """The roots and issuing CAs."""


for command in (list_, prepare, activate, retire, prepare_root, activate_root, retire_root, root_crl):
    ca.add_command(command)
