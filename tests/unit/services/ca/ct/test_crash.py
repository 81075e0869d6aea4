"""SIGKILL around every commit of a logged certificate's way; each case is a real process over a real database."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pkicore.ct import PrecertificateEntry, verify_embedded_sct
from pkicore.identity import SpiffeId
from pkicore.tlog.merkle import leaf_hash
from pkicore.tlog.proofs import verify_inclusion
from pkicore.x509.certificate import load_chain
from pkicore.x509.names import Names
from services.ca.ct.log import PREFIX
from services.ca.schema import ct_tables
from services.ca.wire import CertificateRequest, Identifier
from services.chassis.database import CommitObserver
from services.chassis.tlog import TileLog
from tests.support.ca_world import CaWorld
from tests.support.clock import ManualClock
from tests.support.pki import TRUST_DOMAIN, Hierarchy, MemoryKey, make_csr, make_hierarchy

SIGNING = SpiffeId.service(TRUST_DOMAIN, "signing")
URI = "https://ci.example/acme/app"
CLAIMS = {"1.3.6.1.4.1.57264.1.8": "https://ci.example"}


class Keys:
    """What outlives the process: the CA's keys, the log's key, and the request."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.families: dict[str, Hierarchy] = {"ecdsa": asyncio.run(make_hierarchy("ecdsa", self.clock))}
        self.log = MemoryKey.generate("ecdsa-p256")
        csr = make_csr(ec.generate_private_key(ec.SECP256R1()), names=Names.build(uri=[URI]))
        self.request = CertificateRequest(csr, "code-signing", (Identifier("uri", URI),), "one", extensions=CLAIMS)


@pytest.fixture(scope="module")
def keys() -> Keys:
    """Made once."""
    return Keys()


async def issue_and_die(directory: Path, keys: Keys, observer: CommitObserver) -> None:
    """Issue until the end comes; the checkpoint's commit is waited for."""
    world = await CaWorld.open(directory, clock=keys.clock, families=keys.families, observer=observer, log_key=keys.log)
    await world.core.issuance.issue(SIGNING, keys.request)
    await asyncio.sleep(5)


async def verify_after(directory: Path, keys: Keys) -> None:
    """The next process: the request is answered, and the log has and proves what was issued."""
    world = await CaWorld.open(directory, clock=keys.clock, families=keys.families, log_key=keys.log)
    try:
        await world.core.issuance.recover()
        answer = (await world.core.issuance.issue(SIGNING, keys.request)).answer
        leaf, issuer = load_chain(answer.chain.encode())
        sct = verify_embedded_sct(leaf, issuer, keys.log.public_key, keys.clock.now())
        entry = PrecertificateEntry.of(leaf.tbs_certificate_bytes, issuer).leaf(sct.timestamp, sct.extensions)
        assert await world.core.store.open_intents() == []
        assert sct.leaf_index is not None
        log = await TileLog.open(world.database, ct_tables, key=keys.log, origin=f"{TRUST_DOMAIN}{PREFIX}")
        proof = await log.proof(sct.leaf_index)
        verify_inclusion(leaf_hash(entry), sct.leaf_index, proof.tree_size, proof.hashes, proof.root)
        await log.close()
    finally:
        await world.close()


@pytest.mark.parametrize("label", ["serials", "ct entries", "ct checkpoint", "intent", "certificate"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_no_certificate_is_lost_or_unlogged(tmp_path: Path, keys: Keys, moment: str, label: str) -> None:
    """Wherever the process dies, the same request gets its certificate, and the log has it."""

    def die(now: str, name: str) -> None:
        if (now, name) == (moment, label):
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            asyncio.run(issue_and_die(tmp_path, keys, die))
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    asyncio.run(verify_after(tmp_path, keys))
