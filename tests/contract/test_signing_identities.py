"""Signatures with short-lived certificates for OIDC identities; the CA is a private Sigstore in memory."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from services.ca.client import CaRefusedError, CaUnavailableError
from services.signing.callers import Caller, CertificateIdentity, CertificateIdentityError
from services.signing.certification import OidcCertifier
from services.signing.errors import BadSignerAnswerError, IdentityNeededError, SignerDownError, SignerRefusedError
from services.signing.incoming import Incoming
from services.signing.wire import SignatureRecord, SignatureRequest
from tests.support.clock import ManualClock
from tests.support.signing_world import SigningWorld, request
from tests.support.sigstore_world import GITHUB, WORKFLOW, SigstoreWorld

ARTEFACT = b"an artefact"
BUILD = Caller(
    "oidc",
    f"{GITHUB}#repository_id=74",
    "acme",
    {
        "provider": "github",
        "issuer": GITHUB,
        "server_url": "https://github.com",
        "job_workflow_ref": WORKFLOW.removeprefix("https://github.com/"),
        "repository": "acme/app",
        "repository_id": "74",
    },
)


@dataclass
class FaultyIssuer:
    """The CA, or what goes wrong at it."""

    world: SigstoreWorld
    fault: Exception | None = None
    instead: CertificateIdentity | None = None

    async def issue(self, csr: bytes, identity: CertificateIdentity) -> bytes:
        """A chain, or the fault, or one that says something else."""
        if self.fault is not None:
            raise self.fault
        return await self.world.issue(csr, self.instead or identity)


@pytest.fixture
def issuer() -> FaultyIssuer:
    """The CA."""
    return FaultyIssuer(SigstoreWorld(ManualClock()))


@pytest.fixture
async def world(tmp_path: Path, issuer: FaultyIssuer) -> AsyncIterator[SigningWorld]:
    """The service with a log and a time-stamping authority, and that CA."""
    clock = issuer.world.clock
    certifier = OidcCertifier(issuer, lambda: issuer.world.trusted_root, clock)
    opened = await SigningWorld.open(tmp_path, clock=clock, witnesses=True, certifier=certifier)
    yield opened
    await opened.close()


async def sign(world: SigningWorld, caller: Caller = BUILD) -> SignatureRecord:
    """A request in certificate mode, from step 3 on."""
    asked = {"subjects": request(ARTEFACT)["subjects"], "identity": True}
    wanted = SignatureRequest.from_json(orjson.dumps(asked))
    async with world.core.objects.scratch() as scratch:
        with world.core.quotas.place(caller.tenant):
            stored = await world.core.signatures.sign(Incoming(caller, wanted, bytes(32), None), scratch)
    return SignatureRecord.from_json(stored.record)


async def test_a_bundle_has_the_certificate_and_all_that_foreign_verifiers_ask_for(world: SigningWorld) -> None:
    """Leaf, log entry and time-stamp; the leaf's key signed the artefact, and names the workflow."""
    record = await sign(world)
    bundle = (await world.fetch(next(one.url for one in record.bundles if one.kind == "message"))).json()
    material = bundle["verificationMaterial"]
    leaf = x509.load_der_x509_certificate(base64.b64decode(material["certificate"]["rawBytes"]))
    public_key = leaf.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    public_key.verify(base64.b64decode(bundle["messageSignature"]["signature"]), ARTEFACT, ec.ECDSA(hashes.SHA256()))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [WORKFLOW]
    assert len(material["tlogEntries"]) == len(material["timestampVerificationData"]["rfc3161Timestamps"]) == 1
    chain = x509.load_pem_x509_certificates((await world.fetch(record.urls["certificate_chain"])).content)
    assert chain[0] == leaf
    assert record.caller == f"oidc {BUILD.id}"


async def test_each_request_has_a_key_of_its_own(world: SigningWorld) -> None:
    """Which signer-hsm never hears of."""
    first, second = await sign(world), await sign(world)
    chains = [(await world.fetch(one.urls["certificate_chain"])).content for one in (first, second)]
    assert hashlib.sha256(chains[0]).digest() != hashlib.sha256(chains[1]).digest()


async def test_the_decision_comes_before_the_certificate(world: SigningWorld) -> None:
    """And is one about certificates."""
    await sign(world)
    (decision,) = await world.audit("sign_certificate.decision")
    assert [one["result"] for one in decision["answers"]] == ["allowed"]


async def test_certificates_are_for_oidc_callers_alone(world: SigningWorld) -> None:
    """Nobody else has an identity that an issuer vouches for; claims that make no name make no certificate."""
    with pytest.raises(IdentityNeededError):
        await sign(world, Caller("mtls", "spiffe://x/y", "acme"))
    with pytest.raises(CertificateIdentityError):
        await sign(world, replace(BUILD, claims={**BUILD.claims, "job_workflow_ref": "not a uri"}))
    assert "signature" not in world.commits


@pytest.mark.parametrize(
    ("fault", "learned"),
    [
        (CaUnavailableError("down"), SignerDownError),
        (CaRefusedError("forbidden", 403, "no"), SignerRefusedError),
    ],
)
async def test_a_ca_that_does_not_certify_is_told_apart(
    world: SigningWorld, issuer: FaultyIssuer, fault: Exception, learned: type[Exception]
) -> None:
    """Down is for later, a refusal is not; its words stay here."""
    issuer.fault = fault
    with pytest.raises(learned) as told:
        await sign(world)
    assert str(fault) not in str(told.value).split()
    assert "signature" not in world.commits


async def test_a_certificate_for_somebody_else_is_not_signed_with(world: SigningWorld, issuer: FaultyIssuer) -> None:
    """What verifiers would not believe is thrown away."""
    issuer.instead = CertificateIdentity("https://github.com/evil/app", None, GITHUB, {})
    with pytest.raises(BadSignerAnswerError):
        await sign(world)
    assert "signature" not in world.commits
