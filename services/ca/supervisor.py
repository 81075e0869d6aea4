"""`ztca up`: every service of a deployment as a process of its own, started in order, watched, restarted, stopped.

1. one supervisor per state directory (a lock on a file, freed by the kernel whatever happens)
2. for each service: start it, wait until its listeners accept and `/readyz` says ready
3. `endpoints.json`, anew whenever a process is replaced
4. a process that ends is started again, after a wait that doubles; it keeps its ports
5. on SIGINT or SIGTERM: every process is asked to stop, then killed; `endpoints.json` goes

The kernel kills the children when the supervisor dies, so `kill -9` of it leaves nothing running.
"""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from services.ca.child import PORT_FIELDS, Child, start_child
from services.ca.deployment import free_port, recorded_settings
from services.ca.endpoints import describe, write_endpoints
from services.ca.errors import CeremonyError
from services.ca.layout import SIGNER, SIGNING, Layout

_POLL: Final = 0.1

Say = Callable[[str], None]


class Supervisor:
    """Runs the services of one deployment.

    Args:
        layout: The deployment.
        environment: For the children, as the supervisor was started with.
        say: Prints a line for a person.
        services: Which, in the order of their start; those with a settings file if not given.
    """

    def __init__(
        self, layout: Layout, environment: Mapping[str, str], say: Say, services: Sequence[str] | None = None
    ) -> None:
        self._layout = layout
        self._say = say
        self._children = [
            Child.of(layout, service, environment) for service in (layout.services if services is None else services)
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Start everything, then watch until `stop` is set.

        Raises:
            CeremonyError: a service did not become ready; the sentence holds the end of its log.
        """
        try:
            for child in self._children:
                await self._start(child, stop)
                if stop.is_set():
                    return
                self._say(f"{child.service} is up: {child.where}")
            self._publish()
            self._say(f"Everything is up; endpoints are in {self._layout.endpoints}")
            async with asyncio.TaskGroup() as minders:
                for child in self._children:
                    minders.create_task(self._mind(child, stop))
        finally:
            self._layout.endpoints.unlink(missing_ok=True)
            await self._stop_all()

    async def _start(self, child: Child, stop: asyncio.Event) -> None:
        self._pass_on_urls(child)
        await start_child(child, stop)
        if child.service == "ca" and not stop.is_set():
            for signer in (other for other in self._children if other.service == SIGNER):
                await self._lead_to_ca(signer, stop)

    async def _lead_to_ca(self, signer: Child, stop: asyncio.Event) -> None:
        """Start signer-hsm anew if the CA is elsewhere than it was told, since that port was taken meanwhile."""
        told = dict(signer.environment)
        self._say_where_the_ca_will_be(signer)
        if signer.environment != told:
            await signer.stop()
            await start_child(signer, stop)

    async def _mind(self, child: Child, stop: asyncio.Event) -> None:
        """Replace the process whenever it ends."""
        while not await _stopped(stop, _POLL):
            status = child.exit_status()
            if status is None:
                continue
            wait = child.next_wait()
            self._say(f"{child.service} ended with status {status}; starting it again in {wait:g} s (see {child.log})")
            if await _stopped(stop, wait):
                return
            try:
                await self._start(child, stop)
            except CeremonyError as error:
                self._say(str(error))
                await child.stop()
            else:
                self._publish()
                self._say(f"{child.service} is up again: {child.where}")

    def _pass_on_urls(self, child: Child) -> None:
        """Each service finds the others where they are, even if that port was not the recorded one."""
        known = {other.service: other.urls for other in self._children}
        if child.service == SIGNER:
            self._say_where_the_ca_will_be(child)
        if child.service == "ca" and known.get(SIGNER):
            child.environment["PQCPKI_CA_SIGNER_URL"] = known[SIGNER]["internal"]
        if child.service == "acme" and known.get("ca"):
            child.environment.setdefault("PQCPKI_ACME_CA_URL", known["ca"]["internal"])
            child.environment.setdefault("PQCPKI_ACME_CA_STATUS_URL", known["ca"]["status"])
        if child.service == SIGNING and known.get("ca") and known.get(SIGNER):
            child.environment.setdefault("PQCPKI_SIGNING_CA_URL", known["ca"]["internal"])
            child.environment.setdefault("PQCPKI_SIGNING_CA_STATUS_URL", known["ca"]["status"])
            child.environment.setdefault("PQCPKI_SIGNING_SIGNER_URL", known[SIGNER]["internal"])

    def _say_where_the_ca_will_be(self, signer: Child) -> None:
        """signer-hsm starts before the CA, whose status it follows; so the CA's ports are settled now."""
        for ca in (child for child in self._children if child.service == "ca"):
            recorded = recorded_settings(self._layout, "ca")
            host = str(recorded.get("host", "127.0.0.1"))
            ports = {}
            for variable in ("PQCPKI_CA_PORT", "PQCPKI_CA_HTTP_PORT"):
                wanted = int(ca.environment.get(variable) or recorded.get(PORT_FIELDS[variable]) or 0)
                if not wanted:
                    ca.preferred.add(variable)  # it was free a moment ago
                ports[variable] = ca.environment[variable] = str(wanted or free_port(host))
            signer.environment["PQCPKI_SIGNER_HSM_CA_URL"] = f"https://localhost:{ports['PQCPKI_CA_PORT']}"
            signer.environment["PQCPKI_SIGNER_HSM_CA_STATUS_URL"] = f"http://{host}:{ports['PQCPKI_CA_HTTP_PORT']}"

    def _publish(self) -> None:
        write_endpoints(self._layout, describe(self._layout, {child.service: child.urls for child in self._children}))

    async def _stop_all(self) -> None:
        for child in reversed(self._children):
            if child.exit_status() is None and child.process is not None:
                await child.stop()
                self._say(f"{child.service} has stopped")


async def _stopped(stop: asyncio.Event, seconds: float) -> bool:
    """Wait for so long, or until told to stop."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
    return stop.is_set()


@contextlib.contextmanager
def only_one(layout: Layout) -> Iterator[None]:
    """Hold the deployment's lock.

    Raises:
        CeremonyError: another `ztca up` holds it, or there is no deployment.
    """
    if not layout.config.is_dir():
        raise CeremonyError(f"there is no PKI in {layout.root}: make one with `ztca init --dir {layout.root}`")
    descriptor = os.open(layout.root / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CeremonyError(f"another `ztca up` runs in {layout.root}: stop that one first") from error
        yield
    finally:
        os.close(descriptor)
