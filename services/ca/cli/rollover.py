"""`ztca ca`: issuing CAs and roots come and go, while the deployment runs or is stopped."""

import asyncio
import fcntl
import os
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from pkicore.algorithms import ALGORITHMS
from pkicore.clock import Clock, SystemClock, unix
from services.ca.cli.output import PlainPath, directory_option, failing_cleanly, json_option, tell
from services.ca.deployment import follow_move
from services.ca.errors import CeremonyError
from services.ca.key_places import KeyPlaces, Wanted
from services.ca.layout import FAMILIES, SIGNER, Layout
from services.ca.listing import Listed, listed
from services.ca.presence import NothingRuns, Presence, Processes
from services.ca.rollover import Changed, Rollover
from services.ca.root_rollover import RootRollover
from services.ca.settings import CaSettings
from services.ca.stopped import StoppedDeployment
from services.ca.supervisor import only_one
from services.chassis.database import Database
from services.chassis.settings import load_settings

_LOCK = "rollover.lock"
_ISSUING = tuple(name for name, row in ALGORITHMS.items() if row.certificates and row.family in FAMILIES)
_offline = click.option("--offline", type=PlainPath(), help="Where the roots' keys are. [default: DIR/offline]")
_force = click.option("--force", is_flag=True, help="Even where something needs it.")
_family = click.option("--family", type=click.Choice(FAMILIES), required=True, help="Of its key.")

Steps = Callable[["Site", Executor], Coroutine[Any, Any, Changed]]


class Site:
    """A deployment under its locks: stopped, or running."""

    def __init__(self, deployment: StoppedDeployment, presence: Presence, *, runs: bool) -> None:
        self.deployment = deployment
        self._presence = presence
        self._runs = runs

    def issuing(self, pool: Executor) -> Rollover:
        """The steps of issuing CAs."""
        return Rollover(self.deployment, self._presence, KeyPlaces(self.deployment, self._runs), pool)

    def roots(self, pool: Executor) -> RootRollover:
        """The steps of roots."""
        return RootRollover(self.deployment, self._presence, pool)


@click.command("list")
@directory_option
@json_option
def list_(directory: Path, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """List roots and issuing CAs: state, family, key, validity, CRL and OCSP."""
    with failing_cleanly():
        layout, clock = Layout(directory), SystemClock()
        if not layout.config.is_dir():
            raise CeremonyError(f"there is no PKI in {layout.root}: give its --dir")
        found = asyncio.run(_listed(layout, clock))
        now = unix(clock.now())
        tell(as_json, {"authorities": [item.members(now) for item in found]}, *(_line(item, now) for item in found))


@click.command()
@directory_option
@_family
@click.option("--algorithm", type=click.Choice(_ISSUING), help="Of its key. [default: as the active one has]")
@click.option(
    "--keys", type=click.Choice(["file", SIGNER]), help="Who holds its key. [default: who holds the active one's]"
)
@click.option("--backend", help="Name of the back end of signer-hsm that makes the key. [default: the first that can]")
@click.option("--another", is_flag=True, help="Although one of the family is prepared already.")
@_offline
@json_option
def prepare(
    directory: Path,
    family: str,
    algorithm: str | None,
    keys: str | None,
    backend: str | None,
    another: bool,  # noqa: FBT001 - a command-line flag
    offline: Path | None,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Prepare a new issuing CA below the active root, whose key is opened.

    It publishes its CRL, answers OCSP and is known to all services, and issues nothing before it is activated.
    """
    with failing_cleanly():
        if algorithm is not None and ALGORITHMS[algorithm].family != family:
            raise CeremonyError(f"--algorithm {algorithm} is none of the family {family}")
        if backend and keys == "file":
            raise CeremonyError("--backend goes with --keys signer-hsm")
        place = Wanted(bool(backend) or keys == SIGNER, backend or "") if backend or keys else None
        _run(
            directory,
            as_json,
            offline,
            lambda site, pool: site.issuing(pool).prepare(family, algorithm=algorithm, place=place, another=another),
            "{id} is prepared: it issues from `ztca ca activate {id}` on.",
        )


@click.command()
@directory_option
@click.argument("issuer")
@json_option
def activate(directory: Path, issuer: str, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Have an issuing CA issue from now on; the former one of its family is retired.

    One that is retired may come back so.
    """
    with failing_cleanly():
        steps: Steps = lambda site, pool: site.issuing(pool).activate(issuer)  # noqa: E731 - an argument with a name
        _run(directory, as_json, None, steps, "{id} issues from now on.")


@click.command()
@directory_option
@click.argument("issuer")
@_force
@json_option
def retire(directory: Path, issuer: str, force: bool, as_json: bool) -> None:  # noqa: FBT001 - command-line flags
    """Have an issuing CA issue nothing any more; its CRL and its OCSP answers go on."""
    with failing_cleanly():
        steps: Steps = lambda site, pool: site.issuing(pool).retire(issuer, force=force)  # noqa: E731 - likewise
        _run(directory, as_json, None, steps, "{id} is retired; its CRL and its OCSP answers go on.")


@click.command("prepare-root")
@directory_option
@_family
@_offline
@json_option
def prepare_root(directory: Path, family: str, offline: Path | None, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Make a new root, and cross-certificates with the active one of its family, whose key is opened.

    Both are trusted from then on. The new root's key is sealed where the others are.
    """
    with failing_cleanly():
        steps: Steps = lambda site, pool: site.roots(pool).prepare(family)  # noqa: E731 - likewise
        done = "{id} is trusted beside the others; new issuing CAs are below it from `ztca ca activate-root {id}` on."
        _run(directory, as_json, offline, steps, done)


@click.command("activate-root")
@directory_option
@click.argument("root")
@json_option
def activate_root(directory: Path, root: str, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Have new issuing CAs certified by a root; the former one of its family is superseded, and still trusted."""
    with failing_cleanly():
        steps: Steps = lambda site, pool: site.roots(pool).activate(root)  # noqa: E731 - likewise
        _run(directory, as_json, None, steps, "`ztca ca prepare` makes issuing CAs below {id} from now on.")


@click.command("retire-root")
@directory_option
@click.argument("root")
@_force
@json_option
def retire_root(directory: Path, root: str, force: bool, as_json: bool) -> None:  # noqa: FBT001 - command-line flags
    """Trust a root no more, nor what is below it.

    Refused while something needs it: an issuing CA, an identity of a service, a certificate that is valid (--force).
    """
    with failing_cleanly():
        steps: Steps = lambda site, pool: site.roots(pool).retire(root, force=force)  # noqa: E731 - likewise
        _run(directory, as_json, None, steps, "{id} is trusted no more.")


def _run(directory: Path, as_json: bool, offline: Path | None, steps: Steps, done: str) -> None:  # noqa: FBT001 - the flag is the command's own
    with site(Layout(directory, offline), as_json=as_json) as found, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        changed = asyncio.run(steps(found, pool))
    before = "" if changed.changed else " That was so before."
    tell(as_json, changed.members(), done.format(id=changed.id) + before)


@contextmanager
def site(layout: Layout, *, as_json: bool) -> Iterator[Site]:
    """The deployment, stopped or running, and nobody else at its issuing CAs meanwhile.

    Raises:
        CeremonyError: there is none, or somebody else is at it.
    """
    if not layout.config.is_dir():
        raise CeremonyError(f"there is no PKI in {layout.root}: make one with `ztca init --dir {layout.root}`")
    deployment = StoppedDeployment(layout, os.environ, SystemClock(), lambda line: click.echo(line, err=as_json))
    with _alone(layout):
        try:
            stopped = only_one(layout)
            stopped.__enter__()
        except CeremonyError:
            if not layout.endpoints.exists():
                raise CeremonyError(
                    f"{layout.root} starts or stops, or another command is at its keys: repeat this in a moment"
                ) from None
            yield Site(deployment, Processes(layout), runs=True)
            return
        try:
            follow_move(layout)
            yield Site(deployment, NothingRuns(), runs=False)
        finally:
            stopped.__exit__(None, None, None)


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    descriptor = os.open(layout.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CeremonyError("another `ztca ca` command is at work here: repeat this when it is done") from error
        yield
    finally:
        os.close(descriptor)


async def _listed(layout: Layout, clock: Clock) -> list[Listed]:
    settings = load_settings(CaSettings, layout.settings("ca"))
    database = await Database.open(settings.database_url, clock=clock)
    try:
        return await listed(layout, settings, database, unix(clock.now()))
    finally:
        await database.close()


def _line(item: Listed, now: int) -> str:
    start = f"{item.id:20} {item.role:12}{item.state:11}{item.algorithm:11} until {_day(item.not_after)}"
    if item.role == "subordinate":
        return f"{start}, {item.subject}, below {item.root}"
    status = f"CRL {item.crl_state(now)}" + ("" if item.role == "root" else f", OCSP {item.ocsp(now)}")
    above = f", below {item.root}" if item.root else ""
    word = "ends" if item.last_expiry > now else "ended"
    last = f", last certificate {word} {_day(item.last_expiry)}" if item.last_expiry else ""
    return f"{start}, {status}{above}, key {item.key}{last}" + (", REVOKED" if item.revoked else "")


def _day(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"
