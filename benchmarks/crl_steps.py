"""The CA's side of `crl.py`: each step over its store and publisher in a process of its own, so that its memory is too.

Standard input has the step and its facts as JSON, one JSON result goes to standard output. The steps: `fill` writes
revocations in bulk; `publish` is a CA that starts with them, publishes, and publishes again after some more; `revoke`
revokes one by one, in turn beside many revocations and beside none. Certificates that were revoked in bulk have no row
in the ledger, which is what `ledger.py` measures; those that are revoked one by one do.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import logging
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import orjson
import sqlalchemy as sa
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.clock import from_unix
from pkicore.crl import Revocation, encode_entry
from pkicore.keys.file import FileKey
from services.ca.app import MIGRATIONS
from services.ca.schema import revocations
from services.ca.wire import RevocationRequest, format_serial
from tests.support.ca_world import OPERATOR, CaWorld
from tests.support.clock import ManualClock
from tests.support.ledger_rows import DAY, Row, add_rows, serial_of
from tests.support.migrated import migrated
from tests.support.pki import make_hierarchy

START: Final = datetime(2030, 1, 1, tzinfo=UTC)
NOW: Final = int(START.timestamp())
BULK: Final = 10_000_000  # the first number of those that are revoked in bulk
PIECE: Final = 10_000
ISSUER: Final = "issuing-ecdsa"
REASONS: Final = ("unspecified", "superseded", "cessationOfOperation")
SINGLE: Final = "superseded"
HALF_LIFE: Final = timedelta(hours=12)


def serials(entries: int) -> Iterator[int]:
    """Those that are revoked in bulk."""
    return (serial_of(number) for number in range(BULK, BULK + entries))


def database_file(directory: Path) -> Path:
    """Where a world has its rows."""
    return directory / "ca.sqlite3"


async def open_world(directory: Path, shards: int) -> CaWorld:
    """A CA with one issuer over the database in this directory; nothing is loaded yet."""
    clock = ManualClock(START)
    family = await make_hierarchy("ecdsa", clock)
    family = replace(family, issuing=replace(family.issuing, crl_shards=shards))
    key = FileKey("file:/in-memory", family.issuing_key.private_key, ThreadPoolExecutor(1))
    return await CaWorld.open(directory, clock=clock, families={"ecdsa": family}, keys={"ecdsa": key})


async def load(world: CaWorld) -> None:
    """As at the start of the CA: its newest lists, and everything that was revoked."""
    await world.core.publisher.load()
    await world.core.log.refresh()


def row_of(sequence: int, serial: int, shards: int) -> dict[str, Any]:
    """A revocation as the store has it; certificates end between one and three months from now."""
    reason, at = REASONS[sequence % len(REASONS)], NOW - DAY - sequence % (30 * DAY)
    return {
        "sequence": sequence,
        "serial": format_serial(serial),
        "issuer": ISSUER,
        "revoked_at": at,
        "reason": reason,
        "not_after": NOW + 30 * DAY + sequence * 7919 % (60 * DAY),
        "entry": encode_entry(Revocation(serial, from_unix(at), reason)),
        "shard": serial % shards + 1 if shards > 1 else 0,
        "revoked_by": str(OPERATOR),
    }


async def fill(directory: Path, entries: int, shards: int) -> dict[str, Any]:
    """A new database with so many revocations."""
    url = f"sqlite:///{database_file(directory)}"
    await migrated(url, MIGRATIONS)
    begin = time.perf_counter()
    engine = sa.create_engine(url)
    rows = (row_of(number, serial, shards) for number, serial in enumerate(serials(entries), 1))
    with engine.begin() as connection:
        while piece := list(itertools.islice(rows, PIECE)):
            connection.execute(sa.insert(revocations), piece)
    engine.dispose()
    return {"entries": entries, "seconds": time.perf_counter() - begin}


@dataclass
class Times:
    """Seconds of wall and of processor time of something that is done several times."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def timed(self, times: int = 1) -> Iterator[None]:
        """Once more; or so often at once."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.wall.append((time.perf_counter() - wall) / times)
        self.processor.append((time.process_time() - processor) / times)

    def document(self) -> dict[str, float]:
        """The medians."""
        return {"wall": statistics.median(self.wall), "processor": statistics.median(self.processor)}


def peak_mib() -> float:
    """The most memory that this process had so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


async def publish(directory: Path, entries: int, shards: int, more: int, rounds: int) -> dict[str, Any]:
    """A CA starts with what is there, publishes, publishes again as its lists get old, and after `more` revocations."""
    imported = peak_mib()
    world = await open_world(directory, shards)
    start, whole, incremental, revoking = Times(), Times(), Times(), Times()
    ready = iter(await add_rows(world.database, candidates(rounds * more)))
    with start.timed():
        await load(world)
    await publish_due(world)
    started = peak_mib()
    for _ in range(rounds):
        await world.core.publisher.rested()
        world.clock.advance(HALF_LIFE)
        with whole.timed():
            await publish_due(world)
    for _ in range(rounds):
        with revoking.timed(more):
            for serial in itertools.islice(ready, more):
                await world.core.revoker.revoke(OPERATOR, RevocationRequest(SINGLE, serial=serial))
        await world.core.publisher.rested()
        world.clock.advance(timedelta(seconds=1))
        with incremental.timed():
            await publish_due(world)
    peak = peak_mib()
    newest = world.core.publisher.newest(ISSUER)
    if newest is None:
        raise RuntimeError("nothing was published")
    issuer = world.issuer()
    check(newest.der, issuer, entries + rounds * more)
    await world.close()
    return {
        "load": start.document(),
        "publish": whole.document(),
        "publish_more": incremental.document(),
        "revoke": revoking.document(),
        "der_mib": len(newest.der) / 2**20,
        "mib": {"imported": imported, "started": started, "peak": peak},
        "crl": base64.b64encode(newest.der).decode() if entries <= 10_000 else None,
        "issuer": issuer.public_bytes(Encoding.PEM).decode(),
    }


async def publish_due(world: CaWorld) -> None:
    """All that is due now.

    Raises:
        RuntimeError: something is left, so that less was measured than is said.
    """
    if not await world.core.publisher.publish_due():
        raise RuntimeError("not everything that was due could be published")


def check(der: bytes, issuer: x509.Certificate, entries: int) -> None:
    """A list of ours has every entry, and verifies.

    Raises:
        RuntimeError: it is not so.
    """
    crl = x509.load_der_x509_crl(der)
    if len(crl) != entries:
        raise RuntimeError(f"the list has {len(crl)} entries, not {entries}")
    if not crl.is_signature_valid(issuer.public_key()):  # type: ignore[arg-type] # an issuer's key signs
        raise RuntimeError("the list does not verify")
    if crl.get_revoked_certificate_by_serial_number(serial_of(BULK + entries // 2)) is None and entries > 1000:
        raise RuntimeError("the list lacks a serial")


def candidates(count: int) -> list[Row]:
    """Certificates of the ledger that are revoked one by one."""
    return [
        Row([("dns", f"h{number}.example.org")], key=b"%d" % number, recorded_at=NOW - DAY, not_after=NOW + 60 * DAY)
        for number in range(count)
    ]


async def revoke(directory: Path, empty: Path, shards: int, times: int, rounds: int) -> dict[str, Any]:
    """One revocation after the other, in turn beside many and beside none; nothing is published meanwhile."""
    worlds = {"none": await open_world(empty, shards), "many": await open_world(directory, shards)}
    measured = {name: Times() for name in worlds}
    ready: dict[str, Iterator[str]] = {}
    for name, world in worlds.items():
        serials_of = await add_rows(world.database, candidates(times * rounds), first=BULK // 2)
        ready[name] = iter(serials_of)
        await load(world)
    for number in range(rounds):
        for name in list(worlds)[:: 1 if number % 2 else -1]:
            with measured[name].timed(times):
                for serial in itertools.islice(ready[name], times):
                    await worlds[name].core.revoker.revoke(OPERATOR, RevocationRequest(SINGLE, serial=serial))
    for world in worlds.values():
        await world.close()
    return {name: found.document() for name, found in measured.items()}


STEPS: Final[dict[str, Callable[..., Awaitable[dict[str, Any]]]]] = {"fill": fill, "publish": publish, "revoke": revoke}


async def main() -> None:
    """One step."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    config = orjson.loads(sys.stdin.buffer.read())
    facts = {name: Path(value) if name in {"directory", "empty"} else value for name, value in config["facts"].items()}
    result = await STEPS[config["step"]](**facts)
    sys.stdout.buffer.write(orjson.dumps(result) + b"\n")


if __name__ == "__main__":
    asyncio.run(main())
