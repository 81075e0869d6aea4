"""Services that sign, each asked for one signature at a time: what was signed is held against the audit log."""

from __future__ import annotations

import base64
import hashlib
import tempfile
from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from pkicore.algorithms import PrivateKey
from services.chassis.audit import audit_records
from services.chassis.database import Database
from tests.support import signer_world, signing_world
from tests.support.ca_world import ACME, CaWorld, server_request
from tests.support.clock import ManualClock
from tests.support.pki import MemoryKey, make_hierarchy
from tests.support.signer_world import SignerWorld
from tests.support.signing_world import KEY_POLICY, KEYS, SigningWorld, make_key


@dataclass
class Answer:
    """What became of one request.

    Attributes:
        status: of HTTP.
        problem: its type, None where there is none.
        signed: how many signatures were made for it.
        recorded: how many decisions on them came into the audit log.
    """

    status: int
    problem: str | None
    signed: int
    recorded: int


class AuditedService(ABC):
    """A service in this process.

    Attributes:
        decision: the event that is on record before anything is signed.
        database: its own.
    """

    decision: str
    database: Database

    @abstractmethod
    async def request(self, number: int) -> httpx.Response:
        """One that nobody has made before."""

    @abstractmethod
    def signatures(self) -> int:
        """How many its keys have made."""

    @abstractmethod
    async def close(self) -> None:
        """The end."""

    async def decisions(self) -> int:
        """How many are on record; a record that is not whole is an error."""
        return sum([each.record.event == self.decision async for each in audit_records(self.database)])

    async def ask(self, number: int) -> Answer:
        """One request, and what was signed and recorded meanwhile."""
        signed, recorded = self.signatures(), await self.decisions()
        answer = await self.request(number)
        problem = answer.json().get("type") if answer.status_code >= 400 else None
        return Answer(answer.status_code, problem, self.signatures() - signed, await self.decisions() - recorded)


@dataclass
class CountingKey(MemoryKey):
    """A key that counts."""

    private_key: PrivateKey
    count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """As `MemoryKey`."""
        super().__init__(self.private_key)

    async def sign(self, message: bytes) -> bytes:
        """As `MemoryKey`, and one more."""
        self.count += 1
        return await super().sign(message)


class AuditedCa(AuditedService):
    """The CA: a certificate's intent is on record before the certificate is signed."""

    decision = "certificate.intent"

    def __init__(self, world: CaWorld, key: CountingKey) -> None:
        """Of a started world."""
        self._world, self._key = world, key
        self._http = world.internal(ACME)
        self._subject_key = MemoryKey.generate("ecdsa-p256").private_key
        self.database = world.database

    @classmethod
    async def open(cls, directory: Path) -> AuditedCa:
        """One issuing CA."""
        clock = ManualClock()
        hierarchy = await make_hierarchy("ecdsa", clock)
        key = CountingKey(hierarchy.issuing_key.private_key)
        world = await CaWorld.open(directory, clock=clock, families={"ecdsa": hierarchy}, keys={"ecdsa": key})
        return cls(await world.start(), key)

    async def request(self, number: int) -> httpx.Response:
        """A certificate."""
        wanted = server_request(f"host-{number}.example", key=self._subject_key, idempotency_key=f"order-{number}")
        headers = {"content-type": "application/json"}
        return await self._http.post("/v1/certificates", content=wanted.to_json(), headers=headers)

    def signatures(self) -> int:
        """Of the issuing key."""
        return self._key.count

    async def close(self) -> None:
        """Closes its database."""
        await self._world.close()


class AuditedSigner(AuditedService):
    """signer-hsm: the decision on a key's use is on record before the key is used."""

    decision = "key.decision"

    def __init__(self, world: SignerWorld) -> None:
        """Of a world with the key."""
        self._world = world
        self._http = world.http(signer_world.CA)
        self.database = world.database

    @classmethod
    async def open(cls, directory: Path) -> AuditedSigner:
        """One key."""
        world = await SignerWorld.open(f"sqlite:///{directory}/signer.sqlite3")
        await world.make("ca.issuing")
        return cls(world)

    async def request(self, number: int) -> httpx.Response:
        """A digest's signature."""
        digest = hashlib.sha256(str(number).encode()).digest()
        body = {"kind": "digest", "payload": base64.b64encode(digest).decode()}
        return await self._http.post("/v1/keys/ca.issuing/sign", json=body)

    def signatures(self) -> int:
        """Of its device."""
        return len(self._world.device.signed)

    async def close(self) -> None:
        """Closes its database."""
        await self._world.close()


class AuditedSigning(AuditedService):
    """The signing service: the policies' decision is on record before signer-hsm is asked."""

    decision = "sign.decision"

    def __init__(self, world: SigningWorld, signer: SignerWorld, elsewhere: ExitStack) -> None:
        """Of a world whose signer-hsm is elsewhere."""
        self._world, self._signer, self._elsewhere = world, signer, elsewhere
        self._http = world.http()
        self.database = world.database

    @classmethod
    async def open(cls, directory: Path) -> AuditedSigning:
        """One tenant; signer-hsm's database is on another disk."""
        with ExitStack() as stack:
            elsewhere = stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp"))
            signer = await SignerWorld.open(f"sqlite:///{elsewhere}/signer.sqlite3", policy=KEY_POLICY)
            for name, algorithm in KEYS.items():
                await make_key(signer, f"acme.{name}", algorithm)
            return cls(await SigningWorld.open(directory, signer_world=signer), signer, stack.pop_all())

    async def request(self, number: int) -> httpx.Response:
        """An artefact's signature."""
        return await self._http.post("/v1/signatures", json=signing_world.request(str(number).encode()))

    def signatures(self) -> int:
        """Of signer-hsm's device."""
        return len(self._signer.device.signed)

    async def close(self) -> None:
        """Closes both."""
        await self._world.close()
        await self._signer.close()
        self._elsewhere.close()


SERVICES: Final[dict[str, type[AuditedCa | AuditedSigner | AuditedSigning]]] = {
    "ca": AuditedCa,
    "signer-hsm": AuditedSigner,
    "signing": AuditedSigning,
}
