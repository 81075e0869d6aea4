"""SIGKILL just before and just after every commit of the path from account to revoked certificate, in both services.

The commits are found by recording one undisturbed run, so a commit that is added later is covered without a word here.
Each case uses the same state as the ones before it, as a real installation does.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.acme_client import AcmeClient, AcmeProblemError, Challenge, http_client, make_csr
from tests.support.deployment import FREE_PORTS, STOP_SECONDS, Deployment, DnsProcess
from tests.support.fork_server import Forked, fork_server
from tests.support.http_challenge import HttpChallengeServer
from tests.support.jose_key import JoseKey
from tests.support.openssl import Relying

CRASHING = "tests.support.crashing_service"
START_SECONDS = 120.0  # two seconds of processor time; on a loaded machine more than thirty of wall time
BESIDE = frozenset({"revocations-followed"})  # once in every journey; again where an earlier one left news behind
PATIENCE_SECONDS = 150.0  # of the client: it waits while the service dies and starts anew
CRL_SECONDS = 2.0  # the CRL follows a revocation within so long, and its commit belongs to the path


@dataclass
class Process:
    """One service, started anew for each case."""

    name: str
    deployment: Deployment
    running: Forked | None = None

    @property
    def config(self) -> Path:
        """Its settings file."""
        return self.deployment.directory / "config" / f"{self.name}.toml"

    @property
    def armed(self) -> Path:
        """The file whose existence arms the observer."""
        return self.deployment.directory / f"{self.name}.armed"

    def start(self, *observer: str) -> None:
        """Start it, with an observer or as it is, and wait until its listeners answer."""
        self.armed.unlink(missing_ok=True)
        published = self.deployment.directory / self.name / "listeners.json"
        published.unlink(missing_ok=True)
        program = CRASHING if observer else f"services.{self.name}"
        arguments = [self.name, "--armed", str(self.armed), *observer] if observer else []
        with (self.deployment.directory / f"{self.name}.log").open("ab") as log:
            self.running = fork_server().start(
                program, [*arguments, "--config", str(self.config)], self.deployment.environment, log, log
            )
        deadline = time.monotonic() + START_SECONDS
        while not published.exists():
            assert self.running.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def stop(self) -> None:
        """End it as an operator does."""
        if self.running is not None and self.running.poll() is None:
            self.running.send_signal(signal.SIGTERM)
            assert self.running.wait(STOP_SECONDS) == 0, self.log()

    def listeners(self) -> dict[str, str]:
        """Its published addresses."""
        addresses: dict[str, str] = json.loads((self.deployment.directory / self.name / "listeners.json").read_text())
        return addresses

    def log(self) -> str:
        """The end of its log, for failing tests."""
        return (self.deployment.directory / f"{self.name}.log").read_text()[-4000:]


@dataclass
class Services:
    """Both services over one state.

    Attributes:
        paths: service -> the commits of an undisturbed journey, once they are known.
    """

    deployment: Deployment
    processes: dict[str, Process] = field(default_factory=dict)
    paths: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    def start(self) -> None:
        """Start both, the CA first."""
        for name in ("ca", "acme"):
            self.processes[name] = Process(name, self.deployment)
            self.processes[name].start()

    def stop(self) -> None:
        """Stop both."""
        for process in reversed(self.processes.values()):
            process.stop()

    @property
    def directory_url(self) -> str:
        """The ACME directory."""
        return self.processes["acme"].listeners()["public"] + "/acme/directory"

    def ledger(self, order_url: str) -> list[bytes | None]:
        """The certificates that the CA's ledger holds for an order; None is one that was begun and not finished."""
        return [
            row[0]
            for row in self._query(
                "ca",
                "select certificate from certificates where idempotency_key = ?",
                "acme-order-" + order_url.rpartition("/")[2],
            )
        ]

    def count(self, name: str, what: str) -> int:
        """How many rows of a service's database are like that."""
        ((number,),) = self._query(name, f"select count(*) from {what}")  # noqa: S608 -- the test's own words
        return int(number)

    def _query(self, name: str, sql: str, *parameters: str) -> list[tuple[Any, ...]]:
        database = self.deployment.directory / name / f"{name}.sqlite3"
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return connection.execute(sql, parameters).fetchall()


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, dns: DnsProcess) -> Iterator[Services]:
    """Both services, started by hand on a fresh state."""
    both = Services(Deployment(tmp_path_factory.mktemp("crash") / "state", dns).init())
    for name in FREE_PORTS:
        del both.deployment.environment[f"PQCPKI_{name}"]  # the ceremony has recorded the ports
    both.start()
    yield both
    both.stop()


@pytest.fixture
async def web(services: Services) -> AsyncIterator[HttpChallengeServer]:
    """The applicant's web server."""
    server = await HttpChallengeServer().start(services.deployment.http01_port)
    yield server
    await server.stop()


@dataclass(frozen=True)
class Journey:
    """What a client had at the end of its way."""

    order_url: str
    pem: str

    @property
    def certificates(self) -> list[x509.Certificate]:
        """The chain, leaf first."""
        return x509.load_pem_x509_certificates(self.pem.encode())


async def travel(services: Services, web: HttpChallengeServer, name: str, directory: Path) -> Journey:
    """The whole path, by a client that tries again while the server is away, as clients do."""
    bundle = services.deployment.directory / "trust" / "tls.pem"
    async with http_client(str(bundle)) as http:
        client = AcmeClient(http, services.directory_url, JoseKey.generate(), patience=PATIENCE_SECONDS)

        async def solve(challenge: Challenge) -> None:
            web.answer(challenge.token, challenge.key_authorization)

        await client.register()
        order = await client.new_order([name])
        await client.authorize(order, solve)
        order = await client.wait(order.url, {"pending"})
        order = await client.finalize(order, make_csr([name], ec.generate_private_key(ec.SECP256R1())))
        assert order.status == "valid", order.body
        journey = Journey(order.url, await client.download(order))
        assert "Cert Status: good" in await asyncio.to_thread(ocsp, services, journey, directory)
        try:
            await client.revoke(journey.certificates[0], 4)
        except AcmeProblemError as problem:
            if problem.kind != "alreadyRevoked":  # the answer was lost, the revocation was not
                raise
        return journey


def ocsp(services: Services, journey: Journey, directory: Path) -> str:
    """What openssl learns from the responder about the certificate."""
    leaf, *chain = journey.certificates
    leaf_file, chain_file = directory / "leaf.pem", directory / "chain.pem"
    leaf_file.write_bytes(leaf.public_bytes(Encoding.PEM))
    chain_file.write_bytes(b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain))
    return Relying(services.deployment.directory / "trust" / "tls.pem", directory).ocsp(leaf_file, chain_file)


def check(services: Services, journey: Journey, directory: Path) -> None:
    """Nothing was lost, nothing was made twice, nothing is stuck."""
    assert services.ledger(journey.order_url) == [journey.certificates[0].public_bytes(Encoding.DER)]
    assert services.count("ca", "certificates where certificate is null") == 0
    assert services.count("acme", "orders where status = 'processing'") == 0
    assert services.count("acme", "challenges where status = 'processing'") == 0
    assert "Cert Status: revoked" in ocsp(services, journey, directory)


async def recorded_path(
    services: Services, service: str, web: HttpChallengeServer, directory: Path
) -> list[tuple[str, int]]:
    """The commits of one undisturbed journey, each label with its occurrence."""
    process, record = services.processes[service], directory / "labels"
    await asyncio.to_thread(process.stop)
    await asyncio.to_thread(process.start, "--record", str(record))
    process.armed.touch()
    await travel(services, web, f"recorded.{service}.pqcpki.test", directory)
    await asyncio.sleep(CRL_SECONDS)
    seen: Counter[str] = Counter()
    path: list[tuple[str, int]] = []
    for label in record.read_text().split("\n")[:-1]:
        seen[label] += 1
        if label not in BESIDE or seen[label] == 1:
            path.append((label, seen[label]))
    return path


async def crash(process: Process, afterwards: list[str], journey: Coroutine[Any, Any, Journey]) -> Journey:
    """A journey in which the process dies once and is started again, already prepared for the case after this one.

    Its new observer does nothing before it is armed, so what completes the journey is the service as it is.
    """
    process.armed.touch()
    task = asyncio.create_task(journey)
    assert process.running is not None
    died = asyncio.create_task(asyncio.to_thread(process.running.wait, PATIENCE_SECONDS))
    await asyncio.wait({task, died}, return_when=asyncio.FIRST_COMPLETED)
    assert await died == -signal.SIGKILL, process.log()
    await asyncio.to_thread(process.start, *afterwards)
    return await task


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("service", ["ca", "acme"])
async def test_no_certificate_is_lost_and_no_order_stuck(
    services: Services, web: HttpChallengeServer, service: str, moment: str, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """A service that dies around a commit leaves one certificate per order, known and revocable, and no order open."""
    if service not in services.paths:
        services.paths[service] = await recorded_path(services, service, web, tmp_path)
    path, process = services.paths[service], services.processes[service]
    assert path
    killers = [["--kill", moment, "--label", label, "--nth", str(nth)] for label, nth in path]
    await asyncio.to_thread(process.stop)
    await asyncio.to_thread(process.start, *killers[0])
    for (label, nth), afterwards in zip(path, [*killers[1:], []], strict=True):
        with subtests.test(f"{service} dies {moment} commit {label!r} number {nth}"):
            name = f"{label}-{nth}-{moment}.{service}.pqcpki.test"
            journey = await crash(process, afterwards, travel(services, web, name, tmp_path))
            await asyncio.to_thread(check, services, journey, tmp_path)
    audit = await asyncio.to_thread(services.deployment.ztca, "audit", "verify", str(services.deployment.directory))
    assert audit.stdout.count("unbroken") == len(services.processes)
