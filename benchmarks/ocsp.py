"""OCSP by our CA against `openssl ocsp`, and against a bare uvicorn that looks the same answers up.

    python benchmarks/ocsp.py                     GET and POST, warm and with nonce, kept connections and new ones
    python benchmarks/ocsp.py --seconds 1 --rounds 1 --methods post     quickly

A thousand certificates that our CA has issued are asked for in turn. Warm answers come from the cache; with a nonce,
each is signed for its request. `openssl ocsp` signs every answer and closes every connection, so it has no kept ones:
its new connections are what both of ours are compared with. It listens on every address, so it gets a network namespace
of its own, which needs root. The bare endpoint is uvicorn with httptools and a dict: what any such server costs.

All servers have the same processor, in turn; the load has the other. Of the rounds the median counts. Answers of each
run are sampled, and verified with the openssl command. Absolute rates drift; ratios within one run and processor time
per answer are what to rely on.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx
from cryptography import x509
from cryptography.x509 import ocsp

from benchmarks.deployments import deployment, drive, processors
from benchmarks.issuance import CEREMONY, Issuing, requests_of
from benchmarks.peers import START, PeerCa, drive_plain, median_of, median_ratio, numbers, of_process, pinned
from pkicore.algorithms import algorithm_of
from pkicore.ocsp import build_request
from services.ca.layout import Layout
from tests.support.deployment import Deployment, free_port

HERE: Final = Path(__file__).parent
NONCE: Final = 32  # octets, as RFC 9654 §2.1 asks for
GOALS: Final = ("ecdsa-p256", "rsa-2048")  # keys of responders for which there are goals
VERIFIED: Final = 3  # sampled answers of a level that the openssl command verifies
HEADING: Final = (
    "responder    server   method answers  connections callers      /s  CPU us  p50 ms  p99 ms  against openssl  bare"
)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--certificates", type=int, default=1000, help="how many are asked for in turn")
    parser.add_argument("--callers", type=numbers, default=[8], help="numbers of callers, e.g. 1,8,32")
    parser.add_argument("--methods", type=_words, default=["get", "post"], help="get, post")
    parser.add_argument("--seconds", type=float, default=4.0, help="time per level and round")
    parser.add_argument("--rounds", type=int, default=3, help="how often each level is measured")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    return parser.parse_args()


def _words(text: str) -> list[str]:
    return text.split(",")


@dataclass(frozen=True)
class Mode:
    """How answers are asked for."""

    method: str
    nonce: bool
    new_connections: bool

    @property
    def names(self) -> dict[str, str]:
        """For the tables."""
        return {
            "method": self.method,
            "answers": "nonce" if self.nonce else "warm",
            "connections": "new" if self.new_connections else "kept",
        }


@dataclass
class Server:
    """One that answers.

    Attributes:
        name: for the tables.
        port: on loopback.
        pid: whose processor time counts.
        issuer: of what is asked for.
        trust: file with what its answers are verified against.
        prefix: what a command begins with that can reach it.
        path: of its responder.
        closes: whether it closes each connection.
    """

    name: str
    port: int
    pid: int
    issuer: x509.Certificate
    trust: Path
    issuer_file: Path
    path: str = "/ocsp"
    prefix: Sequence[str] = ()
    closes: bool = False
    results: dict[Mode, list[list[dict[str, Any]]]] = field(default_factory=dict)

    def message(self, request: bytes, mode: Mode) -> bytes:
        """A whole HTTP request."""
        ending = "Connection: close\r\n\r\n" if mode.new_connections else "\r\n"
        if mode.method == "get":
            text = quote(base64.b64encode(request).decode(), safe="")
            return f"GET {self.path}/{text} HTTP/1.1\r\nHost: localhost\r\n{ending}".encode()
        fields = f"Content-Type: application/ocsp-request\r\nContent-Length: {len(request)}\r\n{ending}"
        return f"POST {self.path or '/'} HTTP/1.1\r\nHost: localhost\r\n{fields}".encode() + request

    def measure(self, mode: Mode, requests: Sequence[bytes], options: argparse.Namespace, load_cpu: int | None) -> None:
        """One round."""
        config = {
            "host": "127.0.0.1",
            "port": self.port,
            "cpu": load_cpu,
            "pids": {"server": self.pid},
            "requests": [base64.b64encode(self.message(request, mode)).decode() for request in requests],
            "callers": options.callers,
            "seconds": options.seconds,
            "new_connections": mode.new_connections,
            "warm_up": len(requests),  # has each answer made, once
            "unique": False,
        }
        levels = drive_plain(config, self.prefix)
        for level in levels:
            self.verify(level["samples"], requests)
        self.results.setdefault(mode, []).append(levels)

    def verify(self, samples: Sequence[tuple[int, str]], requests: Sequence[bytes]) -> None:
        """Each sample is `good`, of the serial and with the nonce of its request; some signatures are verified.

        Raises:
            SystemExit: one is not so.
        """
        if not samples:
            raise SystemExit(f"{self.name}: no answer was sampled")
        for number, text in samples:
            asked, answer = requests[number], ocsp.load_der_ocsp_response(base64.b64decode(text))
            request = ocsp.load_der_ocsp_request(asked)
            states = answer.response_status, answer.certificate_status
            if states != (ocsp.OCSPResponseStatus.SUCCESSFUL, ocsp.OCSPCertStatus.GOOD):
                raise SystemExit(f"{self.name}: answered {states}")
            if (answer.serial_number, _nonce(answer)) != (request.serial_number, _nonce(request)):
                raise SystemExit(f"{self.name}: answered another request than was asked")
        for number, text in samples[:VERIFIED]:
            self._verify_by_openssl(requests[number], base64.b64decode(text))

    def _verify_by_openssl(self, request: bytes, answer: bytes) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "request").write_bytes(request)
            (folder / "answer").write_bytes(answer)
            command = ["openssl", "ocsp", "-reqin", str(folder / "request"), "-respin", str(folder / "answer")]
            command += ["-CAfile", str(self.trust), "-issuer", str(self.issuer_file)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or "Response verify OK" not in done.stderr:
            raise SystemExit(f"{self.name}: openssl does not believe an answer:\n{done.stdout}{done.stderr}")

    def rounds(self, mode: Mode, index: int) -> list[dict[str, Any]]:
        """What each round had for a level."""
        return [of_process(levels[index], "server") for levels in self.results[mode]]


def _nonce(message: ocsp.OCSPRequest | ocsp.OCSPResponse) -> bytes | None:
    try:
        return message.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    except x509.ExtensionNotFound:
        return None


def asked(certificates: Sequence[x509.Certificate], issuer: x509.Certificate, *, nonce: bool) -> list[bytes]:
    """A request for each serial, below this issuer."""
    return [build_request(each, issuer, nonce=os.urandom(NONCE) if nonce else None) for each in certificates]


def issue(made: Deployment, issuing: Issuing, count: int) -> list[x509.Certificate]:
    """So many certificates by an issuer of the deployment, out of its ledger."""
    bodies = [each.ours() for each in islice(requests_of([issuing.subject_key()]), count)]
    config: dict[str, Any] = {"callers": [8], "seconds": 600, "unique": True, "warm_up": 0, "bodies": bodies}
    drive(made, None, "ca", "/v1/certificates", **config)
    database = Layout(made.directory).database
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT certificate FROM certificates WHERE issuer = ? AND profile = 'server' AND certificate IS NOT NULL "
            "ORDER BY recorded_at DESC LIMIT ?",
            (issuing.id, count),
        ).fetchall()
    return [x509.load_der_x509_certificate(der) for (der,) in rows]


def our_server(made: Deployment, issuing: Issuing, folder: Path) -> Server:
    """The status listener of the deployment."""
    layout = Layout(made.directory)
    trust = folder / "trust.pem"
    issuer_file = layout.issuers / f"{issuing.id}.pem"
    trust.write_bytes(layout.trust_bundle.read_bytes() + issuer_file.read_bytes())
    port = urlsplit(made.endpoints["ocsp"]).port or 80
    return Server("ours", port, made.endpoints["pids"]["ca"], issuing.certificate, trust, issuer_file)


@contextlib.contextmanager
def bare(ours: Server, requests: Sequence[bytes], cpus: Sequence[int]) -> Iterator[Server]:
    """The bare endpoint, with the answers of ours to warm requests."""
    url = f"http://127.0.0.1:{ours.port}/ocsp"
    headers = {"content-type": "application/ocsp-request"}
    with httpx.Client(trust_env=False) as http:
        answers = [http.post(url, content=request, headers=headers).content for request in requests]
    pairs = {
        base64.b64encode(request).decode(): base64.b64encode(answer).decode()
        for request, answer in zip(requests, answers, strict=True)
    }
    command = [*pinned(cpus), sys.executable, str(HERE / "ocsp_bare.py")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 -- both are pipes
        process.stdin.write(json.dumps(pairs))
        process.stdin.close()
        port = int(process.stdout.readline())
        yield Server("bare", port, process.pid, ours.issuer, ours.trust, ours.issuer_file)
    finally:
        process.terminate()
        process.wait()


def openssl_missing() -> str | None:
    """Why `openssl ocsp` cannot be run apart from everything else; None where it can."""
    lacking = [name for name in ("openssl", "unshare", "nsenter", "ip") if shutil.which(name) is None]
    if lacking:
        return f"not run: {', '.join(lacking)} missing"
    return None if os.geteuid() == 0 else "not run: a network namespace for `openssl ocsp` needs root"


@contextlib.contextmanager
def openssl(
    folder: Path, algorithm: str, certificates: Sequence[x509.Certificate], cpus: Sequence[int]
) -> Iterator[Server]:
    """`openssl ocsp` in a network namespace of its own, with a CA of this algorithm that knows these serials."""
    made, port = PeerCa.create(folder, algorithm), free_port()
    index = folder / f"index-{algorithm}.txt"
    index.write_text(
        "".join(
            f"V\t{each.not_valid_after_utc:%y%m%d%H%M%SZ}\t\t{_hex(each)}\tunknown\t/CN=x\n" for each in certificates
        )
    )
    (folder / f"index-{algorithm}.txt.attr").write_text("unique_subject = no\n")
    command = ["openssl", "ocsp", "-port", str(port), "-index", str(index), "-CA", str(made.certificate)]
    command += ["-rsigner", str(made.certificate), "-rkey", str(made.key), "-ndays", "4", "-ignore_err"]
    inside = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", *pinned(cpus), *command]
    log = folder / f"openssl-{algorithm}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(["unshare", "--net", *inside], stdout=output, stderr=output)
    try:
        await_line(log, "ACCEPT", process)
        certificate = x509.load_pem_x509_certificate(made.certificate.read_bytes())
        prefix = ["nsenter", f"--net=/proc/{process.pid}/ns/net"]
        trust = made.certificate
        yield Server("openssl", port, process.pid, certificate, trust, trust, path="", prefix=prefix, closes=True)
    finally:
        process.terminate()
        process.wait()


def _hex(certificate: x509.Certificate) -> str:
    text = f"{certificate.serial_number:X}"
    return text.zfill(len(text) + len(text) % 2)


def await_line(log: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    """Until a server says so: one that was connected to and left has been seen to spin for good.

    Raises:
        SystemExit: it does not.
    """
    end = time.monotonic() + START
    while text not in log.read_text():
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"openssl ocsp does not listen:\n{log.read_text()}")
        time.sleep(0.05)


def measure_servers(
    servers: Sequence[Server], certificates: Sequence[x509.Certificate], options: argparse.Namespace
) -> None:
    """Every mode of each server, round by round."""
    load_cpu = processors(1)[1]
    modes = [Mode(method, nonce, new) for method in options.methods for nonce in (False, True) for new in (False, True)]
    for _ in range(options.rounds):
        for mode in modes:
            for server in servers:
                if (server.closes and not mode.new_connections) or (server.name == "bare" and mode.nonce):
                    continue
                requests = asked(certificates, server.issuer, nonce=mode.nonce)
                server.measure(mode, requests, options, load_cpu)


def rows(responder: str, servers: Sequence[Server], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One per server, mode and number of callers, with the ratios of processor time; above 1, the server needs less."""
    by_name = {server.name: server for server in servers}
    for server in servers:
        for mode in server.results:
            for index, callers in enumerate(options.callers):
                row = {"responder": responder, "server": server.name, **mode.names, "callers": callers}
                own = server.rounds(mode, index)
                row |= median_of(own)
                new, warm = Mode(mode.method, mode.nonce, True), Mode(mode.method, False, mode.new_connections)
                for name, compared in (("openssl", new), ("bare", warm)):
                    peer = by_name.get(name)
                    if server.name == "ours" and peer is not None:
                        row[f"against_{name}"] = median_ratio(peer.rounds(compared, index), own)
                yield row


def print_row(row: Mapping[str, Any]) -> None:
    """One line of the table."""
    against = [f"{row[name]:.2f}" if name in row else "" for name in ("against_openssl", "against_bare")]
    print(
        f"{row['responder']:12} {row['server']:8} {row['method']:6} {row['answers']:8} {row['connections']:11} "
        f"{row['callers']:7d} {row['per_second']:7.0f} {row['cpu_us']:7.1f} {row['p50_ms']:7.2f} {row['p99_ms']:7.2f} "
        f"{against[0]:>16} {against[1]:>5}",
        flush=True,
    )


def responder_algorithm(ours: Server, request: bytes) -> str:
    """What our answers are signed with."""
    url, headers = f"http://127.0.0.1:{ours.port}/ocsp", {"content-type": "application/ocsp-request"}
    answer = ocsp.load_der_ocsp_response(httpx.post(url, content=request, headers=headers, trust_env=False).content)
    signer = answer.certificates[0] if answer.certificates else ours.issuer
    return algorithm_of(signer.public_key()).name


def measure_issuer(
    made: Deployment, issuing: Issuing, folder: Path, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """The rows of one issuing CA: ours, the bare endpoint, and the peer with a key as our responder's."""
    cpus = processors(1)[0]
    certificates = issue(made, issuing, options.certificates)
    ours = our_server(made, issuing, folder)
    requests = asked(certificates, issuing.certificate, nonce=False)
    algorithm = responder_algorithm(ours, requests[0])
    with contextlib.ExitStack() as stack:
        servers = [ours, stack.enter_context(bare(ours, requests, cpus))]
        if openssl_missing() is None:
            servers.append(stack.enter_context(openssl(folder, algorithm, certificates, cpus)))
        measure_servers(servers, certificates, options)
        yield from rows(algorithm, servers, options)


def main() -> None:
    """Measure and print."""
    options = arguments()
    measured: dict[str, Any] = {"openssl": openssl_missing() or "run", "ocsp": []}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pqcpki-benchmark.")))
        made = stack.enter_context(deployment(folder, processors(1)[0], *CEREMONY))
        if not options.json:
            print(HEADING)
        for issuing in Issuing.all_of(made.directory):
            for row in measure_issuer(made, issuing, folder, options):
                measured["ocsp"].append(row)
                if not options.json:
                    print_row(row)
    found = {row["responder"] for row in measured["ocsp"]}
    notes = [f"{name}: not measured: no responder of `ztca init` has such a key" for name in GOALS if name not in found]
    notes += [f"openssl ocsp: {missing}" for missing in [openssl_missing()] if missing]
    measured["notes"] = notes
    print(json.dumps(measured) if options.json else "\n".join(notes))


if __name__ == "__main__":
    main()
