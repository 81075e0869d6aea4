"""Full ACME orders (newOrder, authorization, http-01, finalize, certificate) by keep-alive clients.

    python benchmarks/acme.py                                            against a deployment of its own, thrown away
    python benchmarks/acme.py --directory URL --ca-bundle FILE           against a running one

A running server must resolve every name below --suffix to 127.0.0.1 and expect http-01 at --http01-port. With two
processors, the services have one and the load has the other. Absolute rates drift from machine to machine;
processor time per order and ratios within one run are what to rely on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.support.deployment import Deployment, DnsProcess

LOAD = Path(__file__).with_name("acme_load.py")
COLUMNS = (
    ("clients", "clients", "{:d}"),
    ("orders", "orders", "{:d}"),
    ("orders_per_second", "orders/s", "{:.0f}"),
    ("p50_ms", "p50 ms", "{:.1f}"),
    ("p99_ms", "p99 ms", "{:.1f}"),
    ("requests_per_order", "requests/order", "{:.2f}"),
    ("connections", "connections", "{:d}"),
    ("p256_verify_us", "P-256 verify us", "{:.0f}"),
)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", help="ACME directory URL of a running server")
    parser.add_argument("--ca-bundle", help="PEM file that its certificate chains to")
    parser.add_argument("--http01-port", type=int, default=5002, help="where it expects http-01 answers")
    parser.add_argument("--suffix", default="bench.pqcpki.test", help="domain below which names are ordered")
    parser.add_argument("--clients", type=_numbers, default=[1, 8, 32], help="numbers of clients, e.g. 1,8,32")
    parser.add_argument("--orders", type=int, default=500, help="orders per level, at most")
    parser.add_argument("--seconds", type=float, default=30.0, help="time per level, at most")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    options = parser.parse_args()
    if (options.directory is None) != (options.ca_bundle is None):
        parser.error("--directory and --ca-bundle come together")
    return options


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def processors() -> tuple[int | None, int | None]:
    """One for the services and one for the load, or None where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return (available[0], available[1]) if len(available) > 1 else (None, None)


@contextlib.contextmanager
def own_deployment(cpu: int | None, suffix: str) -> Iterator[dict[str, Any]]:
    """A deployment in a temporary folder, on one processor; what the load has to know about it."""
    with tempfile.TemporaryDirectory(prefix="pqcpki-benchmark.") as folder:
        dns = DnsProcess(Path(folder) / "records.json", {f"*.{suffix}": {"A": ["127.0.0.1"]}})
        everything = os.sched_getaffinity(0)
        deployment = Deployment(Path(folder) / "state", dns)
        try:
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})  # inherited by the services
            deployment.init().up()
            os.sched_setaffinity(0, everything)
            endpoints = deployment.endpoints
            yield {
                "directory": endpoints["acme_directory"],
                "ca_bundle": endpoints["tls_ca_bundle"],
                "pids": endpoints["pids"],
                "http01_port": deployment.http01_port,
            }
        finally:
            deployment.stop()
            dns.stop()


def drive(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Run the load process; one result per level as it comes.

    Raises:
        SystemExit: the load failed; its own words are on standard error.
    """
    load = subprocess.Popen([sys.executable, str(LOAD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert load.stdin is not None and load.stdout is not None  # noqa: S101, PT018 -- both are pipes
    with load.stdin as stdin:
        stdin.write(json.dumps(config).encode())
    for line in load.stdout:
        yield json.loads(line)
    if load.wait():
        raise SystemExit("the load process failed")


def print_row(result: Mapping[str, Any]) -> None:
    """One line of the table."""
    cells = [template.format(result[key]).rjust(len(title)) for key, title, template in COLUMNS]
    cpu = "  ".join(f"{name} {value:.2f}" for name, value in result["cpu_ms_per_order"].items())
    print("  ".join(cells), f"  {cpu}", flush=True)


def main() -> None:
    """Measure and print."""
    options = arguments()
    service_cpu, load_cpu = processors()
    with contextlib.ExitStack() as stack:
        if options.directory is None:
            target = stack.enter_context(own_deployment(service_cpu, options.suffix))
        else:
            target = {"directory": options.directory, "ca_bundle": options.ca_bundle, "pids": {}}
            target["http01_port"] = options.http01_port
        levels = {name: getattr(options, name) for name in ("clients", "orders", "seconds", "suffix")}
        results = drive({**target, **levels, "cpu": load_cpu})
        if options.json:
            print(json.dumps({"levels": list(results)}))
            return
        print("  ".join(title for _, title, _ in COLUMNS), "  CPU ms/order")
        for result in results:
            print_row(result)


if __name__ == "__main__":
    main()
