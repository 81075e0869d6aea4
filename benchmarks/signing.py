"""The signing service against the keys themselves; the memory that a large SBOM takes; proofs out of a large log.

    python benchmarks/signing.py                               raw, DSSE, hybrid; file and SoftHSM2; 1, 8, 32 callers
    python benchmarks/signing.py --backends file --what raw    part of it
    python benchmarks/signing.py --subjects 64                 sixty-four artefacts in each request
    python benchmarks/signing.py --backends "" --sbom 40       only the memory: a CycloneDX of 40 MiB
    python benchmarks/signing.py --backends "" --log 1000000   only the log: a million entries

Every signature is one of `POST /v1/signatures` over kept mTLS connections: with the policy's decision on record before
it, and a durable record after it (SQLite, `synchronous=FULL`). The services (and the direct calls, one after the other)
have one processor, the load has the other. `ratio` is signatures per second over what the key itself does on that
processor: `cryptography` for file keys, C_Sign of the module for SoftHSM2; of a hybrid, both keys one after the other.
Absolute rates drift; ratios within one run and processor time per signature are what to rely on.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import httpx
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.deployments import (
    World,
    add_file,
    add_pkcs11,
    deployment,
    drive,
    processors,
    run_script,
    write_tables,
)
from benchmarks.signer_load import cpu_seconds, public_client
from pkicore.clock import SystemClock
from pkicore.keys.file import FileKey
from services.chassis.cli.deployed import Deployed
from services.chassis.database import Database
from tests.support.deployment import Deployment
from tests.support.logs import create_log_schema, fill_log, opened_log

MIB: Final = 1024 * 1024
DIGEST: Final = "5a" * 32
MU: Final = base64.b64encode(b"\x5a" * 64).decode()
KEYS: Final[Mapping[str, Sequence[str]]] = {
    "file": ("ecdsa-p256", "rsa-2048", "ml-dsa-65"),
    "pkcs11": ("ecdsa-p256", "rsa-2048"),
}
OPERATOR: Final = "spiffe://pqcpki.internal/operator/*"
SERVICE: Final = "spiffe://pqcpki.internal/service/signing"
POLICY: Final = (
    '@id("bench")\npermit (principal in Tenant::"bench", action == Action::"sign", resource in Tenant::"bench");\n'
)
PROOFS: Final = 2000
HEADING: Final = (
    "backend  what                 subjects  callers  direct/s  signed/s  ratio  p50 ms   p99 ms  signing us  signer us"
)


@dataclass(frozen=True)
class Work:
    """One kind of request.

    Attributes:
        name: for the table.
        keys: algorithms of the keys that sign.
        request: the members of the request beside its subjects.
        many: whether it may have several subjects.
    """

    name: str
    keys: tuple[str, ...]
    request: Mapping[str, Any]
    many: bool = True

    def body(self, subjects: int) -> str:
        """The request."""
        named = [{"name": f"artefact-{number}", "digest": {"sha256": DIGEST}} for number in range(subjects)]
        return json.dumps({"subjects": named, **self.request})


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", type=_words, default=["file", "pkcs11"], help="file, pkcs11")
    parser.add_argument("--what", type=_words, default=["raw", "dsse", "hybrid"], help="raw, dsse, hybrid")
    parser.add_argument("--callers", type=_numbers, default=[1, 8, 32], help="numbers of callers, e.g. 1,8,32")
    parser.add_argument("--subjects", type=int, default=1, help="artefacts in each request")
    parser.add_argument("--seconds", type=float, default=5.0, help="time per level")
    parser.add_argument("--sbom", type=int, default=0, metavar="MIB", help="also sign with an SBOM of that size")
    parser.add_argument("--log", type=int, default=0, metavar="ENTRIES", help="also prove entries of a log that large")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _words(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def works(backend: str, wanted: Sequence[str]) -> Iterator[Work]:
    """What is measured with the keys of a back end; a hybrid with SoftHSM2 has its ML-DSA key in a file."""
    if "raw" in wanted:
        for algorithm in KEYS[backend]:
            key = key_id(backend, algorithm)
            mu = {"mu": {key: MU}} if algorithm == "ml-dsa-65" else {}
            yield Work(f"raw {algorithm}", (algorithm,), {"key": key, "formats": ["raw"], **mu}, many=not mu)
    if "dsse" in wanted:
        attesting = attestation_key_id(backend, "ecdsa-p256")
        yield Work("dsse ecdsa-p256", ("ecdsa-p256",), {"key": attesting, "formats": ["dsse"]})
    if "hybrid" in wanted:
        yield Work("hybrid dsse", ("ecdsa-p256", "ml-dsa-65"), {"profile": backend, "formats": ["dsse"]})


def key_id(backend: str, algorithm: str) -> str:
    """TENANT.NAME of a benchmark's key for artefacts."""
    return f"bench.{backend}-{algorithm}"


def attestation_key_id(backend: str, algorithm: str) -> str:
    """Likewise of one for statements."""
    return f"bench.{backend}-attest-{algorithm}"


def prepare(backends: Sequence[str], directory: Path) -> None:
    """A tenant `bench` at both services, with quotas that nobody reaches; the operator is of it."""
    config = directory / "config"
    with (config / "keys.toml").open("a") as policy:
        policy.write(
            f'\n[[tenants]]\nid = "bench"\nbackends = {json.dumps(backends)}\nmax_keys = 100\n'
            "rate_per_second = 1000000\nburst = 1000000\nmax_in_flight = 10000\n"
            f'\n[[rules]]\nid = "bench-made"\ntenant = "bench"\ncallers = ["{OPERATOR}"]\n'
            'acts = ["create", "show"]\nkeys = ["*"]\n'
            f'\n[[rules]]\nid = "bench-signs"\ntenant = "bench"\ncallers = ["{SERVICE}"]\n'
            'acts = ["sign", "pubkey"]\nkeys = ["*"]\nkinds = ["digest", "mu"]\n'
        )
    signing = config / "signing.toml"
    head, _, callers = signing.read_text().partition("[[mtls_callers]]")
    signing.write_text(f"{head}[[mtls_callers]]{callers.replace('default', 'bench')}{_profiles(backends)}")
    (config / "signing-policies" / "bench.cedar").write_text(POLICY)


def _profiles(backends: Sequence[str]) -> str:
    written = "\n[quota]\nper_second = 1000000\nburst = 1000000\nin_flight = 10000\n"
    for backend in backends:
        keys = [key_id(backend, algorithm) for algorithm in KEYS[backend]]
        attesting = [attestation_key_id(backend, "ecdsa-p256"), attestation_key_id("file", "ml-dsa-65")]
        written += f'\n[[profiles]]\nid = "{backend}"\ntenant = "bench"\nkeys = {json.dumps(keys)}\n'
        written += f"attestation_keys = {json.dumps(attesting)}\n"
    return written


def create_keys(made: Deployment, backends: Sequence[str]) -> None:
    """Every key of the benchmark."""
    bodies = [
        json.dumps(
            {
                "tenant": "bench",
                "name": name.partition(".")[2],
                "algorithm": algorithm,
                "backend": backend,
                "idempotency_key": name,
            }
        )
        for backend in backends
        for algorithm in KEYS[backend]
        for name in (key_id(backend, algorithm), attestation_key_id(backend, algorithm))
    ]
    config = {"callers": [1], "seconds": 60, "unique": True, "warm_up": 0, "bodies": bodies}
    drive(made, None, "signer_hsm", "/v1/keys", **config)


def direct_rates(backend: str, world: World, seconds: float, cpus: Sequence[int]) -> dict[str, float]:
    """Signatures per second by the keys themselves, by algorithm."""
    wanted = [name for name in KEYS["file"] if backend == "file" or name not in KEYS[backend]]
    config = {"algorithms": wanted, "seconds": seconds, "cpus": list(cpus)}
    rates = {one["algorithm"]: one["per_second"] for one in run_script("signing_direct.py", config)}
    for algorithm in KEYS[backend] if backend == "pkcs11" else ():
        family, label = algorithm.partition("-")[0], f"{key_id(backend, algorithm)}.v1"
        config = {**world.direct[backend], "label": label, "family": family, "threads": 1, "seconds": seconds}
        (found,) = run_script("signer_module.py", {**config, "cpus": list(cpus)})
        rates[algorithm] = found["signatures_per_second"]
    return rates


def measure_backend(
    made: Deployment, backend: str, world: World, options: argparse.Namespace, cpus: Sequence[int], load_cpu: int | None
) -> Iterator[dict[str, Any]]:
    """One row per kind of request and number of callers."""
    direct = direct_rates(backend, world, min(options.seconds, 3.0), cpus)
    for work in works(backend, options.what):
        subjects = options.subjects if work.many else 1
        signatures = subjects if work.name.startswith("raw") else len(work.keys)
        alone = len(work.keys) / sum(1 / direct[name] for name in work.keys)
        config: dict[str, Any] = {"callers": options.callers, "seconds": options.seconds, "unique": False}
        config |= {"bodies": [work.body(subjects)], "public": True}
        for ours in drive(made, load_cpu, "signing", "/v1/signatures", **config):
            rate = ours["per_second"] * signatures
            yield {
                "backend": backend,
                "what": work.name,
                "subjects": subjects,
                "callers": ours["callers"],
                "direct_per_second": alone,
                "per_second": rate,
                "ratio": rate / alone,
                "p50_ms": ours["p50_ms"],
                "p99_ms": ours["p99_ms"],
                "cpu_us": {name: micros / signatures for name, micros in ours["cpu_us"].items()},
            }


@contextlib.contextmanager
def opened(options: argparse.Namespace, cpus: Sequence[int]) -> Iterator[tuple[Deployment, World]]:
    """A deployment with the signing service and the keys."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pqcpki-benchmark.")))
        world = World()
        if "pkcs11" in options.backends:
            add_pkcs11(world, folder)
        add_file(world, folder)
        backends = [name for name in ("file", "pkcs11") if name in world.tables]
        remote = ("--signing", "--signer-backends", str(write_tables(world, folder)))
        made = stack.enter_context(deployment(folder, cpus, *remote, prepare=partial(prepare, backends)))
        create_keys(made, backends)
        yield made, world


def print_row(row: Mapping[str, Any]) -> None:
    """One line of the table."""
    used = row["cpu_us"]
    print(
        f"{row['backend']:8} {row['what']:20} {row['subjects']:8d} {row['callers']:8d} {row['direct_per_second']:9.0f} "
        f"{row['per_second']:9.0f} {row['ratio']:6.2f} {row['p50_ms']:7.2f} {row['p99_ms']:8.2f} "
        f"{used['signing']:11.0f} {used['signer_hsm']:10.0f}",
        flush=True,
    )


def sbom(size: int) -> bytes:
    """A CycloneDX that long, with as many libraries as that takes."""
    head, tail = b'{"bomFormat":"CycloneDX","specVersion":"1.6","version":1,"components":[', b"]}"
    one = '{"type":"library","name":"library-%08d","version":"1.0.%d","purl":"pkg:generic/library-%08d@1.0.%d"}'
    length = len(one % (0, 0, 0, 0)) + 8
    return head + b",".join((one % (n, n, n, n)).encode() for n in range(size // length)) + tail


def memory_of(pid: int, what: str) -> int:
    """A line of /proc/PID/status, in octets."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


class Children:
    """The most memory that a child of a process had, looked at while this is open."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            for task in Path(f"/proc/{self._pid}/task").iterdir():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError, StopIteration):  # it ended meanwhile
                    for child in (task / "children").read_text().split():
                        self.peak = max(self.peak, memory_of(int(child), "VmHWM"))


async def sign_with_sbom(made: Deployment, content: bytes) -> float:
    """Seconds from the first octet of the upload to the answer."""
    deployed = Deployed.read(made.directory)
    work = Work("", (), {"key": attestation_key_id("file", "ecdsa-p256"), "formats": ["dsse"]})
    parts: dict[str, Any] = {
        "request": (None, work.body(1), "application/json"),
        "sbom": ("sbom.json", content, "application/vnd.cyclonedx+json"),
    }
    async with public_client(deployed).http(base_url=deployed.endpoints["signing"], timeout=300) as http:
        begin = time.perf_counter()
        answer = await http.post("/v1/signatures", files=parts)
    if answer.status_code != httpx.codes.CREATED:
        raise SystemExit(f"the SBOM was refused: {answer.text[:500]}")
    return time.perf_counter() - begin


def measure_sbom(made: Deployment, mebibytes: int) -> dict[str, Any]:
    """What an SBOM costs the real process: a small one first, so that the code is there."""
    pid = made.endpoints["pids"]["signing"]
    asyncio.run(sign_with_sbom(made, sbom(MIB)))
    content = sbom(mebibytes * MIB)
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # forgets the peak
    before, used = memory_of(pid, "VmRSS"), cpu_seconds({"signing": pid})["signing"]
    with Children(pid) as children:
        seconds = asyncio.run(sign_with_sbom(made, content))
    return {
        "sbom_mib": len(content) / MIB,
        "seconds": seconds,
        "service_mib": (memory_of(pid, "VmHWM") - before) / MIB,
        "service_cpu_seconds": cpu_seconds({"signing": pid})["signing"] - used,
        "child_mib": children.peak / MIB,
    }


async def measure_log(entries: int, folder: Path) -> dict[str, Any]:
    """Inclusion proofs of entries all over a log of that size, one after the other."""
    url, clock = f"sqlite:///{folder / 'log.sqlite3'}", SystemClock()
    await create_log_schema(url)
    database = await Database.open(url, clock=clock)
    begin = time.perf_counter()
    await fill_log(database, entries)
    filled = time.perf_counter() - begin
    await database.close()
    key = FileKey("file:benchmark", ec.generate_private_key(ec.SECP256R1()), ThreadPoolExecutor(1))
    async with opened_log(url, key, clock) as log:
        times = []
        for number in range(PROOFS):
            begin = time.perf_counter()
            await log.proof(number * 7_919_717 % entries)
            times.append(1e3 * (time.perf_counter() - begin))
    times.sort()
    return {
        "entries": entries,
        "fill_seconds": filled,
        "p50_ms": statistics.median(times),
        "p99_ms": times[PROOFS * 99 // 100],
        "worst_ms": times[-1],
    }


def say(options: argparse.Namespace, text: str) -> None:
    """A line for people."""
    if not options.json:
        print(text, flush=True)


def main() -> None:
    """Measure and print."""
    options = arguments()
    measured: dict[str, Any] = {"signatures": []}
    cpus, load_cpu = processors(1)
    if options.backends or options.sbom:
        with opened(options, cpus) as (made, world):
            say(options, HEADING)
            for backend in options.backends:
                for row in measure_backend(made, backend, world, options, cpus, load_cpu):
                    measured["signatures"].append(row)
                    if not options.json:
                        print_row(row)
            if options.sbom:
                measured["sbom"] = measure_sbom(made, options.sbom)
                say(
                    options,
                    "SBOM of {sbom_mib:.0f} MiB: {seconds:.1f} s; the service grew by {service_mib:.1f} MiB, "
                    "the process that checks it had {child_mib:.0f} MiB".format(**measured["sbom"]),
                )
    if options.log:
        with tempfile.TemporaryDirectory(prefix="pqcpki-benchmark.") as name:
            measured["log"] = asyncio.run(measure_log(options.log, Path(name)))
        say(
            options,
            "log of {entries} entries: proof p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms, worst {worst_ms:.2f} ms "
            "(filled in {fill_seconds:.0f} s)".format(**measured["log"]),
        )
    if options.json:
        print(json.dumps(measured))


if __name__ == "__main__":
    main()
