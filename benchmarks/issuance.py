"""Issuance by our CA against Debian's `cfssl serve` (package golang-cfssl), and its core against a raw signature.

    python benchmarks/issuance.py                              each issuing CA that cfssl could be; 1, 8, 32 callers
    python benchmarks/issuance.py --callers 8 --seconds 2 --rounds 1       quickly
    python benchmarks/issuance.py --core                       only the core: to-be-signed bytes, lint, signature

Ours is `POST /v1/certificates` over kept mTLS connections, with policy, lint, audit and a durable ledger (SQLite,
`synchronous=FULL`), every request for a name of its own. cfssl signs the same CSRs over plain HTTP, with an issuer of
the same algorithm, and stores nothing. Both have the same processor, in turn; the load has the other. Of the rounds the
median counts. Absolute rates drift; ratios within one run and processor time per certificate are what to rely on.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks.deployments import deployment, drive, processors
from benchmarks.issuance_core import measure_core
from benchmarks.peers import START, PeerCa, drive_plain, median_of, median_ratio, numbers, of_process, pinned
from pkicore.algorithms import algorithm_of
from services.ca.layout import Layout
from tests.support.deployment import Deployment, free_port

WARM_UP: Final = 20  # requests per caller, as signer_load has it
MOST_A_SECOND: Final = 4000  # requests made ready, for each second of each level
MOST: Final = 60_000  # requests made ready, in all
CHECKED: Final = 5  # certificates of ours that are verified
CEREMONY: Final = ("--families", "ecdsa,rsa,mldsa", "--rsa-bits", "2048")  # mldsa because every deployment has it
GOALS: Final = {"ecdsa-p256": 1.15, "rsa-2048": 2.5}  # how many times less processor time than cfssl
KEYS: Final = 16  # of subjects, in turn
HEADING: Final = (
    "issuer       callers   ours/s  cfssl/s  ratio  ours p50  p99 ms  cfssl p50  p99 ms  ours CPU us  cfssl  times less"
)

IssuerKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=numbers, default=[1, 8, 32], help="numbers of callers, e.g. 1,8,32")
    parser.add_argument("--seconds", type=float, default=5.0, help="time per level and round")
    parser.add_argument("--rounds", type=int, default=3, help="how often each level is measured")
    parser.add_argument("--core", action="store_true", help="only the core, in this process")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    return parser.parse_args()


@dataclass(frozen=True)
class Issuing:
    """An issuing CA of the deployment that a peer could be as well: its key is no ML-DSA key."""

    id: str
    certificate: x509.Certificate
    algorithm: str

    @classmethod
    def all_of(cls, directory: Path) -> list[Issuing]:
        """Those of a deployment, by their ids."""
        found = []
        for file in sorted(Layout(directory).issuers.glob("*.pem")):
            certificate = x509.load_pem_x509_certificate(file.read_bytes())
            key = certificate.public_key()
            if isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
                found.append(cls(file.stem, certificate, algorithm_of(key).name))
        return found

    @property
    def is_rsa(self) -> bool:
        """Whether it signs with RSA; requests with RSA keys are its own."""
        return self.algorithm.startswith("rsa")

    def subject_key(self) -> IssuerKey:
        """A key of a subject, for which this issuer is chosen."""
        return rsa.generate_private_key(65537, 2048) if self.is_rsa else ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Wanted:
    """A request for a certificate, as both servers take it."""

    name: str
    csr: bytes

    def ours(self) -> str:
        """The body of `POST /v1/certificates`."""
        return json.dumps(
            {
                "csr": base64.b64encode(self.csr).decode(),
                "profile": "server",
                "identifiers": [{"type": "dns", "value": self.name}],
                "idempotency_key": self.name,
                "requester": {},
            }
        )

    def of_cfssl(self) -> bytes:
        """The whole message for cfssl."""
        text = base64.encodebytes(self.csr).decode().rstrip()
        pem = f"-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n"
        body = json.dumps({"certificate_request": pem, "hosts": [self.name]}).encode()
        fields = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return f"POST /api/v1/cfssl/sign HTTP/1.1\r\n{fields}".encode() + body


def requests_of(keys: Sequence[IssuerKey]) -> Iterator[Wanted]:
    """Requests without end, each for a name of its own, and for another key than the one before."""
    run, number = os.urandom(4).hex(), 0
    while True:
        name, number = f"{run}-{number}.bench.pqcpki.test", number + 1
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        yield Wanted(name, builder.sign(keys[number % len(keys)], hashes.SHA256()).public_bytes(Encoding.DER))


@contextlib.contextmanager
def cfssl(folder: Path, algorithm: str, cpus: Sequence[int]) -> Iterator[tuple[int, int, x509.Certificate]]:
    """`cfssl serve`, restarted for this; its port, process number and certificate."""
    made, port = PeerCa.create(folder, algorithm), free_port()
    urls = {"crl_url": "http://ca/crl", "ocsp_url": "http://ca/ocsp", "issuer_urls": ["http://ca/aia"]}
    default = {"usages": ["digital signature", "server auth"], "expiry": "2160h", **urls}
    settings = folder / "cfssl.json"
    settings.write_text(json.dumps({"signing": {"default": default}}))
    command = ["cfssl", "serve", "-address", "127.0.0.1", "-port", str(port), "-loglevel", "5"]
    command += ["-ca", str(made.certificate), "-ca-key", str(made.key), "-config", str(settings)]
    process = subprocess.Popen(
        [*pinned(cpus), *command], env={**os.environ, "GOMAXPROCS": "1"}, cwd=folder, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: httpx.get(f"http://127.0.0.1:{port}/", trust_env=False), process)
        yield port, process.pid, x509.load_pem_x509_certificate(made.certificate.read_bytes())
    finally:
        process.terminate()
        process.wait()


def wait_for(ask: Callable[[], object], process: subprocess.Popen[Any]) -> None:
    """Until a server answers.

    Raises:
        SystemExit: it does not.
    """
    end = time.monotonic() + START
    while True:
        try:
            ask()
        except httpx.TransportError:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit("cfssl does not answer") from None
            time.sleep(0.05)
        else:
            return


def check_ours(made: Deployment, issuing: Issuing, at_least: int) -> None:
    """What was answered for is in the ledger, and the newest of it verifies.

    Raises:
        InvalidSignature, SystemExit: it is not so.
    """
    database = Layout(made.directory).database
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM certificates WHERE issuer = ? AND certificate IS NOT NULL", (issuing.id,)
        ).fetchone()
        newest = connection.execute(
            "SELECT certificate FROM certificates WHERE issuer = ? AND certificate IS NOT NULL "
            "ORDER BY recorded_at DESC LIMIT ?",
            (issuing.id, CHECKED),
        ).fetchall()
    if count < at_least:
        raise SystemExit(f"{at_least} certificates were answered with, and {count} are in the ledger")
    for (der,) in newest:
        x509.load_der_x509_certificate(der).verify_directly_issued_by(issuing.certificate)


def check_cfssl(levels: Sequence[Mapping[str, Any]], issuer: x509.Certificate) -> None:
    """Its sampled certificates verify.

    Raises:
        InvalidSignature: one does not.
    """
    for level in levels:
        for _, body in level["samples"]:
            text = json.loads(base64.b64decode(body))["result"]["certificate"]
            x509.load_pem_x509_certificate(text.encode()).verify_directly_issued_by(issuer)


def measure_issuer(
    made: Deployment, issuing: Issuing, options: argparse.Namespace, folder: Path
) -> Iterator[dict[str, Any]]:
    """One row per number of callers."""
    cpus, load_cpu = processors(1)
    levels = len(options.callers) * options.rounds
    wanted = requests_of([issuing.subject_key() for _ in range(KEYS)])
    per_round = min(MOST // options.rounds, int(MOST_A_SECOND * options.seconds * len(options.callers)))
    ours: list[list[dict[str, Any]]] = []
    theirs: list[list[dict[str, Any]]] = []
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(cfssl(folder, issuing.algorithm, cpus)) if shutil.which("cfssl") else None
        for _ in range(options.rounds):
            batch = list(islice(wanted, per_round))
            common = {"callers": options.callers, "seconds": options.seconds, "unique": True}
            bodies = [each.ours() for each in batch]
            ours.append(drive(made, load_cpu, "ca", "/v1/certificates", bodies=bodies, **common))
            if peer is not None:
                port, pid, certificate = peer
                messages = [base64.b64encode(each.of_cfssl()).decode() for each in batch]
                where = {"host": "127.0.0.1", "port": port, "new_connections": False, "warm_up": WARM_UP}
                config = {**common, **where, "unique": False, "cpu": load_cpu, "pids": {"cfssl": pid}}
                theirs.append(drive_plain({**config, "requests": messages}))
                check_cfssl(theirs[-1], certificate)
    check_ours(made, issuing, sum(level["requests"] for row in ours for level in row))
    assert sum(len(row) for row in ours) == levels  # noqa: S101 -- a level without a result would be left out
    for index, callers in enumerate(options.callers):
        own = [of_process(levels[index], "ca") for levels in ours]
        row = {"issuer": issuing.algorithm, "callers": callers, "ours": median_of(own)}
        if theirs:
            peers = [of_process(levels[index], "cfssl") for levels in theirs]
            row["cfssl"] = median_of(peers)
            row["rate_ratio"] = row["ours"]["per_second"] / row["cfssl"]["per_second"]
            row["cpu_ratio"] = median_ratio(peers, own)
        yield row


def print_row(row: Mapping[str, Any]) -> None:
    """One line of the table."""
    ours, theirs = row["ours"], row.get("cfssl")
    print(f"{row['issuer']:12} {row['callers']:7d} {ours['per_second']:8.0f} ", end="")
    print(f"{theirs['per_second']:8.0f} {row['rate_ratio']:6.2f} " if theirs else f"{'-':>8} {'-':>6} ", end="")
    print(f"{ours['p50_ms']:9.2f} {ours['p99_ms']:7.2f} ", end="")
    print(f"{theirs['p50_ms']:10.2f} {theirs['p99_ms']:7.2f} " if theirs else f"{'-':>10} {'-':>7} ", end="")
    print(f"{ours['cpu_us']:12.0f} ", end="")
    print(f"{theirs['cpu_us']:6.0f} {row['cpu_ratio']:11.2f}" if theirs else "  not run: cfssl missing", flush=True)


def say(options: argparse.Namespace, text: str) -> None:
    """A line for people."""
    if not options.json:
        print(text, flush=True)


def measure_issuers(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every issuing CA of a new deployment."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pqcpki-benchmark.")))
        made = stack.enter_context(deployment(folder, processors(1)[0], *CEREMONY))
        for issuing in Issuing.all_of(made.directory):
            yield from measure_issuer(made, issuing, options, folder)


def main() -> None:
    """Measure and print."""
    options = arguments()
    measured: dict[str, Any] = {"cfssl": shutil.which("cfssl") or "not run: cfssl missing", "issuance": []}
    if not options.core:
        say(options, HEADING)
        for row in measure_issuers(options):
            measured["issuance"].append(row)
            if not options.json:
                print_row(row)
        goals = ", ".join(f"{name} {times}" for name, times in GOALS.items())
        say(options, f"asked for, times less processor time than cfssl: {goals}")
    measured["core"] = asyncio.run(measure_core())
    say(
        options,
        "core, P-256, CPU us: build {build:.1f}, lint {lint:.1f}, sign and verify {sign and verify:.1f}; raw signature "
        "{raw signature:.1f}: built and signed per raw signature {build_and_sign_ratio:.2f} (asked for: 0.60), linted "
        "and verified, too, {core_ratio:.2f}".format(**measured["core"]),
    )
    if options.json:
        print(json.dumps(measured))


if __name__ == "__main__":
    main()
