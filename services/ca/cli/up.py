"""`ztca up`: run a deployment in the foreground; `ztca warm-up`: prepare it for others who run its services."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Coroutine, Mapping
from pathlib import Path
from typing import Final

import click

from pkicore.clock import SystemClock
from services.ca.cli.output import directory_option, failing_cleanly
from services.ca.deployment import follow_move
from services.ca.layout import SIGNER, Layout
from services.ca.run_out import until_run_out
from services.ca.supervisor import Supervisor, only_one

_PATIENCE: Final = 90.0  # seconds in which ended CRLs are renewed where they can be


@click.command()
@directory_option
def up(directory: Path) -> None:
    """Start every service of the deployment, watch them, and stop them on Ctrl-C or SIGTERM.

    When everything answers, DIR/endpoints.json says where. Logs are in DIR/logs. What ran out while nothing ran, or
    while the machine slept, is renewed before the services start, or start anew.
    """
    with failing_cleanly():
        layout = Layout(directory.absolute())
        with only_one(layout):
            _follow_move(layout)
            # The services' own settings read the environment; here it is only passed on to them.
            asyncio.run(_run(layout, os.environ))


@click.command("warm-up")
@directory_option
def warm_up(directory: Path) -> None:
    """Renew what ran out while nothing ran, so that services which something else than `ztca up` starts find it.

    For containers and units: run it once before they start. What still holds is left alone.
    """
    with failing_cleanly():
        layout = Layout(directory.absolute())
        with only_one(layout):
            _follow_move(layout)
            asyncio.run(_warm_up(layout, os.environ))


def _follow_move(layout: Layout) -> None:
    if (former := follow_move(layout)) is not None:
        click.echo(f"This PKI was moved here from {former}; its settings name the new place now.")


async def _run(layout: Layout, environment: Mapping[str, str]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    patience = _PATIENCE
    while not stop.is_set():
        if SIGNER in layout.services:
            await _unless(stop, _warm_up(layout, environment))
        if stop.is_set():
            return
        halt = asyncio.Event()
        watches = [asyncio.create_task(_halt_after(stop.wait(), halt))]
        if SIGNER in layout.services:
            watches.append(asyncio.create_task(_halt_after(until_run_out(layout, SystemClock(), patience), halt)))
        try:
            await Supervisor(layout, environment, click.echo).run(halt)
        finally:
            for watch in watches:
                watch.cancel()
        if not stop.is_set():
            click.echo("The CRLs have ended, and CA and signer-hsm cannot renew them alone: all start anew.")
            patience *= 2  # whatever keeps them from being renewed, starts do not help it


async def _unless(stop: asyncio.Event, work: Coroutine[object, object, None]) -> None:
    """Do the work, and give it up when we are told to stop."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        working.cancel()  # nothing, if it is done
    with contextlib.suppress(asyncio.CancelledError):
        await working


async def _halt_after(event: Awaitable[object], halt: asyncio.Event) -> None:
    await event
    halt.set()


async def _warm_up(layout: Layout, environment: Mapping[str, str]) -> None:
    from services.ca.warm_start import is_warm  # TLS, which a deployment without signer-hsm does not need here

    clock = SystemClock()
    if not await is_warm(layout, environment, clock):
        from services.ca.cold_start import prepare_cold_start  # a whole CA, which takes seconds to load

        await prepare_cold_start(layout, environment, clock, click.echo)
