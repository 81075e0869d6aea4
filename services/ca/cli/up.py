"""`ztca up`: run a deployment in the foreground."""

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import click

from pkicore.clock import SystemClock
from services.ca.cli.output import directory_option, failing_cleanly
from services.ca.deployment import follow_move
from services.ca.layout import SIGNER, Layout
from services.ca.supervisor import Supervisor, only_one


@click.command()
@directory_option
def up(directory: Path) -> None:
    """Start every service of the deployment, watch them, and stop them on Ctrl-C or SIGTERM.

    When everything answers, DIR/endpoints.json says where. Logs are in DIR/logs.
    """
    with failing_cleanly():
        layout = Layout(directory.absolute())
        with only_one(layout):
            if (former := follow_move(layout)) is not None:
                click.echo(f"This PKI was moved here from {former}; its settings name the new place now.")
            # The services' own settings read the environment; here it is only passed on to them.
            asyncio.run(_run(layout, os.environ))


async def _run(layout: Layout, environment: Mapping[str, str]) -> None:
    if SIGNER in layout.services:
        await _warm_up(layout, environment)
    supervisor = Supervisor(layout, environment, click.echo)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    await supervisor.run(stop)


async def _warm_up(layout: Layout, environment: Mapping[str, str]) -> None:
    from services.ca.warm_start import is_warm  # TLS, which a deployment without signer-hsm does not need here

    clock = SystemClock()
    if not await is_warm(layout, environment, clock):
        from services.ca.cold_start import prepare_cold_start  # a whole CA, which takes seconds to load

        await prepare_cold_start(layout, environment, clock, click.echo)
