"""`ztca debian-keys`: the keys of Debian's weak generator as a list for `published_keys_file`, made on this machine."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice, product
from multiprocessing import get_context
from pathlib import Path
from typing import Final, TypeAlias

import click

from pkicore.encoding import write_atomically
from pkicore.weak_keys.debian import MACHINES, PROCESS_IDS, SEED_FILES, SeedFile, weak_modulus
from pkicore.weak_keys.published import RECORD
from services.ca.cli.output import PlainPath, failing_cleanly, json_option, tell
from services.ca.errors import CeremonyError

_LIST: Final = b"\xff"  # which list a record is of, for people
_PIECE: Final = 500  # keys between two writes
Recipe: TypeAlias = tuple[int, int, str, SeedFile]


@click.command("debian-keys")
@click.option("--out", type=PlainPath(), required=True, help="The list; what is in it stays in it.")
@click.option(
    "--bits", type=click.Choice(["2048", "4096"]), default="2048", show_default=True, help="Size of the keys."
)
@click.option(
    "--first", type=click.IntRange(1, 32_767), default=PROCESS_IDS.start, show_default=True, help="Process ID."
)
@click.option(
    "--last", type=click.IntRange(1, 32_767), default=PROCESS_IDS.stop - 1, show_default=True, help="The last."
)
@click.option("--processes", type=click.IntRange(1, 1024), default=os.cpu_count() or 1, help="How many at once.")
@json_option
def debian_keys(out: Path, bits: str, first: int, last: int, processes: int, as_json: bool) -> None:  # noqa: FBT001 - command-line options
    """Make the RSA keys of CVE-2008-0166 again, and write their fingerprints to a list for `published_keys_file`.

    Six keys for each process ID, about half a second each: all of a size take a day of one processor. It may be stopped
    and gone on with by --first. Keys of ssh-keygen, big-endian machines and elliptic curves are not made.
    """
    with failing_cleanly():
        if first > last:
            raise CeremonyError("--first is greater than --last")
        keys = extend_list(out, product(range(first, last + 1), (int(bits),), MACHINES, SEED_FILES), processes)
        tell(as_json, {"keys": keys}, f"{out} has {keys} keys.")


def extend_list(path: Path, recipes: Iterator[Recipe], processes: int) -> int:
    """Put keys into a list, which is written every few hundred keys; how many it has then.

    Args:
        path: of the list; made where there is none.
        recipes: process ID, bits, name of the machine, and what was with the seed file.
        processes: how many work at once.

    Raises:
        CeremonyError: what is there is no list.
        OSError: it cannot be written.
    """
    records = _read(path)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for piece in _pieces(recipes):
            records.update(pool.map(_record, piece, chunksize=8))
            write_atomically(path, b"".join(sorted(records)), 0o644)
    return len(records)


def _read(path: Path) -> set[bytes]:
    data = path.read_bytes() if path.exists() else b""
    if len(data) % RECORD:
        raise CeremonyError(f"{path} is no list of published keys; name another --out")
    return {data[start : start + RECORD] for start in range(0, len(data), RECORD)}


def _pieces(recipes: Iterator[Recipe]) -> Iterator[list[Recipe]]:
    while piece := list(islice(recipes, _PIECE)):
        yield piece


def _record(recipe: Recipe) -> bytes:
    process_id, bits, machine, seed_file = recipe
    modulus = weak_modulus(process_id, bits, MACHINES[machine], seed_file)
    return hashlib.sha256(modulus.to_bytes(bits // 8, "big")).digest()[: RECORD - 1] + _LIST
