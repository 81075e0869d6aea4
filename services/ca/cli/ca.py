"""The group `ztca ca`."""

import click

from services.ca.cli.rollover import activate, activate_root, list_, prepare, prepare_root, retire, retire_root
from services.ca.cli.roots import root_crl
from services.ca.cli.subordinate import certify_subordinate


@click.group()
def ca() -> None:
    """The roots and issuing CAs."""


_ISSUING = (list_, prepare, activate, retire)
_ROOTS = (prepare_root, activate_root, retire_root, root_crl, certify_subordinate)
for command in (*_ISSUING, *_ROOTS):
    ca.add_command(command)
