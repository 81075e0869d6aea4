"""Certificates for code: entered in the CA's own log before they are signed, and believed by sigstore-python."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store
from sigstore._internal.sct import verify_sct as sigstore_verify_sct
from sigstore._internal.trust import CTKeyring, Keyring
from sigstore.errors import VerificationError
from sigstore.verify import policy
from sigstore_models.common import v1 as common

from pkicore.algorithms import ALGORITHMS, PrivateKey, generate_private_key
from pkicore.ct import PrecertificateEntry, log_id, verify_embedded_sct
from pkicore.errors import KeyUnavailableError, ProfileError, UnsupportedError
from pkicore.identity import SpiffeId
from pkicore.tlog.checkpoint import verify_checkpoint
from pkicore.tlog.keys import NoteKey
from pkicore.tlog.merkle import leaf_hash
from pkicore.tlog.proofs import inclusion_plan, verify_inclusion
from pkicore.tlog.tiles import decode_entries
from pkicore.x509.certificate import load_chain
from pkicore.x509.names import Names
from services.ca.ct.log import CertificateLog
from services.ca.errors import (
    IdempotencyConflictError,
    NamesError,
    NoLogError,
    NotAuthorisedError,
    WrongSignatureError,
)
from services.ca.wire import CertificateRequest, Identifier, IssuedCertificate
from services.chassis.audit import audit_records
from tests.support.ca_world import ACME, OPERATOR, CaWorld
from tests.support.pki import TRUST_DOMAIN, MemoryKey, make_csr

SIGNING = SpiffeId.service(TRUST_DOMAIN, "signing")
WORKFLOW = "https://github.com/acme/app/.github/workflows/release.yml@refs/heads/main"
ISSUER = "https://token.actions.githubusercontent.com"
ARC = "1.3.6.1.4.1.57264.1"
CLAIMS = {f"{ARC}.8": ISSUER, f"{ARC}.12": "https://github.com/acme/app", f"{ARC}.15": "4711", f"{ARC}.20": "pušh"}
SCT_LIST = x509.oid.ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS


class MoodyKey(MemoryKey):
    """A key that signs, or does not answer, or signs something else."""

    mood = "good"

    async def sign(self, message: bytes) -> bytes:
        """Sign, as the mood is."""
        if self.mood == "away":
            raise KeyUnavailableError("no answer")
        return await super().sign(message if self.mood == "good" else b"something else")


@pytest.fixture(scope="module")
def log_key() -> MoodyKey:
    """The log's key."""
    return MoodyKey.generate("ecdsa-p256")  # type: ignore[return-value] # generate makes one of the class it is called on


@pytest.fixture
async def world(tmp_path: Path, log_key: MoodyKey) -> AsyncIterator[CaWorld]:
    """A started CA with a log."""
    log_key.mood = "good"
    opened = await (await CaWorld.open(tmp_path, log_key=log_key)).start()
    yield opened
    await opened.close()


def request_for(
    uri: str = WORKFLOW,
    *,
    claims: Mapping[str, str] | None = None,
    key: PrivateKey | None = None,
    email: str | None = None,
    idempotency_key: str = "one",
) -> CertificateRequest:
    """What the signing service asks for, in the name of a workflow."""
    names = Names.build(uri=[uri] if email is None else [], email=[] if email is None else [email])
    identifier = Identifier("uri", uri) if email is None else Identifier("email", email)
    csr = make_csr(key or ec.generate_private_key(ec.SECP256R1()), names=names)
    extensions = CLAIMS if claims is None else claims
    return CertificateRequest(csr, "code-signing", (identifier,), idempotency_key, extensions=extensions)


async def issue(world: CaWorld, request: CertificateRequest | None = None) -> IssuedCertificate:
    """A certificate for code."""
    return (await world.core.issuance.issue(SIGNING, request or request_for())).answer


def leaf_of(answer: IssuedCertificate) -> x509.Certificate:
    """The certificate itself."""
    return load_chain(answer.chain.encode())[0]


def keyring(key: MemoryKey) -> CTKeyring:
    """Sigstore's trust in the log."""
    spki = base64.b64encode(key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    details = {"rawBytes": spki, "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
    return CTKeyring(Keyring([common.PublicKey.from_json(json.dumps(details))]))


def verify_path_as_sigstore(world: CaWorld, leaf: x509.Certificate) -> None:
    """The path that sigstore-python 4.5 builds: web PKI rules but for the extended key usage."""
    family = world.families["ecdsa"]
    trusted = [family.issuing.certificate, family.root.certificate]
    ca = ExtensionPolicy.webpki_defaults_ca().may_be_present(x509.ExtendedKeyUsage, Criticality.NON_CRITICAL, None)
    ee = ExtensionPolicy.webpki_defaults_ee().may_be_present(x509.ExtendedKeyUsage, Criticality.NON_CRITICAL, None)
    builder = PolicyBuilder().store(Store(trusted)).time(world.clock.now().replace(tzinfo=None))
    builder.extension_policies(ca_policy=ca, ee_policy=ee).build_client_verifier().verify(leaf, [])


async def test_sigstore_believes_the_certificate(world: CaWorld, log_key: MoodyKey) -> None:
    """Path, timestamp of the log, usage, name and claims, each by sigstore-python's own checks."""
    leaf = leaf_of(await issue(world))
    family = world.families["ecdsa"]
    verify_path_as_sigstore(world, leaf)
    sigstore_verify_sct(leaf, [family.issuing.certificate, family.root.certificate], keyring(log_key))
    policy.Identity(identity=WORKFLOW, issuer=ISSUER).verify(leaf)
    policy.OIDCIssuerV2(ISSUER).verify(leaf)
    policy.OIDCSourceRepositoryURI("https://github.com/acme/app").verify(leaf)
    policy.OIDCSourceRepositoryIdentifier("4711").verify(leaf)
    policy.OIDCBuildTrigger("pušh").verify(leaf)
    with pytest.raises(VerificationError):
        policy.Identity(identity=WORKFLOW, issuer="https://gitlab.com").verify(leaf)
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert (list(usages.value), usages.critical) == ([ExtendedKeyUsageOID.CODE_SIGNING], False)
    assert leaf.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    assert leaf.not_valid_after_utc - world.clock.now() < timedelta(minutes=10)


async def test_people_are_certified_by_their_mailbox(world: CaWorld) -> None:
    """One e-mail address instead of a URI."""
    leaf = leaf_of(await issue(world, request_for(email="release@acme.example")))
    policy.Identity(identity="release@acme.example", issuer=ISSUER).verify(leaf)
    verify_path_as_sigstore(world, leaf)


async def test_the_log_has_what_was_issued(world: CaWorld, log_key: MoodyKey) -> None:
    """Who has the certificate and the log's key alone finds and proves the entry over HTTP."""
    await issue(world, request_for(idempotency_key="another"))
    leaf, issuer = leaf_of(await issue(world)), world.issuer()
    sct = verify_embedded_sct(leaf, issuer, log_key.public_key, world.clock.now())
    assert sct.leaf_index == 1
    entry = PrecertificateEntry.of(leaf.tbs_certificate_bytes, issuer).leaf(sct.timestamp, sct.extensions)
    key = log_key.public_key
    assert isinstance(key, ec.EllipticCurvePublicKey)
    async with world.status() as reader:
        checkpoint = None
        while checkpoint is None or checkpoint.size < 2:
            note = (await reader.get("/ct/checkpoint")).content
            checkpoint = verify_checkpoint(note, f"{TRUST_DOMAIN}/ct", [NoteKey(f"{TRUST_DOMAIN}/ct", key)])
        plan = inclusion_plan(1, checkpoint.size)
        tiles = {tile: (await reader.get(f"/ct/{tile.path}")).content for tile in plan.tiles}
        entries = decode_entries((await reader.get("/ct/tile/entries/000.p/2")).content, 2)
    assert entries[1] == entry
    verify_inclusion(leaf_hash(entry), 1, checkpoint.size, plan.prove(tiles), checkpoint.root)


async def test_the_audit_log_says_where_the_entry_is(world: CaWorld, log_key: MoodyKey) -> None:
    """Log id and index, and what the token said, in the record of the intent."""
    answer = await issue(world)
    records = [item.record async for item in audit_records(world.database)]
    (detail,) = [
        record.detail
        for record in records
        if record.event == "certificate.intent" and record.detail["serial"] == answer.serial
    ]
    assert detail["ct_log"] == {"id": log_id(log_key.public_key).hex(), "index": 0}
    assert detail["claims"] == CLAIMS


async def entries_of(world: CaWorld) -> int:
    """How many entries the log had: the index of another one."""
    assert world.log is not None
    probe = leaf_of(await world.issue("probe.example", idempotency_key="probe"))
    return (await world.log.enter(probe.tbs_certificate_bytes, world.issuer())).index


async def test_a_repeated_request_is_not_entered_again(world: CaWorld) -> None:
    """The same certificate for the same request; another request under its key is refused, before the log."""
    request = request_for()
    first = await issue(world, request)
    assert await issue(world, request) == first
    for other in (replace(request, extensions={**CLAIMS, f"{ARC}.15": "4712"}), request_for()):
        with pytest.raises(IdempotencyConflictError):
            await issue(world, other)
    assert await entries_of(world) == 1


@pytest.mark.parametrize(("mood", "error"), [("away", KeyUnavailableError), ("lying", WrongSignatureError)])
async def test_without_the_logs_signature_nothing_is_issued(
    world: CaWorld, log_key: MoodyKey, mood: str, error: type[Exception]
) -> None:
    """No intent is recorded; the same request succeeds as soon as the log's key signs again."""
    log_key.mood, request = mood, request_for()
    with pytest.raises(error):
        await issue(world, request)
    assert await world.core.store.by_idempotency_key(str(SIGNING), "one") is None
    log_key.mood = "good"
    assert (await issue(world, request)).certificate


async def test_what_was_entered_and_recorded_is_completed_later(
    world: CaWorld, tmp_path: Path, log_key: MoodyKey
) -> None:
    """An issuing key that was away: the next process signs the bytes with the timestamp of then, or leaves them."""
    issuing = MoodyKey(world.families["ecdsa"].issuing_key.private_key)
    issuing.mood = "away"
    broken = await CaWorld.open(
        tmp_path, clock=world.clock, families=world.families, keys={"ecdsa": issuing}, log_key=log_key
    )
    request = request_for()
    with pytest.raises(KeyUnavailableError):
        await issue(broken, request)
    await broken.close()
    unlogged = await CaWorld.open(tmp_path, clock=world.clock, families=world.families)
    assert await unlogged.core.issuance.recover() == 0
    await unlogged.close()
    assert await world.core.issuance.recover() == 1
    leaf = leaf_of(await issue(world, request))
    assert verify_embedded_sct(leaf, world.issuer(), log_key.public_key, world.clock.now()).leaf_index == 0


async def test_without_a_log_such_certificates_are_refused_and_others_are_not(tmp_path: Path) -> None:
    """The sentence says what to set; nothing is served below /ct."""
    world = await (await CaWorld.open(tmp_path)).start()
    try:
        with pytest.raises(NoLogError, match="set ct_log_key and ct_log_public_key"):
            await issue(world)
        assert (await world.issue("a.example")).certificate
        async with world.status() as reader:
            assert (await reader.get("/ct/checkpoint")).status_code == 404
    finally:
        await world.close()


async def test_other_certificates_are_not_logged(world: CaWorld) -> None:
    """A log of everything would tell everybody the names of internal hosts."""
    leaf = leaf_of(await world.issue("internal.example"))
    with pytest.raises(x509.ExtensionNotFound):
        leaf.extensions.get_extension_for_oid(SCT_LIST)
    assert await entries_of(world) == 0


@pytest.mark.parametrize("caller", [OPERATOR, ACME, SpiffeId.service(TRUST_DOMAIN, "ca")])
async def test_nobody_else_may_ask(world: CaWorld, caller: SpiffeId) -> None:
    """Not even operators: whoever may, speaks for every identity."""
    with pytest.raises(NotAuthorisedError):
        await world.core.issuance.issue(caller, request_for())


@pytest.mark.parametrize(
    "uri", [f"spiffe://{TRUST_DOMAIN}/operator/admin", "SPIFFE://elsewhere/x", f"spiffe://{TRUST_DOMAIN}/service/ca"]
)
async def test_no_identity_of_ours_is_certified_so(world: CaWorld, uri: str) -> None:
    """A SPIFFE ID in such a certificate would be ours without our rules."""
    with pytest.raises(NamesError, match="SPIFFE"):
        await issue(world, request_for(uri))


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {f"{ARC}.12": "https://github.com/acme/app"},
        {**CLAIMS, f"{ARC}.7": "x"},
        {**CLAIMS, f"{ARC}.1": "x"},
        {**CLAIMS, f"{ARC}.24": "x"},
        {**CLAIMS, "2.5.29.19": "x"},
        {**CLAIMS, "not an OID": "x"},
        {**CLAIMS, f"{ARC}.9": ""},
        {**CLAIMS, f"{ARC}.9": "x" * 2049},
        {**CLAIMS, f"{ARC}.9": "line\nend"},
        {**CLAIMS, f"{ARC}.9": "\ud800"},
    ],
)
async def test_claims_that_no_certificate_makes(world: CaWorld, claims: dict[str, str]) -> None:
    """The issuer is always said; nothing but Fulcio's own extensions can be asked for, and nothing unprintable."""
    with pytest.raises(ProfileError):
        await issue(world, request_for(claims=claims))
    assert await entries_of(world) == 0


async def test_other_profiles_take_no_claims(world: CaWorld) -> None:
    """A server certificate with somebody's claims is refused."""
    request = replace(request_for(), profile="timestamping", identifiers=())
    csr = make_csr(ec.generate_private_key(ec.SECP256R1()), common_name="TSA")
    with pytest.raises(ProfileError, match="takes no extensions"):
        await world.core.issuance.issue(OPERATOR, replace(request, csr=csr))


@pytest.mark.parametrize("algorithm", ["rsa-3072", "ml-dsa-65", "ed25519"])
async def test_keys_that_verifiers_do_not_take(world: CaWorld, algorithm: str) -> None:
    """ECDSA alone, since the others' chains are not believed elsewhere."""
    with pytest.raises(ProfileError):
        await issue(world, request_for(key=generate_private_key(ALGORITHMS[algorithm])))


async def test_two_names_are_one_too_many(world: CaWorld) -> None:
    """A certificate speaks for one identity."""
    names = Names.build(uri=[WORKFLOW, "https://other.example/x"])
    csr = make_csr(ec.generate_private_key(ec.SECP256R1()), names=names)
    identifiers = tuple(Identifier("uri", uri) for uri in names.uri)
    with pytest.raises(NamesError):
        await issue(world, replace(request_for(), csr=csr, identifiers=identifiers))


@pytest.mark.parametrize("algorithm", ["ecdsa-p384", "rsa-2048", "ml-dsa-65"])
async def test_a_log_needs_a_key_that_verifiers_know(world: CaWorld, algorithm: str) -> None:
    """RFC 6962 has ECDSA on P-256 (and RSA, which signs no checkpoints)."""
    with pytest.raises(UnsupportedError):
        await CertificateLog.open(world.database, MemoryKey.generate(algorithm), TRUST_DOMAIN, world.clock)


async def test_a_time_stamping_authority(world: CaWorld) -> None:
    """One usage alone, and critical (RFC 3161 §2.3); a year, revocable, not logged."""
    csr = make_csr(ec.generate_private_key(ec.SECP256R1()), common_name="Time of Acme")
    request = CertificateRequest(csr, "timestamping", (), "tsa")
    leaf = leaf_of((await world.core.issuance.issue(OPERATOR, request)).answer)
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert (list(usages.value), usages.critical) == ([ExtendedKeyUsageOID.TIME_STAMPING], True)
    assert leaf.subject.rfc4514_string() == "CN=Time of Acme"
    assert timedelta(days=364) < leaf.not_valid_after_utc - world.clock.now() < timedelta(days=365)
    assert {item.oid for item in leaf.extensions} & {SCT_LIST, x509.CRLDistributionPoints.oid} == {
        x509.CRLDistributionPoints.oid
    }
