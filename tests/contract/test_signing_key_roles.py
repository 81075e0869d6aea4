"""What a caller who has digests signed cannot have: statements of this service, or a signature beside the log."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pkicore.dsse import IN_TOTO_PAYLOAD, Envelope, Signature, pae
from pkicore.errors import BadSignatureError
from services.signing.verification import verify_hybrid
from tests.support.signing_world import SigningWorld, request

FORGED = b'{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"urn:forged","predicate":{}}'
ARTEFACT_KEY, ATTESTATION_KEY = "acme.artefact-es256", "acme.attestation-es256"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SigningWorld]:
    """The service, with a log and a time-stamping authority."""
    opened = await SigningWorld.open(tmp_path, witnesses=True)
    yield opened
    await opened.close()


async def test_the_digest_of_a_statement_is_an_artefacts_digest(world: SigningWorld) -> None:
    """Whoever has the PAE of a statement signed as an artefact has no envelope that the attestation key signed."""
    digest = hashlib.sha256(pae(IN_TOTO_PAYLOAD, FORGED)).hexdigest()
    subjects = [{"name": "harmless", "digest": {"sha256": digest}}]
    record = await world.sign({"subjects": subjects, "profile": "default", "formats": ["raw"]})
    (made,) = record.signatures
    assert made.signature is not None
    forged = Envelope(IN_TOTO_PAYLOAD, FORGED, (Signature("", made.signature),)).to_json()
    with pytest.raises(BadSignatureError):
        verify_hybrid(forged, [await world.public_key(ATTESTATION_KEY)])


@pytest.mark.parametrize("formats", [["raw"], ["raw", "bundle"], ["cms"]])
async def test_a_key_for_statements_signs_no_artefact(world: SigningWorld, formats: list[str]) -> None:
    """Neither by its name nor through a profile; nothing is asked of signer-hsm."""
    before, wanted = world.signer.asked, {"subjects": request()["subjects"], "key": ATTESTATION_KEY, "formats": formats}
    async with world.http() as http:
        answer = await http.post("/v1/signatures", json=wanted)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:pqcpki:problem:not-offered")
    assert world.signer.asked == before


async def test_a_key_for_artefacts_signs_no_statement(world: SigningWorld) -> None:
    """Each format says whose keys sign it; a bundle by such a key is of the artefact alone."""
    wanted = {"subjects": request()["subjects"], "key": ARTEFACT_KEY}
    async with world.http() as http:
        answer = await http.post("/v1/signatures", json={**wanted, "formats": ["dsse"]})
    assert answer.status_code == 422
    record = await world.sign({**wanted, "formats": ["bundle"]})
    assert [(one.kind, one.keys) for one in record.bundles] == [("message", (f"{ARTEFACT_KEY}/1",))]


async def test_raw_and_attested_are_by_different_keys(world: SigningWorld) -> None:
    """The record says which; the raw signature is none of the key that attests."""
    record = await world.sign(request(b"an artefact"))
    (made,) = record.signatures
    assert made.key == f"{ARTEFACT_KEY}/1"
    assert {one.keys for one in record.bundles if one.kind == "vsa"} == {(f"{ATTESTATION_KEY}/1",)}
    key = await world.public_key(ATTESTATION_KEY)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert made.signature is not None
    with pytest.raises(InvalidSignature):
        key.verify(made.signature, b"an artefact", ec.ECDSA(hashes.SHA256()))


async def test_nobody_leaves_the_log_by_naming_a_key_alone(world: SigningWorld) -> None:
    """A key of a profile that is logged and time-stamped is so by itself, too; one of no profile is no key here."""
    wanted = {"subjects": request()["subjects"], "formats": ["raw"]}
    record = await world.sign({**wanted, "key": ARTEFACT_KEY})
    assert record.log is not None
    assert record.signatures[0].timestamp is not None
    async with world.http() as http:
        answer = await http.post("/v1/signatures", json={**wanted, "key": "acme.unheard-of"})
    assert answer.status_code == 404
