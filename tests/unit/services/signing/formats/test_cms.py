from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pkicore.algorithms import ALGORITHMS, PrivateKey, algorithm_of, generate_private_key, sign_with
from pkicore.cms import UnverifiedSignedData, verify_detached
from pkicore.errors import BadSignatureError, MalformedError, UnsupportedError
from pkicore.tsp import MessageImprint, verify_token
from pkicore.x509.certificate import to_pem
from services.signing.formats import Output, SignedWith, cms
from tests.support.clock import ManualClock
from tests.support.openssl import openssl
from tests.support.sigstore_world import SigstoreWorld

ARTEFACT = b"\x00\x01release\r\n" * 1000
DIGESTS = {name: hashlib.new(name, ARTEFACT).digest() for name in ("sha256", "sha384", "sha512")}


async def files(world: SigstoreWorld, *names: str, stamped: bool = False) -> list[Output]:
    """What the service makes with keys of these algorithms."""
    keys = [generate_private_key(ALGORITHMS[name]) for name in names]
    now = world.clock.now()
    signers = [cms.prepare(f"default.{n}", world.certify(key), DIGESTS, now) for n, key in enumerate(keys)]
    pairs = zip(signers, keys, strict=True)
    return cms.outputs(signers, [await sign(world, signer, key, stamped=stamped) for signer, key in pairs])


async def sign(world: SigstoreWorld, signer: cms.PreparedSigner, key: PrivateKey, *, stamped: bool) -> SignedWith:
    """One key's part."""
    message = signer.to_sign.message
    assert message is not None
    signature = sign_with(key, message)
    timestamp = await world.timestamps.timestamp(signature) if stamped else None
    public_key = key.public_key()
    return SignedWith(signer.key_id, algorithm_of(public_key), public_key, signature, signer.chain, timestamp)


def openssl_verify(tmp_path: Path, world: SigstoreWorld, content: bytes, *more: str) -> str:
    """`openssl cms -verify` of a detached signature."""
    (tmp_path / "signature.p7s").write_bytes(content)
    (tmp_path / "artefact").write_bytes(ARTEFACT)
    (tmp_path / "root.pem").write_bytes(to_pem([world.root.certificate]))
    arguments: Sequence[str | Path] = (
        *("-verify", "-binary", "-inform", "DER", "-purpose", "any"),
        *("-in", tmp_path / "signature.p7s", "-content", tmp_path / "artefact"),
        *("-CAfile", tmp_path / "root.pem", "-out", tmp_path / "out"),
        *more,
    )
    return openssl("cms", *arguments, check=False)


@pytest.mark.parametrize("name", ["ecdsa-p256", "ecdsa-p384", "rsa-2048"])
async def test_openssl_verifies_the_classical_file(name: str, tmp_path: Path) -> None:
    """`openssl cms -verify` believes the file, with the root alone as trust: the issuing CA comes along."""
    world = SigstoreWorld()
    (output,) = await files(world, name)
    assert (output.name, output.media_type) == ("detached.p7s", "application/pkcs7-signature")
    assert "successful" in openssl_verify(tmp_path, world, output.content)


async def test_openssl_verifies_the_classical_file_beside_a_hybrid_one(tmp_path: Path) -> None:
    """A hybrid is two files; the second has the classical signer alone, which any OpenSSL believes."""
    world = SigstoreWorld()
    hybrid, classical = await files(world, "ecdsa-p256", "ml-dsa-65")
    assert (hybrid.name, classical.name) == ("detached.p7s", "detached-classical.p7s")
    assert "successful" in openssl_verify(tmp_path, world, classical.content)
    assert len(UnverifiedSignedData.parse(hybrid.content).signers) == 2


async def test_openssl_verifies_as_of_the_time_stamp_when_the_certificate_is_over(tmp_path: Path) -> None:
    """A certificate of ten minutes, an hour later: with -attime alone; the time is that of our verifier."""
    world = SigstoreWorld(clock=ManualClock((datetime.now(UTC) - timedelta(hours=1)).replace(microsecond=0)))
    key = generate_private_key(ALGORITHMS["ecdsa-p256"])
    prepared = cms.prepare("default.k", world.certify(key, timedelta(minutes=10)), DIGESTS, world.clock.now())
    (output,) = cms.outputs([prepared], [await sign(world, prepared, key, stamped=True)])
    (signer,) = UnverifiedSignedData.parse(output.content).signers
    assert len(signer.timestamp_tokens) == 1
    assert "successful" not in openssl_verify(tmp_path, world, output.content)
    at = str(int(world.clock.now().timestamp()))
    assert "successful" in openssl_verify(tmp_path, world, output.content, "-attime", at)


async def test_both_signers_of_a_hybrid_are_believed() -> None:
    """Our verifier finds both keys' signatures, over the digests that each of them needs."""
    hybrid, _ = await files(SigstoreWorld(), "ecdsa-p256", "ml-dsa-65")
    found = verify_detached(hybrid.content, ARTEFACT)
    assert {signer.algorithm.name for signer in found} == {"ecdsa-p256", "ml-dsa-65"}
    with pytest.raises(BadSignatureError, match="another content"):
        verify_detached(hybrid.content, ARTEFACT + b"\n")


async def test_time_stamps_go_along_unsigned() -> None:
    """The token over a signer's signature is among its unsigned attributes, where RFC 3161 puts it."""
    world = SigstoreWorld()
    (output,) = await files(world, "ecdsa-p256", stamped=True)
    (signer,) = verify_detached(output.content, ARTEFACT)
    (token,) = signer.timestamp_tokens
    imprint = MessageImprint.of("sha256", hashlib.sha256(signer.signature).digest())
    assert verify_token(token, imprint, authority=world.tsa.certificate).gen_time == world.clock.now()


async def test_no_root_is_sent_along() -> None:
    """The file brings the signer's certificate and the issuing CA's; a root would convince nobody."""
    world = SigstoreWorld()
    (output,) = await files(world, "ecdsa-p256")
    certificates = UnverifiedSignedData.parse(output.content).certificates
    assert world.issuing.certificate in certificates
    assert world.root.certificate not in certificates
    assert len(certificates) == 2


def test_a_key_without_certificate_has_no_cms() -> None:
    """The refusal names the key."""
    with pytest.raises(UnsupportedError, match=r"default\.k has none"):
        cms.prepare("default.k", (), DIGESTS, SigstoreWorld().clock.now())


@pytest.mark.parametrize(("name", "missing"), [("ecdsa-p256", "sha256"), ("ml-dsa-65", "sha512")])
def test_a_missing_digest_is_named(name: str, missing: str) -> None:
    """ML-DSA wants SHA-512 of the artefact (RFC 9882), P-256 SHA-256; without it there is no signature."""
    world = SigstoreWorld()
    chain = world.certify(generate_private_key(ALGORITHMS[name]))
    digests = {one: digest for one, digest in DIGESTS.items() if one != missing}
    with pytest.raises(UnsupportedError, match=missing):
        cms.prepare("default.k", chain, digests, world.clock.now())
    with pytest.raises(MalformedError):
        cms.prepare("default.k", chain, {**DIGESTS, missing: b"short"}, world.clock.now())


async def test_a_signature_of_another_key_never_leaves() -> None:
    """What the signer answers is verified with the certificate's key before anything is put together."""
    world = SigstoreWorld()
    key = generate_private_key(ALGORITHMS["ecdsa-p256"])
    prepared = cms.prepare("default.k", world.certify(key), DIGESTS, world.clock.now())
    other = generate_private_key(ALGORITHMS["ecdsa-p256"])
    with pytest.raises(BadSignatureError):
        cms.outputs([prepared], [await sign(world, prepared, other, stamped=False)])
