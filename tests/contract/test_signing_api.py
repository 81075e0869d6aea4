"""What `/v1/signatures` answers, over the real application and a real signer-hsm core in memory."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pkicore.dsse import Envelope, verify_all
from pkicore.keys.remote import Reduction
from services.signing.callers import Scopes
from services.signing.formats import jws
from services.signing.statements import VSA_TYPE
from services.signing.wire import SignaturePage, SignatureRecord
from tests.support.sboms import cyclonedx
from tests.support.signing_world import GLOBEX, OPERATOR, VERIFIER, SigningWorld, request, subject

ARTEFACT = b"an artefact"
CYCLONEDX = "application/vnd.cyclonedx+json"
DSSE = "application/vnd.dsse.envelope.v1+json"
CYCLONEDX_TYPE = "https://cyclonedx.org/bom"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SigningWorld]:
    """The service."""
    opened = await SigningWorld.open(tmp_path)
    yield opened
    await opened.close()


def provenance(*contents: bytes) -> dict[str, Any]:
    """A Statement about artefacts with these contents."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [subject(content, f"file-{number}") for number, content in enumerate(contents)],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {"buildType": "https://build.test/v1", "externalParameters": {}},
            "runDetails": {"builder": {"id": "https://builder.test/1"}},
        },
    }


async def test_a_raw_signature_verifies_with_the_published_key(world: SigningWorld) -> None:
    """The octets in the record, and those behind its URL, are one ECDSA signature over the artefact."""
    record = await world.sign(request(ARTEFACT, formats=["raw"]))
    (made,) = record.signatures
    async with world.http(None) as nobody:
        pem = (await nobody.get("/v1/keys/acme.artefact-es256/public-key")).content
    public_key = load_pem_public_key(pem)
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    assert made.signature is not None
    public_key.verify(made.signature, ARTEFACT, ec.ECDSA(hashes.SHA256()))
    served = await world.fetch(made.url)
    assert served.content == made.signature
    assert (made.key, made.encoding, made.subject) == ("acme.artefact-es256/1", "der", "file-0")


async def test_the_answer_is_the_record(world: SigningWorld) -> None:
    """201 with its Location, where the same octets are served from then on."""
    async with world.http() as http:
        answer = await http.post("/v1/signatures", json=request(context={"ticket": "REL-7"}))
        assert answer.status_code == 201
        record = SignatureRecord.from_json(answer.content)
        shown = await http.get(answer.headers["location"])
    assert shown.content == answer.content
    assert record.urls["self"] == answer.headers["location"] == f"/v1/signatures/{record.id}"
    assert (record.tenant, record.caller, record.context) == ("acme", f"mtls {OPERATOR}", {"ticket": "REL-7"})
    assert record.policy.sha256 == world.policies.policies.sha256
    assert record.policy.determining == ("acme-signs",)


async def test_everything_that_the_record_names_is_served_with_its_type_and_etag(world: SigningWorld) -> None:
    """Each URL answers; the ETag is the SHA-256 of the octets, and If-None-Match with it is answered 304."""
    body = request(ARTEFACT, profile="hybrid", sbom={"media_type": CYCLONEDX, "content": cyclonedx()})
    body["provenance"] = {"content": provenance(ARTEFACT)}
    record = await world.sign(body)
    urls = {one.url for one in record.signatures} | {one.url for one in record.bundles} | set(record.urls.values())
    async with world.http() as http:
        for url in urls:
            answer = await http.get(url)
            assert answer.status_code == 200, url
            if not url.startswith("/v1/policy"):
                assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
                again = await http.get(url, headers={"if-none-match": f'"x", {answer.headers["etag"]}'})
                assert (again.status_code, again.content) == (304, b"")
            head = await http.head(url)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(answer.content))
    assert (await world.fetch(record.urls["sbom"])).headers["content-type"].startswith("application/vnd.cyclonedx+json")
    assert next(one.media_type for one in record.bundles if one.kind == "sbom") == DSSE


async def test_an_sbom_and_a_provenance_come_back_as_they_came(world: SigningWorld) -> None:
    """Octet for octet, spaces included, and the SBOM's attestation holds the very same document."""
    sbom = b'{ "bomFormat":"CycloneDX", "specVersion":"1.6",  "version": 1 }'
    built = orjson.dumps(provenance(ARTEFACT), option=orjson.OPT_INDENT_2)
    body = request(ARTEFACT, formats=["dsse"])
    body["sbom"] = {"content": base64.b64encode(sbom).decode()}
    body["provenance"] = {"content": base64.b64encode(built).decode()}
    record = await world.sign(body)
    assert (await world.fetch(record.urls["sbom"])).content == sbom
    assert (await world.fetch(record.urls["provenance"])).content == built
    envelope = Envelope.parse((await world.fetch(_url(record, "sbom"))).content)
    assert sbom in envelope.payload
    assert record.sbom is not None
    assert (record.sbom["format"], record.sbom["version"]) == ("cyclonedx", "1.6")
    assert record.provenance is not None
    assert record.provenance["builder_id"] == "https://builder.test/1"


async def test_an_inline_object_is_kept_as_it_stood_in_the_request(world: SigningWorld) -> None:
    """Its exact octets, with the spaces and the order that the caller wrote."""
    sbom = b'{"bomFormat" : "CycloneDX","specVersion":"1.5","version":1}'
    body = orjson.dumps(request(ARTEFACT, formats=["dsse"]))[:-1] + b',"sbom": {"content": ' + sbom + b"}}"
    async with world.http() as http:
        answer = await http.post("/v1/signatures", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 201, answer.text
        record = SignatureRecord.from_json(answer.content)
        assert (await http.get(record.urls["sbom"])).content == sbom


async def test_a_hybrid_envelope_has_the_signatures_of_all_keys(world: SigningWorld) -> None:
    """Over one statement, and a verifier that demands both gets both."""
    record = await world.sign(request(ARTEFACT, profile="hybrid"))
    envelope = Envelope.parse((await world.fetch(_url(record, "vsa"))).content)
    keys = [await world.public_key(f"acme.{name}") for name in ("attestation-es256", "attestation-mldsa65")]
    verify_all(envelope, keys)
    statement = orjson.loads(envelope.payload)
    assert statement["predicateType"] == VSA_TYPE
    assert statement["predicate"]["policy"]["digest"]["sha256"] == record.policy.sha256
    assert statement["predicate"]["verifier"]["id"] == VERIFIER
    assert statement["subject"] == [subject(ARTEFACT, "file-0")]


async def test_a_summary_names_what_was_looked_at(world: SigningWorld) -> None:
    """SBOM and provenance by the digest of what is served, and the level that a tenant's provenance reaches."""
    body = request(ARTEFACT, formats=["dsse"], sbom={"content": cyclonedx()})
    body["provenance"] = {"content": provenance(ARTEFACT)}
    record = await world.sign(body)
    envelope = Envelope.parse((await world.fetch(_url(record, "vsa"))).content)
    predicate = orjson.loads(envelope.payload)["predicate"]
    for name, attestation in zip(("sbom", "provenance"), predicate["inputAttestations"], strict=True):
        served = await world.fetch(record.urls[name])
        assert attestation["uri"] == f"{VERIFIER}{record.urls[name]}"
        assert attestation["digest"]["sha256"] == hashlib.sha256(served.content).hexdigest()
    assert predicate["verifiedLevels"] == ["SLSA_BUILD_LEVEL_1"]


async def test_a_raw_ml_dsa_signature_is_made_from_mu(world: SigningWorld) -> None:
    """The caller computes mu from the artefact and the public key; the signature is an ordinary one of the artefact."""
    public_key = await world.public_key("acme.artefact-mldsa65")
    assert isinstance(public_key, mldsa.MLDSA65PublicKey)
    reduction = Reduction(public_key, "mu")
    reduction.update(ARTEFACT)
    mu = {"acme.artefact-mldsa65": base64.b64encode(reduction.payload()).decode()}
    record = await world.sign(request(ARTEFACT, profile="hybrid", formats=["raw"], mu=mu))
    made = next(one for one in record.signatures if one.algorithm == "ml-dsa-65")
    assert made.signature is not None
    public_key.verify(made.signature, ARTEFACT)


async def test_a_detached_jws_comes_with_the_statement_that_it_is_of(world: SigningWorld) -> None:
    """A verifier needs both, and has both by URL."""
    record = await world.sign(request(ARTEFACT, formats=["jws"]))
    (made,) = record.signatures
    statement = (await world.fetch(record.urls["statement"])).content
    jws.verify((await world.fetch(made.url)).content, statement, await world.public_key("acme.attestation-es256"))


async def test_composite_signatures_are_made_where_they_are_asked_for(world: SigningWorld) -> None:
    """One envelope with one signature of both keys; its format verifies both halves before it is handed out."""
    record = await world.sign(request(ARTEFACT, profile="hybrid", formats=["composite"]))
    (made,) = record.signatures
    assert (made.format, made.key) == ("composite", "acme.attestation-es256/1+acme.attestation-mldsa65/1")
    envelope = Envelope.parse((await world.fetch(made.url)).content)
    assert len(envelope.signatures) == 1


async def test_several_artefacts_have_a_signature_each(world: SigningWorld) -> None:
    """Raw signatures and message bundles are numbered like the subjects; statements name all of them."""
    record = await world.sign(request(b"one", b"two", b"three", formats=["raw", "bundle"]))
    assert [one.subject for one in record.signatures] == ["file-0", "file-1", "file-2"]
    names = [one.url.rsplit("/", 1)[1] for one in record.bundles if one.kind == "message"]
    assert names == [f"message-es256{suffix}.sigstore.json" for suffix in ("", "-2", "-3")]
    public_key = await world.public_key("acme.artefact-es256")
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    for one, content in zip(record.signatures, (b"one", b"two", b"three"), strict=True):
        assert one.signature is not None
        public_key.verify(one.signature, content, ec.ECDSA(hashes.SHA256()))


async def test_signatures_are_found_by_digest_and_predicate_type(world: SigningWorld) -> None:
    """Newest first, those of the caller's tenant alone, both conditions at once."""
    plain = await world.sign(request(ARTEFACT, formats=["raw"]))
    attested = await world.sign(request(ARTEFACT, formats=["dsse"], sbom={"content": cyclonedx()}))
    await world.sign(request(b"another", formats=["raw"]))
    await world.sign(request(ARTEFACT, formats=["raw"]), GLOBEX)
    digest = f"subject_digest=sha256:{hashlib.sha256(ARTEFACT).hexdigest()}"
    assert await _found(world, digest) == {plain.id, attested.id}
    assert await _found(world, f"{digest}&predicate_type={CYCLONEDX_TYPE}") == {attested.id}
    assert await _found(world, f"predicate_type={CYCLONEDX_TYPE}") == {attested.id}
    assert await _found(world, "subject_digest=sha256:" + "0" * 64) == set()
    assert len(await _found(world, "")) == 3


async def test_pages_follow_each_other_to_the_end(world: SigningWorld) -> None:
    """Each names the next by its last id, the last one names none, and nothing comes twice."""
    made = [await world.sign(request(formats=["raw"])) for _ in range(5)]
    seen: list[str] = []
    after = ""
    while True:
        page = SignaturePage.from_json((await world.fetch(f"/v1/signatures?limit=2{after}")).content)
        seen += [one.id for one in page.records]
        if page.next is None:
            break
        assert len(page.records) == 2
        after = f"&after={page.next}"
    assert sorted(seen, reverse=True) == seen
    assert set(seen) == {one.id for one in made}


@pytest.mark.parametrize(
    "query",
    [
        "subject_digest=md5:00",
        "subject_digest=sha256:" + "A" * 64,
        "predicate_type=none",
        "limit=0",
        "limit=101",
        "limit=1&limit=2",
        "after=x",
        "what=else",
        "limit=%FF",
        "limit",
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(world: SigningWorld, query: str) -> None:
    """By 400, whatever is wrong with it."""
    assert (await world.fetch(f"/v1/signatures?{query}")).status_code == 400


async def test_what_was_decided_is_on_record_before_and_after(world: SigningWorld) -> None:
    """The decision with its determining policies, then the signature, tied by the hash of the request."""
    record = await world.sign(request(ARTEFACT, profile="hybrid", formats=["dsse"]))
    (decision,) = await world.audit("sign.decision")
    (created,) = await world.audit("signature.created")
    assert decision["request_sha256"] == created["request_sha256"]
    assert decision["sha256"] == [hashlib.sha256(ARTEFACT).hexdigest()]
    assert [(one["key"], one["policies"]) for one in decision["answers"]] == [
        ("attestation-es256", ["acme-signs"]),
        ("attestation-mldsa65", ["acme-signs"]),
    ]
    assert (created["id"], created["policy_sha256"]) == (record.id, record.policy.sha256)
    assert world.commits == ["decision", "signature"]


async def test_policies_are_served_as_they_were_in_force(world: SigningWorld) -> None:
    """By the hash that records name, with their texts."""
    record = await world.sign(request(formats=["raw"]))
    found = (await world.fetch(record.urls["policy"])).json()
    assert found["files"] == dict(world.policies.policies.files)
    assert (await world.fetch("/v1/policy")).json()["sha256"] == record.policy.sha256
    assert (await world.fetch(f"/v1/policy/{'0' * 64}")).status_code == 404


async def test_witnessed_signatures_have_a_time_and_a_place_in_the_log(tmp_path: Path) -> None:
    """The token is over the signature's octets, and the entry can be read by anybody."""
    world = await SigningWorld.open(tmp_path, witnesses=True)
    record = await world.sign(request(ARTEFACT, profile="witnessed", formats=["bundle"]))
    assert record.log is not None
    async with world.http(None) as nobody:
        entry = (await nobody.get(f"/v1/log/entries/{record.log.index}")).json()
    served = (await world.fetch(record.urls["log_entry"])).json()
    assert served["canonicalizedBody"] == entry["canonicalizedBody"]
    bundle = (await world.fetch(next(one.url for one in record.bundles if one.kind == "message"))).json()
    material = bundle["verificationMaterial"]
    assert material["tlogEntries"] == [served]
    stamp = base64.b64decode(material["timestampVerificationData"]["rfc3161Timestamps"][0]["signedTimestamp"])
    assert (await world.fetch(record.urls["timestamp"])).content == stamp
    assert {one.algorithm for one in record.bundles} == {"ecdsa-p256", "ml-dsa-65"}
    for one in record.bundles:
        material = (await world.fetch(one.url)).json()["verificationMaterial"]
        assert len(material["tlogEntries"]) == 1
    await world.close()


@pytest.mark.parametrize("formats", [["jws"], ["dsse"], ["bundle"], ["composite", "dsse"]])
async def test_nobody_keeps_a_signature_out_of_the_log(tmp_path: Path, formats: list[str]) -> None:
    """Whatever formats a caller asks for, each signature of a profile with a log is entered, and time-stamped."""
    world = await SigningWorld.open(tmp_path, witnesses=True)
    record = await world.sign(request(ARTEFACT, profile="witnessed", formats=formats))
    assert record.log is not None
    assert "timestamp" in record.urls
    await world.close()


async def test_a_composite_signature_alone_is_refused_where_there_is_a_log(tmp_path: Path) -> None:
    """Its key has no name in the log's entries, so it comes with an envelope that has one."""
    world = await SigningWorld.open(tmp_path, witnesses=True)
    async with world.http() as http:
        answer = await http.post("/v1/signatures", json=request(ARTEFACT, profile="witnessed", formats=["composite"]))
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (422, "not-offered")
    assert "dsse" in answer.json()["detail"]
    await world.close()


async def test_api_keys_are_made_used_listed_and_revoked(world: SigningWorld) -> None:
    """Shown once; good until revoked; not to be found by another tenant."""
    wanted = {"scopes": {"actions": ["sign"], "formats": ["raw"]}, "life_seconds": 3600}
    async with world.http() as http:
        made = (await http.post("/v1/api-keys", json=wanted)).json()
        listed = (await http.get("/v1/api-keys")).json()["keys"]
    assert [one["id"] for one in listed] == [made["id"]]
    assert "key" not in listed[0]
    async with world.http(api_key=made["key"]) as http:
        assert (await http.post("/v1/signatures", json=request(formats=["raw"]))).status_code == 201
        assert (await http.post("/v1/signatures", json=request(formats=["dsse"]))).status_code == 403
        assert (await http.get("/v1/signatures")).status_code == 403
    async with world.http(GLOBEX) as http:
        assert (await http.delete(f"/v1/api-keys/{made['id']}")).status_code == 404
    async with world.http() as http:
        assert (await http.delete(f"/v1/api-keys/{made['id']}")).status_code == 204
        assert (await http.delete(f"/v1/api-keys/{made['id']}")).status_code == 404
    async with world.http(api_key=made["key"]) as http:
        assert (await http.post("/v1/signatures", json=request(formats=["raw"]))).status_code == 401


async def test_an_api_key_does_not_outlive_itself_in_the_keys_it_makes(world: SigningWorld) -> None:
    """A longer life is refused; what it made is no good once it is revoked, and shows who made it."""
    scopes = Scopes(frozenset({"sign", "manage_api_keys"}))
    parent = await world.api_key(scopes=scopes, life_seconds=3600)
    wanted = {"scopes": {"actions": ["sign"]}, "life_seconds": 3600}
    async with world.http(api_key=parent) as http:
        refused = await http.post("/v1/api-keys", json=wanted | {"life_seconds": 300 * 86_400})
        assert (refused.status_code, "at most 3600 seconds" in refused.json()["detail"]) == (422, True)
        child = (await http.post("/v1/api-keys", json=wanted)).json()
    assert child["made_by"] == parent.split("_")[1]
    async with world.http() as http:
        assert (await http.delete(f"/v1/api-keys/{child['made_by']}")).status_code == 204
        listed = (await http.get("/v1/api-keys")).json()["keys"]
    assert all(one["revoked_at"] is not None for one in listed)
    async with world.http(api_key=child["key"]) as http:
        assert (await http.post("/v1/signatures", json=request(formats=["raw"]))).status_code == 401
    assert [one["made_by"] for one in await world.audit("api-key.created")] == [child["made_by"]]


def _url(record: SignatureRecord, kind: str) -> str:
    """The first envelope of that kind: the one with all signatures."""
    return next(one.url for one in record.bundles if one.kind == kind and "dsse" in one.media_type)


async def _found(world: SigningWorld, query: str) -> set[str]:
    page = SignaturePage.from_json((await world.fetch(f"/v1/signatures?{query}")).content)
    return {one.id for one in page.records}
