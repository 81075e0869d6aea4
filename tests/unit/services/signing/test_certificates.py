from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from pkicore.algorithms import Payload, verify_signature
from pkicore.cms.der import UTF8_STRING
from pkicore.encoding import tlv
from pkicore.errors import BadCertificateError, BadSignatureError, PkiError, ProofError, UnsupportedError
from pkicore.x509.csr import UnverifiedCsr
from services.signing.callers.certificate_identity import CertificateIdentity
from services.signing.certificates import EphemeralKey, certified_key
from services.signing.formats import raw
from services.signing.verification import Identity, WrongIdentityError, check_identity
from tests.support.sigstore_world import GITHUB, IDENTITY, WORKFLOW, SigstoreWorld

ARTEFACT = b"release\n"
DIGEST = hashlib.sha256(ARTEFACT).digest()
ARC = "1.3.6.1.4.1.57264.1"
IDP = "https://idp.acme.test"
EMAIL = CertificateIdentity(None, "ci@acme.test", IDP, {f"{ARC}.8": IDP})
OTHER = tlv(UTF8_STRING, b"https://evil.test")


@dataclass
class Answering:
    """A CA that answers the same whatever it is asked.

    Attributes:
        pem: the answer, or the error instead of one.
    """

    pem: bytes | Exception

    async def issue(self, csr: bytes, identity: CertificateIdentity) -> bytes:
        """The answer."""
        assert csr
        assert identity.extensions
        if isinstance(self.pem, Exception):
            raise self.pem
        return self.pem


async def refuse(world: SigstoreWorld, identity: CertificateIdentity = IDENTITY, ca: Answering | None = None) -> None:
    """Whatever is raised instead of handing out a key."""
    async with certified_key(identity, ca or world, world.trusted_root, world.clock):
        pytest.fail("a key was handed out that nobody would believe")


@pytest.mark.parametrize("identity", [IDENTITY, EMAIL], ids=["workflow", "e-mail"])
async def test_a_key_comes_with_a_certificate_of_the_identity(identity: CertificateIdentity) -> None:
    """The leaf is for this key and says this identity; the chain ends below the root."""
    world = SigstoreWorld()
    async with certified_key(identity, world, world.trusted_root, world.clock) as key:
        assert key.chain[0].public_key() == key.public_key
        assert key.chain[1:] == (world.issuing.certificate,)
        check_identity(key.chain[0], Identity(identity.san_uri or identity.san_email or "", identity.issuer))
        raw.verify(key.public_key, await key.sign_reduced("digest", DIGEST), {"sha256": DIGEST})
        verify_signature(key.public_key, await key.sign(ARTEFACT), ARTEFACT)
        reduction = await key.reduction()
        reduction.update(ARTEFACT)
        assert reduction.payload() == DIGEST


async def test_the_key_is_dropped_with_the_block() -> None:
    """After the request nothing can be signed with it any more, and no text of it ever shows more than its hash."""
    world = SigstoreWorld()
    async with certified_key(IDENTITY, world, world.trusted_root, world.clock) as key:
        pass
    for attempt in (key.sign(ARTEFACT), key.sign_reduced("digest", DIGEST)):
        with pytest.raises(UnsupportedError, match="dropped"):
            await attempt
    assert not any(isinstance(value, ec.EllipticCurvePrivateKey) for value in vars(key).values())


async def test_a_failing_block_drops_the_key_too() -> None:
    """Whatever goes wrong in between, the key does not outlive the request."""
    world = SigstoreWorld()
    held: list[EphemeralKey] = []

    async def fail() -> None:
        async with certified_key(IDENTITY, world, world.trusted_root, world.clock) as key:
            held.append(key)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    with pytest.raises(UnsupportedError):
        await held[0].sign(ARTEFACT)


async def test_each_request_has_a_key_of_its_own() -> None:
    """Two requests of one identity share neither key nor certificate."""
    world = SigstoreWorld()
    async with (
        certified_key(IDENTITY, world, world.trusted_root, world.clock) as one,
        certified_key(IDENTITY, world, world.trusted_root, world.clock) as other,
    ):
        assert one.public_key != other.public_key
        assert one.chain[0] != other.chain[0]


@pytest.mark.parametrize("identity", [IDENTITY, EMAIL], ids=["workflow", "e-mail"])
def test_the_request_proves_possession_and_asks_for_the_one_name(identity: CertificateIdentity) -> None:
    """The CSR is one that the CA's own reader verifies: empty subject, one name, nothing else."""
    key = EphemeralKey()
    csr = UnverifiedCsr.parse(key.request(identity)).verify()
    assert csr.public_key == key.public_key
    assert (csr.names.uri, csr.names.email) == (
        (identity.san_uri,) if identity.san_uri else (),
        (identity.san_email,) if identity.san_email else (),
    )
    assert csr.subject == x509.Name([])


async def test_other_payloads_are_not_signed() -> None:
    """An ephemeral key signs SHA-256 digests and messages; what else it is given is refused."""
    key = EphemeralKey()
    wrong: list[tuple[Payload, bytes]] = [("digest", bytes(20)), ("digest", bytes(64)), ("mu", bytes(64))]
    for kind, payload in (*wrong, ("message", DIGEST)):
        with pytest.raises(UnsupportedError):
            await key.sign_reduced(kind, payload)


@pytest.mark.parametrize(
    ("alter", "error"),
    [
        ({f"{ARC}.8": OTHER}, WrongIdentityError),
        ({f"{ARC}.8": None}, BadCertificateError),
        ({f"{ARC}.8": GITHUB.encode()}, WrongIdentityError),
        ({f"{ARC}.12": OTHER}, BadCertificateError),
        ({f"{ARC}.15": None}, BadCertificateError),
        ({f"{ARC}.16": OTHER}, BadCertificateError),
        ({f"{ARC}.1": b"https://evil.test"}, BadCertificateError),
    ],
    ids=["other issuer", "no issuer", "raw issuer", "other claim", "claim left out", "claim added", "other old issuer"],
)
async def test_a_certificate_that_says_something_else_is_not_signed_with(
    alter: dict[str, bytes | None], error: type[Exception]
) -> None:
    """The identity in the certificate is exactly the one that was asked for: no claim more, less or other."""
    with pytest.raises(error):
        await refuse(SigstoreWorld(alter=alter))


async def test_the_deprecated_issuer_may_be_missing() -> None:
    """Extension .1 repeats the issuer for old verifiers; a CA that leaves it out is believed all the same."""
    world = SigstoreWorld(alter={f"{ARC}.1": None})
    async with certified_key(IDENTITY, world, world.trusted_root, world.clock) as key:
        assert key.chain


async def test_a_certificate_for_somebody_else_is_refused() -> None:
    """A CA that answers another name than was asked for is not believed."""
    world = SigstoreWorld()
    with pytest.raises(WrongIdentityError):
        async with certified_key(
            replace(IDENTITY, san_uri=f"{WORKFLOW}x"), Renaming(world), world.trusted_root, world.clock
        ):
            pytest.fail("another's certificate was taken")


@dataclass
class Renaming:
    """A CA that ignores the name in the request and certifies another."""

    world: SigstoreWorld

    async def issue(self, csr: bytes, identity: CertificateIdentity) -> bytes:
        """A certificate for the key of the request, in the name of the usual workflow."""
        public_key = x509.load_der_x509_csr(csr).public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        return self.world.certify_as(public_key, x509.UniformResourceIdentifier(WORKFLOW), identity)


async def test_a_certificate_for_another_key_is_refused() -> None:
    """An answer to somebody else's request is not taken for one's own."""
    world = SigstoreWorld()
    other = await world.issue(EphemeralKey().request(IDENTITY), IDENTITY)
    with pytest.raises(BadCertificateError, match="another key"):
        await refuse(world, ca=Answering(other))


async def test_a_certificate_without_the_log_s_timestamp_is_refused() -> None:
    """Without an SCT in it, verifiers would not believe it: so nothing is signed with it."""
    with pytest.raises(ProofError):
        await refuse(SigstoreWorld(with_sct=False))


async def test_a_timestamp_of_an_unknown_log_is_refused() -> None:
    """Likewise where the log is not the one that verifiers are told of."""
    world = SigstoreWorld()
    root = replace(world.trusted_root, ct_logs=SigstoreWorld().trusted_root.ct_logs)
    with pytest.raises(ProofError):
        async with certified_key(IDENTITY, world, root, world.clock):
            pytest.fail("a certificate was taken that no trusted log knows")


async def test_a_certificate_of_an_unknown_ca_is_refused() -> None:
    """A CA that verifiers are not told of certifies nobody."""
    world = SigstoreWorld()
    root = replace(world.trusted_root, authorities=SigstoreWorld().trusted_root.authorities)
    with pytest.raises(BadCertificateError):
        async with certified_key(IDENTITY, world, root, world.clock):
            pytest.fail("an unknown CA was believed")


async def test_a_certificate_that_lives_long_is_refused() -> None:
    """A key that is dropped at once needs no certificate of a day, which nobody could revoke in time."""
    with pytest.raises(BadCertificateError, match="at most"):
        await refuse(SigstoreWorld(lifetime=timedelta(hours=2)))


@pytest.mark.parametrize("pem", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_an_answer_that_is_no_chain_is_refused(pem: bytes) -> None:
    """Whatever the CA answers is read like a stranger's."""
    with pytest.raises(PkiError):
        await refuse(SigstoreWorld(), ca=Answering(pem))


async def test_what_the_ca_refuses_is_the_caller_s_to_see() -> None:
    """The CA's own error goes through unchanged."""
    with pytest.raises(BadSignatureError, match="as it was"):
        await refuse(SigstoreWorld(), ca=Answering(BadSignatureError("as it was")))
