"""Full ACME orders (newOrder, authorization, http-01, finalize, certificate) against Debian's `pebble`, in turn.

    python benchmarks/acme.py                                            against a deployment of its own, thrown away
    python benchmarks/acme.py --ageing 20000                             how fast it is after so many orders more, too
    python benchmarks/acme.py --directory URL --ca-bundle FILE           a running server alone

Both are driven by the same clients, and look the names up and fetch the answers themselves, from the same DNS simulator
and the same responder. Ours is ACME server and CA, with mutual TLS between them, policy, lint, audit and two durable
databases; Pebble keeps everything in memory, and is started anew for each round. Each side has the same processor, the
load and the simulators have the other. Ratios are made round by round, and the median counts; absolute rates drift.
The limits that would stop a benchmark are raised, not switched off: what they cost is in the figures.

A running server must resolve every name below --suffix to 127.0.0.1 and expect http-01 at --http01-port.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.acme_pebble import MISSING, is_there, pebble
from benchmarks.deployments import processors
from benchmarks.peers import numbers
from tests.support.deployment import Deployment, DnsProcess

LOAD: Final = Path(__file__).with_name("acme_load.py")
RAISED: Final = {
    "PQCPKI_ACME_LIMIT_ACCOUNTS_PER_ADDRESS": "1000000/1d",
    "PQCPKI_ACME_LIMIT_ORDERS_PER_ACCOUNT": "1000000/1d",
}
FIGURES: Final = (
    "clients",
    "orders",
    "orders_per_second",
    "p50_ms",
    "p99_ms",
    "requests_per_order",
    "connections",
    "p256_verify_us",
    "cpu_ms",
)
RATIOS: Final = ("orders_per_second", "p99_ms", "cpu_ms")  # ours through the peer's
GOALS: Final = "at least 0.8 with 1 client, 1.5 with 8, 2.0 with 32; p99 at most 0.6; ageing at least 0.95"
COLUMNS: Final = (
    ("orders_per_second", "orders/s", "{:.0f}"),
    ("p50_ms", "p50 ms", "{:.1f}"),
    ("p99_ms", "p99 ms", "{:.1f}"),
    ("requests_per_order", "requests/order", "{:.2f}"),
    ("cpu_ms", "CPU ms/order", "{:.2f}"),
)
AGEING_CLIENTS: Final = 32
AGEING_SAMPLE: Final = 1000  # orders


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", help="ACME directory URL of a running server")
    parser.add_argument("--ca-bundle", help="PEM file that its certificate chains to")
    parser.add_argument("--http01-port", type=int, default=5002, help="where it expects http-01 answers")
    parser.add_argument("--suffix", default="bench.pqcpki.test", help="domain below which names are ordered")
    parser.add_argument("--clients", type=numbers, default=[1, 8, 32], help="numbers of clients, e.g. 1,8,32")
    parser.add_argument("--orders", type=int, default=500, help="orders per level and round, at most")
    parser.add_argument("--seconds", type=float, default=30.0, help="time per level and round, at most")
    parser.add_argument("--rounds", type=int, default=3, help="how often each level is measured")
    parser.add_argument("--ageing", type=int, default=0, metavar="N", help="N orders more, and how fast it is then")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    options = parser.parse_args()
    if (options.directory is None) != (options.ca_bundle is None):
        parser.error("--directory and --ca-bundle come together")
    return options


@contextlib.contextmanager
def running_on(cpus: Sequence[int]) -> Iterator[None]:
    """Whoever is started meanwhile has these processors."""
    everything = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus or everything)
    try:
        yield
    finally:
        os.sched_setaffinity(0, everything)


@contextlib.contextmanager
def own_deployment(folder: Path, suffix: str) -> Iterator[Deployment]:
    """A deployment on the first processor; the DNS simulator is beside the load."""
    cpus, load_cpu = processors(1)
    with running_on([] if load_cpu is None else [load_cpu]):
        dns = DnsProcess(folder / "records.json", {f"*.{suffix}": {"A": ["127.0.0.1"]}})
    made = Deployment(folder / "state", dns, RAISED)
    try:
        with running_on(cpus):
            made.init().up()
        yield made
    finally:
        made.stop()
        dns.stop()


def target_of(made: Deployment) -> dict[str, Any]:
    """What the load has to know about a deployment."""
    endpoints = made.endpoints
    return {
        "directory": endpoints["acme_directory"],
        "ca_bundle": endpoints["tls_ca_bundle"],
        "pids": {name: pid for name, pid in endpoints["pids"].items() if name in {"acme", "ca"}},
        "http01_port": made.http01_port,
    }


def drive(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Run the load process; one result per level.

    Raises:
        SystemExit: the load failed; its own words are on standard error.
    """
    _, load_cpu = processors(1)
    document = json.dumps({**config, "cpu": load_cpu})
    command = [sys.executable, str(LOAD)]
    done = subprocess.run(command, input=document, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit("the load process failed")
    levels = [json.loads(line) for line in done.stdout.splitlines()]
    return [{**level, "cpu_ms": sum(level["cpu_ms_per_order"].values())} for level in levels]


def median_of(measured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The middle of several measurements of one level."""
    middle = {name: statistics.median(level[name] for level in measured) for name in FIGURES}
    middle["clients"] = measured[0]["clients"]  # a whole number, which the median of two rounds is not
    parts = [level["cpu_ms_per_order"] for level in measured]
    return {**middle, "cpu_ms_per_order": {name: statistics.median(part[name] for part in parts) for name in parts[0]}}


def median_ratios(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Ours through theirs, round by round: the machine changes its pace."""
    pairs = list(zip(ours, theirs, strict=True))
    return {name: statistics.median(own[name] / peer[name] for own, peer in pairs) for name in RATIOS}


def measure(
    target: Mapping[str, Any], options: argparse.Namespace, made: Deployment | None
) -> Iterator[dict[str, Any]]:
    """One row per number of clients; with a peer beside a deployment of our own."""
    levels = {name: getattr(options, name) for name in ("clients", "orders", "seconds", "suffix")}
    ours: list[list[dict[str, Any]]] = []
    theirs: list[list[dict[str, Any]]] = []
    for _ in range(options.rounds):
        ours.append(drive({**target, **levels}))
        if made is not None and is_there():
            with (
                tempfile.TemporaryDirectory(prefix="pebble.") as folder,
                pebble(Path(folder), processors(1)[0], made.dns.address, made.http01_port) as peer,
            ):
                theirs.append(drive({**peer, **levels}))
    for index in range(len(options.clients)):
        own = [measured[index] for measured in ours]
        row = median_of(own)
        if theirs:
            peers = [measured[index] for measured in theirs]
            row |= {"pebble": median_of(peers), "ratios": median_ratios(own, peers)}
        yield row


def measure_ageing(target: Mapping[str, Any], orders: int, suffix: str) -> dict[str, float]:
    """A thousand orders, so many more, and a thousand again: the last thousand against the first."""
    config = {**target, "clients": [AGEING_CLIENTS], "suffix": suffix, "seconds": 3600.0}
    (first,) = drive({**config, "orders": AGEING_SAMPLE})
    drive({**config, "orders": orders})
    (last,) = drive({**config, "orders": AGEING_SAMPLE})
    return {
        "orders": orders,
        "first_per_second": first["orders_per_second"],
        "last_per_second": last["orders_per_second"],
        "rate_ratio": last["orders_per_second"] / first["orders_per_second"],
        "cpu_ratio": first["cpu_ms"] / last["cpu_ms"],
    }


def print_row(row: Mapping[str, Any]) -> None:
    """The lines of one level."""
    for name, figures in (("ours", row), ("pebble", row.get("pebble"))):
        if figures is not None:
            cells = [template.format(figures[key]).rjust(len(title)) for key, title, template in COLUMNS]
            parts = ", ".join(f"{part} {value:.2f}" for part, value in figures["cpu_ms_per_order"].items())
            print(f"{row['clients']:7d}  {name:6}  {'  '.join(cells)}  ({parts})")
    if "ratios" in row:
        rate, p99, cpu = (row["ratios"][name] for name in RATIOS)
        print(f"{'':7}  ratios  orders/s {rate:.2f}, p99 {p99:.2f}, CPU {cpu:.2f}", flush=True)


def report(options: argparse.Namespace, measured: dict[str, Any], rows: Iterator[dict[str, Any]]) -> None:
    """Keep the rows, and print them."""
    if not options.json:
        print("clients  server  " + "  ".join(title for _, title, _ in COLUMNS))
    for row in rows:
        measured["levels"].append(row)
        if not options.json:
            print_row(row)


def main() -> None:
    """Measure and print."""
    options = arguments()
    measured: dict[str, Any] = {"pebble": "run" if is_there() else MISSING, "raised_limits": RAISED, "levels": []}
    with contextlib.ExitStack() as stack:
        if options.directory is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pqcpki-benchmark.")))
            made = stack.enter_context(own_deployment(folder, options.suffix))
            target = target_of(made)
        else:
            made = None
            target = {"directory": options.directory, "ca_bundle": options.ca_bundle, "pids": {}}
            target["http01_port"] = options.http01_port
            measured |= {"pebble": "not run: no deployment of our own", "raised_limits": {}}
        report(options, measured, measure(target, options, made))
        if options.ageing:
            measured["ageing"] = measure_ageing(target, options.ageing, options.suffix)
    if options.json:
        print(json.dumps(measured))
        return
    if options.ageing:
        print(
            "after {orders} orders more: {last_per_second:.0f} orders/s instead of {first_per_second:.0f}, "
            "ratio {rate_ratio:.2f}; by processor time {cpu_ratio:.2f}".format(**measured["ageing"])
        )
    print(f"pebble: {measured['pebble']}; raised: {', '.join(measured['raised_limits']) or 'nothing'}")
    print(f"asked for, ours through pebble's orders/s: {GOALS}")


if __name__ == "__main__":
    main()
