"""What a large ledger costs: issuance, OCSP status and search by name, with a million certificates against none.

    python benchmarks/ledger.py                      a million rows, SQLite in a temporary directory
    python benchmarks/ledger.py --rows 100000        fewer
    python benchmarks/ledger.py --directory DIR      where the databases lie; --keep leaves them there

The rows are written by the CA's own store, in the three durable steps of issuance, with random serials, keys and names.
Then both ledgers are used in turn, round by round, so that a machine that is slow for a while is so for both. A line
ends in `ok` where the large ledger costs at most a tenth more processor time; wall time stands beside. An OCSP answer
is one that is not in the cache: parsed, looked up, signed. The look-up alone is shown without a verdict: a row among a
million is in no processor's cache, whatever the database does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import logging
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from pkicore.clock import unix
from services.ca.ledger.query import LedgerQuery
from services.ca.ledger.store.search import LedgerSearch
from services.ca.wire import CertificateRequest
from tests.support.ca_world import ACME, CaWorld, server_request
from tests.support.ledger_rows import DAY, Row, add_rows, serial_of

ROUNDS: Final = 15
MOST: Final = 1.10
PER_EMPTY: Final = 600  # rows that even the "empty" ledger has, so that there is something to find
ISSUER: Final = "issuing-ecdsa"
JUDGED: Final = (
    *("issuance, one by one", "issuance, 8 at once", "OCSP answer"),
    *("search by name", "search below a domain"),
)
LOOK_UP: Final = "status look-up alone"
PIECE: Final = 10_000  # rows between two lines of progress


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="certificates in the large ledger")
    parser.add_argument("--per-round", type=int, default=40, help="acts in each of the rounds")
    parser.add_argument("--directory", type=Path, help="where the databases lie")
    parser.add_argument("--keep", action="store_true", help="leave the databases there, and use them if they are")
    return parser.parse_args()


def host(number: int) -> str:
    """The name of a row."""
    return f"h{number}.d{number % 1000}.example.org"


def row(number: int, rows: int, now: int) -> Row:
    """A certificate like those of a busy ACME server: three months long, of a thousand accounts, two months of them."""
    at = now - 60 * DAY + number * 60 * DAY // rows
    account = f"https://ca.example.org/acme/acct/{number % 1000}"
    return Row([("dns", host(number))], account=account, key=b"%d" % number, recorded_at=at, not_after=at + 90 * DAY)


async def fill(world: CaWorld, rows: int) -> None:
    """Write the rows, oldest first, as a real ledger came to be."""
    now = unix(world.clock.now())
    begun = time.monotonic()
    for first in range(0, rows, PIECE):
        piece = [row(number, rows, now) for number in range(first, min(first + PIECE, rows))]
        await add_rows(world.database, piece, first=first + 1)
        rate = (first + len(piece)) / (time.monotonic() - begun)
        print(f"\r{first + len(piece)} rows, {rate:.0f} rows/s ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


@dataclass
class Act:
    """Something that is timed on both ledgers: microseconds of wall and of processor time, one pair per round."""

    name: str
    judged: bool = True
    wall: dict[str, list[float]] = field(default_factory=dict)
    processor: dict[str, list[float]] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, where: str, times: int) -> Iterator[None]:
        """Time so many acts together."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.wall.setdefault(where, []).append((time.perf_counter() - wall) / times * 1e6)
        self.processor.setdefault(where, []).append((time.process_time() - processor) / times * 1e6)

    def line(self) -> tuple[str, bool]:
        """The medians, their ratios, and whether it is good."""
        wall = {where: statistics.median(values) for where, values in self.wall.items()}
        processor = {where: statistics.median(values) for where, values in self.processor.items()}
        ratio = _ratio(self.processor)
        text = (
            f"{self.name:24}{processor['empty']:>10.0f}{processor['large']:>10.0f}{ratio:>8.2f}"
            f"{wall['empty']:>12.0f}{wall['large']:>10.0f}{_ratio(self.wall):>8.2f}"
        )
        if not self.judged:
            return text, True
        return f"{text}  {'ok' if ratio <= MOST else 'TOO SLOW'}", ratio <= MOST


def _ratio(times: dict[str, list[float]]) -> float:
    """The median of the rounds' own ratios: both ledgers had the same neighbours in a round."""
    return statistics.median(large / empty for large, empty in zip(times["large"], times["empty"], strict=True))


class Bench:
    """The acts over the two ledgers."""

    def __init__(self, worlds: dict[str, CaWorld], rows: int, per_round: int) -> None:
        self._worlds = worlds
        self._searches = {where: LedgerSearch(world.database) for where, world in worlds.items()}
        self._rows = rows
        self._per_round = per_round
        self._run = secrets.token_hex(4)  # in names and idempotency keys: a kept ledger has those of earlier runs
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._known = {"large": rows, "empty": PER_EMPTY}
        self.acts = {name: Act(name) for name in JUDGED} | {LOOK_UP: Act(LOOK_UP, judged=False)}

    async def round(self, number: int) -> None:
        """Every act on each ledger; who begins changes from round to round."""
        order = list(self._worlds)[:: 1 if number % 2 else -1]
        for where in order:
            await self._issue("issuance, one by one", where, number, 1)
        for where in order:
            await self._issue("issuance, 8 at once", where, number, 8)
        for where in order:
            world, numbers = self._worlds[where], self._numbers(where, number)
            requests = [_ocsp_request(world, serial_of(n + 1)) for n in numbers]
            await self._repeat("OCSP answer", where, [partial(world.core.answers.answer, der) for der in requests])
            await self._repeat(LOOK_UP, where, [partial(self._status, world, serial_of(n + 1)) for n in numbers])
            await self._repeat("search by name", where, [partial(self._search, where, host(n)) for n in numbers])
            below = [partial(self._search, where, f"*.{self._run}-{number}.test")] * len(numbers)
            await self._repeat("search below a domain", where, below)

    def _numbers(self, where: str, number: int) -> list[int]:
        """Rows far from each other, other ones in each round."""
        asked = range(number * self._per_round, (number + 1) * self._per_round)
        return [n * 7919 % self._known[where] for n in asked]

    async def _issue(self, act: str, where: str, number: int, at_once: int) -> None:
        requests = [self._request(act, number, n) for n in range(self._per_round)]
        with self.acts[act].timed(where, len(requests)):
            for begin in range(0, len(requests), at_once):
                issue = self._worlds[where].core.issuance.issue
                await asyncio.gather(*(issue(ACME, request) for request in requests[begin : begin + at_once]))

    def _request(self, act: str, number: int, n: int) -> CertificateRequest:
        name = f"{act[10]}{n}.{self._run}-{number}.test"
        return server_request(name, key=self._key, idempotency_key=f"{self._run}-{act}-{number}-{n}")

    async def _repeat(self, act: str, where: str, work: Sequence[Callable[[], Awaitable[object]]]) -> None:
        with self.acts[act].timed(where, len(work)):
            for one in work:
                await one()

    @staticmethod
    async def _status(world: CaWorld, serial: int) -> None:
        if await world.core.store.status(ISSUER, serial) is None:
            raise RuntimeError("the ledger does not know its own serial")

    async def _search(self, where: str, name: str) -> None:
        world = self._worlds[where]
        page = await self._searches[where].page(LedgerQuery.parse(f"name={name}".encode()), unix(world.clock.now()))
        if not page.certificates:
            raise RuntimeError(f"{name} is not found")


def _ocsp_request(world: CaWorld, serial: int) -> bytes:
    issuer = world.issuer()
    name = hashlib.sha1(issuer.subject.public_bytes(), usedforsecurity=False).digest()
    key = x509.SubjectKeyIdentifier.from_public_key(issuer.public_key()).digest
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(name, key, serial, hashes.SHA1())  # noqa: S303 - RFC 5019
    return builder.build().public_bytes(Encoding.DER)


async def main() -> int:
    """Fill, measure, print; 1 where something is too slow."""
    chosen = arguments()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    directory = chosen.directory or Path(tempfile.mkdtemp(prefix="ledger-"))
    worlds: dict[str, CaWorld] = {}
    try:
        for where, rows in (("empty", PER_EMPTY), ("large", chosen.rows)):
            place = directory / where
            is_there = (place / "ca.sqlite3").exists()
            place.mkdir(parents=True, exist_ok=True)
            worlds[where] = await CaWorld.open(place)
            if not is_there:
                await fill(worlds[where], rows)
            await worlds[where].start()
        bench = Bench(worlds, chosen.rows, chosen.per_round)
        for number in range(ROUNDS):
            await bench.round(number)
    finally:
        for world in worlds.values():
            await world.close()
        if not chosen.keep:
            shutil.rmtree(directory)
    print(f"{chosen.rows} certificates against {PER_EMPTY}; microseconds, medians of {ROUNDS} rounds")
    print(f"{'':24}{'CPU empty':>10}{'large':>10}{'ratio':>8}{'wall empty':>12}{'large':>10}{'ratio':>8}")
    lines = [act.line() for act in bench.acts.values()]
    print("\n".join(text for text, _ in lines))
    return 0 if all(good for _, good in lines) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
