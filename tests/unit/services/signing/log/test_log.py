"""Entries of the signing service's log, as sigstore-python reads them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from prometheus_client import CollectorRegistry
from sigstore._internal.merkle import verify_merkle_inclusion
from sigstore._internal.rekor.checkpoint import verify_checkpoint as sigstore_verify_checkpoint
from sigstore._internal.trust import Keyring, RekorKeyring
from sigstore.errors import VerificationError
from sigstore.models import TransparencyLogEntry
from sigstore_models.common import v1 as common
from sigstore_models.rekor import v1 as rekor
from sigstore_models.rekor import v2 as rekor_v2

from pkicore.algorithms import ALGORITHMS, algorithm_of, generate_private_key, sign_with
from pkicore.tlog.checkpoint import verify_checkpoint
from pkicore.tlog.proofs import verify_consistency
from services.chassis.asgi import Application
from services.chassis.database import Database
from services.chassis.observability import HttpMetrics
from services.signing.formats import LogEntry, SignedWith
from services.signing.log import SigningLog, signing_log_routes
from services.signing.problems import PROBLEMS
from tests.support.clock import ManualClock
from tests.support.migrated import migrated
from tests.support.pki import MemoryKey, make_hierarchy

MIGRATIONS = Path(__file__).parents[5] / "services/signing/migrations"
ORIGIN = "signing.example/v1/log"
DIGEST = hashlib.sha256(b"artefact").digest()


@pytest.fixture(scope="module")
def key() -> MemoryKey:
    """The log's key."""
    return MemoryKey.generate("ecdsa-p256")


@pytest.fixture
async def log(tmp_path: Path, key: MemoryKey) -> AsyncIterator[SigningLog]:
    """An empty log in the service's own schema."""
    url = f"sqlite:///{tmp_path / 'signing.sqlite3'}"
    await migrated(url, MIGRATIONS)
    database = await Database.open(url, clock=ManualClock())
    log = await SigningLog.open(database, key=key, origin=ORIGIN)
    yield log
    await log.close()
    await database.close()


@pytest.fixture
async def reader(log: SigningLog) -> AsyncIterator[httpx.AsyncClient]:
    """Anybody."""
    metrics = HttpMetrics(CollectorRegistry())
    app = Application("signing", signing_log_routes(log), problems=PROBLEMS, metrics=metrics)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://signing/v1/log/") as client:
        yield client


def signed(algorithm: str = "ecdsa-p256") -> SignedWith:
    """A signature over the artefact, by a key that is known by itself."""
    private_key = generate_private_key(ALGORITHMS[algorithm])
    public_key = private_key.public_key()
    return SignedWith("default.artefact", algorithm_of(public_key), public_key, sign_with(private_key, b"artefact"))


def read_as_sigstore(members: dict[str, Any], key: MemoryKey) -> TransparencyLogEntry:
    """The entry as sigstore-python takes it from a bundle: form, inclusion, checkpoint."""
    entry = TransparencyLogEntry(rekor.TransparencyLogEntry.from_json(json.dumps(members)))
    verify_merkle_inclusion(entry)
    sigstore_verify_checkpoint(keyring(key), entry)
    return entry


def keyring(key: MemoryKey) -> RekorKeyring:
    """Sigstore's trust in a log's key."""
    spki = base64.b64encode(key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    details = {"rawBytes": spki, "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
    return RekorKeyring(Keyring([common.PublicKey.from_json(json.dumps(details))]))


async def test_sigstore_believes_an_entry(log: SigningLog, key: MemoryKey) -> None:
    """Its form, its place in the tree and the checkpoint; not with another log's key."""
    for _ in range(3):
        await log.enter(signed(), DIGEST)
    one = signed()
    made = await log.enter(one, DIGEST)
    members = made.members()
    assert (members["logIndex"], members["kindVersion"]) == ("3", {"kind": "hashedrekord", "version": "0.0.2"})
    assert members.get("integratedTime", "0") == "0"
    entry = read_as_sigstore(members, key)
    body = rekor_v2.entry.Entry.from_json(entry._inner.canonicalized_body)
    record = body.spec.hashed_rekord_v002
    assert record is not None
    assert record.data.digest == DIGEST
    assert record.signature.content == one.signature
    with pytest.raises(VerificationError):
        read_as_sigstore(members, MemoryKey.generate("ecdsa-p256"))


@pytest.mark.parametrize("algorithm", ["ecdsa-p384", "rsa-2048", "ml-dsa-65"])
async def test_signatures_of_every_kind_are_entered(log: SigningLog, key: MemoryKey, algorithm: str) -> None:
    """Named as Sigstore names them."""
    digest = hashlib.sha384(b"artefact").digest() if algorithm == "ecdsa-p384" else DIGEST
    read_as_sigstore((await log.enter(signed(algorithm), digest)).members(), key)


async def test_a_certificate_stands_for_its_key(log: SigningLog) -> None:
    """In certificate mode the entry has the leaf, as verifiers compare it."""
    leaf = await (await make_hierarchy("ecdsa", ManualClock())).service("signing")
    one = SignedWith(
        "certificate",
        ALGORITHMS["ecdsa-p256"],
        leaf.certificate.public_key(),  # type: ignore[arg-type] # an EC key, as the hierarchy makes
        b"signature",
        certificate_chain=leaf.chain,
    )
    body = json.loads((await log.enter(one, DIGEST)).canonical_body)
    verifier = body["spec"]["hashedRekordV002"]["signature"]["verifier"]
    der = base64.b64encode(leaf.certificate.public_bytes(Encoding.DER)).decode()
    assert verifier == {"keyDetails": "PKIX_ECDSA_P256_SHA_256", "x509Certificate": {"rawBytes": der}}


async def test_many_at_once_are_all_proved(log: SigningLog, key: MemoryKey) -> None:
    """Each has its own index and its own proof."""
    bodies = [b'{"number":%d}' % number for number in range(40)]
    made: list[LogEntry] = await asyncio.gather(*map(log.add, bodies))
    assert sorted(entry.index for entry in made) == list(range(40))
    for entry, body in zip(made, bodies, strict=True):
        assert entry.canonical_body == body
        read_as_sigstore(entry.members(), key)


async def test_anybody_reads_entries_with_new_proofs(
    log: SigningLog, key: MemoryKey, reader: httpx.AsyncClient
) -> None:
    """The same entry, proved by the newest checkpoint."""
    first = await log.enter(signed(), DIGEST)
    for _ in range(4):
        await log.enter(signed(), DIGEST)
    answer = await reader.get("entries/0")
    assert answer.headers["cache-control"] == "no-cache"
    entry = read_as_sigstore(answer.json(), key)
    assert entry._inner.inclusion_proof.tree_size == 5
    assert entry._inner.canonicalized_body == first.canonical_body
    assert (await reader.get("checkpoint")).text == answer.json()["inclusionProof"]["checkpoint"]["envelope"]


async def test_anybody_sees_that_nothing_was_taken_back(log: SigningLog, reader: httpx.AsyncClient) -> None:
    """Two checkpoints and what the log says between them."""
    older = verify_checkpoint((await log.enter(signed(), DIGEST)).checkpoint, ORIGIN, [log.note_key])
    newest = [await log.enter(signed(), DIGEST) for _ in range(5)][-1]
    newer = verify_checkpoint(newest.checkpoint, ORIGIN, [log.note_key])
    answer = (await reader.get(f"consistency?first={older.size}&second={newer.size}")).json()
    assert (answer["first"], answer["second"]) == (1, 6)
    hashes = [base64.b64decode(item) for item in answer["hashes"]]
    verify_consistency(1, 6, hashes, older.root, newer.root)


@pytest.mark.parametrize("index", ["1", "-1", "00", "1e3", "x", "9" * 40, "%30%00", "0/"])
async def test_entries_that_are_not_there(log: SigningLog, reader: httpx.AsyncClient, index: str) -> None:
    """Beyond the end, or no number."""
    await log.enter(signed(), DIGEST)
    assert (await reader.get(f"entries/{index}")).status_code == 404


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("first=0&second=2", 404),
        ("first=1&second=0", 404),
        ("", 400),
        ("first=1", 400),
        ("first=1&first=1", 400),
        ("first=1&second=-1", 400),
        ("first=1&second=1&third=1", 400),
        ("first=a&second=1", 400),
    ],
)
async def test_consistency_that_cannot_be_shown(
    log: SigningLog, reader: httpx.AsyncClient, query: str, status: int
) -> None:
    """Beyond the checkpoint, backwards, or asked for in another way."""
    await log.enter(signed(), DIGEST)
    assert (await reader.get(f"consistency?{query}")).status_code == status
