"""CRLs by our CA against `openssl ca -gencrl`; what one hundred more entries cost, and one more revocation.

    python benchmarks/crl.py                             10,000, 100,000 and 1,000,000 revoked certificates
    python benchmarks/crl.py --entries 10000 --rounds 1  quickly
    python benchmarks/crl.py --shards 128                the lists in shards as well as whole

Ours is the store and the publisher of the CA (SQLite, `synchronous=FULL`): a publication takes the entries from memory,
signs the whole list and the delta to it, and commits both before anybody sees them (a large list without its entries,
which are in the database already); the rest of a large list is waited for, and not counted. The start of the CA, which
reads everything that was revoked, stands beside it. openssl has the same serials, times and reasons in its text
database, and makes the whole list anew each time, for one hundred more entries, too. Both sign with P-256. `times` are
ratios of wall time, processor seconds stand beside it; MiB are the most memory of a whole process; of ours, `import` is
what Python and our modules take before anything is read. Of the rounds the median counts.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.crl_steps import REASONS, row_of, serials
from benchmarks.deployments import processors
from benchmarks.peers import PeerCa, numbers, pinned

HERE: Final = Path(__file__).parent
SMALL_PARENT: Final = """
import json, os, sys, time
begin = time.perf_counter()
child = os.fork()
if not child:
    os.execvp(sys.argv[1], sys.argv[1:])
_, status, used = os.wait4(child, 0)
seconds = {"wall": time.perf_counter() - begin, "processor": used.ru_utime + used.ru_stime}
print(json.dumps({**seconds, "mib": used.ru_maxrss / 1024, "status": status}))
"""
"""Linux counts the memory of whoever forks as that of the child until it executes something, so the parent is small."""
HEADING: Final = (
    "  entries shards  DER MiB  ours s    CPU  +more s    CPU  openssl s    CPU  times less  +more"
    "  MiB ours  import  openssl  start s"
)
CONFIG: Final = """
[ca]
default_ca = peer
[peer]
database = {folder}/index.txt
crlnumber = {folder}/crlnumber
certificate = {certificate}
private_key = {key}
default_md = sha256
default_crl_days = 1
unique_subject = no
crl_extensions = extensions
[extensions]
authorityKeyIdentifier = keyid
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=numbers, default=[10_000, 100_000, 1_000_000], help="e.g. 10000,100000")
    parser.add_argument("--more", type=int, default=100, help="entries that are added between two publications")
    parser.add_argument("--shards", type=int, default=1, help="shards of the list; 1: only the whole one")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument("--revocations", type=int, default=40, help="in each of fifteen rounds, beside many and none")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    return parser.parse_args()


def run_step(step: str, **facts: Any) -> dict[str, Any]:  # noqa: ANN401 -- JSON
    """A step of the CA in a process of its own.

    Raises:
        SystemExit: it failed; its own words are on standard error.
    """
    facts = {name: str(value) if isinstance(value, Path) else value for name, value in facts.items()}
    command = [*pinned(processors(1)[0]), sys.executable, str(HERE / "crl_steps.py")]
    config = json.dumps({"step": step, "facts": facts})
    done = subprocess.run(command, input=config, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{step} failed")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def write_index(folder: Path, entries: int) -> None:
    """The text database of `openssl ca`: what our store has."""
    with (folder / "index.txt").open("w") as index:
        for number, serial in enumerate(serials(entries), 1):
            row = row_of(number, serial, 1)
            at, until = (
                f"{datetime.fromtimestamp(row[name], UTC):%y%m%d%H%M%SZ}" for name in ("revoked_at", "not_after")
            )
            reason = "" if row["reason"] == REASONS[0] else f",{row['reason']}"
            text = f"{serial:X}"
            index.write(f"R\t{until}\t{at}{reason}\t{text.zfill(len(text) + len(text) % 2)}\tunknown\t/CN=h{number}\n")
    (folder / "index.txt.attr").write_text("unique_subject = no\n")
    (folder / "crlnumber").write_text("01\n")


def measure_openssl(folder: Path, entries: int, rounds: int) -> dict[str, float]:
    """Medians of seconds, of processor seconds and of MiB.

    Raises:
        SystemExit: openssl failed, or does not believe its own list.
    """
    made = PeerCa.create(folder, "ecdsa-p256")
    write_index(folder, entries)
    (folder / "ca.cnf").write_text(CONFIG.format(folder=folder, certificate=made.certificate, key=made.key))
    crl = folder / "openssl.crl"
    command = ["openssl", "ca", "-gencrl", "-batch", "-config", str(folder / "ca.cnf"), "-out", str(crl)]
    found = []
    for _ in range(rounds):
        small = [*pinned(processors(1)[0]), sys.executable, "-I", "-S", "-c", SMALL_PARENT, *command]
        done = subprocess.run(small, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        if found[-1]["status"]:
            raise SystemExit(f"openssl ca -gencrl failed:\n{done.stderr}")
    verify_by_openssl(crl, made.certificate, "PEM")
    return {name: statistics.median(each[name] for each in found) for name in ("wall", "processor", "mib")}


def verify_by_openssl(crl: Path, issuer: Path, form: str) -> None:
    """The openssl command believes a list.

    Raises:
        SystemExit: it does not.
    """
    command = ["openssl", "crl", "-in", str(crl), "-inform", form, "-CAfile", str(issuer), "-noout"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or "verify OK" not in done.stderr + done.stdout:
        raise SystemExit(f"openssl does not believe {crl.name}: {done.stderr}")


def verify_ours(folder: Path, ours: Mapping[str, Any]) -> None:
    """The openssl command believes ours, too; large ones are verified where they were made."""
    if ours["crl"] is not None:
        crl, issuer = folder / "ours.crl", folder / "issuer.pem"
        crl.write_bytes(base64.b64decode(ours["crl"]))
        issuer.write_text(ours["issuer"])
        verify_by_openssl(crl, issuer, "DER")


def measure(folder: Path, entries: int, options: argparse.Namespace) -> dict[str, Any]:
    """One size."""
    (folder / "ca").mkdir()
    run_step("fill", directory=folder / "ca", entries=entries, shards=options.shards)
    facts = {"entries": entries, "shards": options.shards, "more": options.more, "rounds": options.rounds}
    ours = run_step("publish", directory=folder / "ca", **facts)
    verify_ours(folder, ours)
    row: dict[str, Any] = {"entries": entries, "shards": options.shards}
    row["ours"] = {name: value for name, value in ours.items() if name not in {"crl", "issuer"}}
    if shutil.which("openssl"):
        row["openssl"] = measure_openssl(folder, entries, options.rounds)
        row["ratio"] = row["openssl"]["wall"] / ours["publish"]["wall"]
        row["more_ratio"] = row["openssl"]["wall"] / ours["publish_more"]["wall"]
    return row


def print_row(row: Mapping[str, Any]) -> None:
    """One line of the table."""
    ours = row["ours"]
    whole, more, theirs = ours["publish"], ours["publish_more"], row.get("openssl")
    print(
        f"{row['entries']:9d} {row['shards']:6d} {ours['der_mib']:8.2f} {whole['wall']:7.3f} {whole['processor']:6.3f} "
        f"{more['wall']:8.3f} {more['processor']:6.3f} ",
        end="",
    )
    if theirs:
        print(
            f"{theirs['wall']:10.3f} {theirs['processor']:6.2f} {row['ratio']:11.1f} {row['more_ratio']:6.1f} ", end=""
        )
    else:
        print(f"{'not run: openssl missing':>36} ", end="")
    print(
        f"{ours['mib']['peak']:9.0f} {ours['mib']['imported']:7.0f} {theirs['mib'] if theirs else float('nan'):8.0f} "
        f"{ours['load']['wall']:8.2f}",
        flush=True,
    )


def measure_revoking(folder: Path, entries: int, options: argparse.Namespace) -> dict[str, Any]:
    """One more revocation beside many."""
    empty, shards, times = folder / "empty", options.shards, options.revocations
    empty.mkdir()
    found = run_step("revoke", directory=folder / "ca", empty=empty, shards=shards, times=times, rounds=15)
    ratio = found["many"]["processor"] / found["none"]["processor"]
    wall_ratio = found["many"]["wall"] / found["none"]["wall"]
    return {"entries": entries, **found, "processor_ratio": ratio, "wall_ratio": wall_ratio}


def print_revoking(found: Mapping[str, Any]) -> None:
    """One line."""
    micros = {f"{name} {unit}": 1e6 * found[name][unit] for name in ("many", "none") for unit in ("processor", "wall")}
    print(
        f"one revocation beside {found['entries']}: CPU us {micros['many processor']:.0f}, beside none "
        f"{micros['none processor']:.0f}: {found['processor_ratio']:.2f} times; wall us {micros['many wall']:.0f} and "
        f"{micros['none wall']:.0f}: {found['wall_ratio']:.2f} times"
    )


def main() -> None:
    """Measure and print."""
    options, begin = arguments(), time.monotonic()
    measured: dict[str, Any] = {"crl": []}
    if not options.json:
        print(HEADING)
    for entries in sorted(options.entries):
        with tempfile.TemporaryDirectory(prefix="pqcpki-benchmark.") as name:
            folder = Path(name)
            measured["crl"].append(measure(folder, entries, options))
            if not options.json:
                print_row(measured["crl"][-1])
            if entries == max(options.entries):
                measured["revoking"] = measure_revoking(folder, entries, options)
                if not options.json:
                    print_revoking(measured["revoking"])
    measured["seconds"] = time.monotonic() - begin
    if options.json:
        print(json.dumps(measured))


if __name__ == "__main__":
    main()
