from __future__ import annotations

import base64
import hashlib
from dataclasses import replace

import orjson
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from sigstore_models.bundle.v1 import Bundle

from pkicore.algorithms import ALGORITHMS, generate_private_key, sign_with
from pkicore.dsse import IN_TOTO_PAYLOAD, Envelope, key_hint, pae
from pkicore.errors import UnsupportedError
from services.signing.formats import SignedWith, bundle
from services.signing.formats.unverified_bundle import MessageSignature, UnverifiedBundle
from services.signing.statements import Subject, statement
from tests.support.sigstore_world import SigstoreWorld

ARTEFACT = b"release\n"
DIGEST = hashlib.sha256(ARTEFACT).digest()
STATEMENT = statement(
    [Subject("app", {"sha256": DIGEST.hex()})], "https://cyclonedx.org/bom", b'{"bomFormat":"CycloneDX"}'
)


def with_key(name: str = "ecdsa-p256", message: bytes = ARTEFACT) -> SignedWith:
    """A signature in key mode, neither stamped nor logged."""
    key = generate_private_key(ALGORITHMS[name])
    return SignedWith("default.k", ALGORITHMS[name], key.public_key(), sign_with(key, message))


def test_a_bundle_in_key_mode_has_a_hint() -> None:
    """The hint is base64 of the SHA-256 of the key; there is no certificate, and no evidence that was not made."""
    signed = with_key()
    members = orjson.loads(bundle.message_bundle(signed, DIGEST))
    assert members == {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": key_hint(signed.public_key)}, "tlogEntries": []},
        "messageSignature": {
            "messageDigest": {"algorithm": "SHA2_256", "digest": base64.b64encode(DIGEST).decode()},
            "signature": base64.b64encode(signed.signature).decode(),
        },
    }


async def test_a_bundle_in_certificate_mode_has_the_leaf_alone() -> None:
    """Leaf, log entry and time-stamp are in the bundle; the CA's certificates are the trusted root's affair."""
    signed = await SigstoreWorld().sign_message(ARTEFACT)
    read = Bundle.from_json(bundle.message_bundle(signed, DIGEST)).verification_material
    assert read.certificate is not None
    assert read.certificate.raw_bytes == signed.certificate_chain[0].public_bytes(Encoding.DER)
    assert len(read.tlog_entries) == 1
    assert read.timestamp_verification_data is not None
    assert [one.signed_timestamp for one in read.timestamp_verification_data.rfc3161_timestamps] == [signed.timestamp]


@pytest.mark.parametrize("name", ["ml-dsa-65", "ed25519"])
def test_algorithms_that_sign_no_digest_have_no_message_bundle(name: str) -> None:
    """Such a bundle could be verified by nobody who has the digest alone."""
    with pytest.raises(UnsupportedError, match=name):
        bundle.message_bundle(with_key(name), DIGEST)


@pytest.mark.parametrize("name", ["ecdsa-p256", "ecdsa-p384", "rsa-2048", "ml-dsa-65"])
def test_an_envelope_in_a_bundle_is_read_by_sigstore_s_models(name: str) -> None:
    """The envelope has one signature with an empty keyid: cosign passes over names that it does not know."""
    signed = with_key(name, pae(IN_TOTO_PAYLOAD, STATEMENT))
    read = Bundle.from_json(bundle.dsse_output("sbom", signed, STATEMENT).content)
    assert read.dsse_envelope is not None
    assert read.dsse_envelope.payload == STATEMENT
    assert [(one.sig, one.keyid) for one in read.dsse_envelope.signatures] == [(signed.signature, "")]


async def test_a_payload_in_pieces_makes_the_same_bundle() -> None:
    """However a large SBOM is cut, the bundle is the one of the whole."""
    signed = await SigstoreWorld().sign_statement(STATEMENT)
    whole = bundle.dsse_output("sbom", signed, STATEMENT).content
    for size in (1, 5, 64):
        pieces = (STATEMENT[start : start + size] for start in range(0, len(STATEMENT), size))
        assert b"".join(bundle.dsse_chunks(signed, pieces)) == whole


async def test_our_reader_reads_what_we_write() -> None:
    """Nothing is lost between writing and reading, in either mode and with either content."""
    world = SigstoreWorld()
    message, attestation = await world.sign_message(ARTEFACT), await world.sign_statement(STATEMENT)
    read = UnverifiedBundle.parse(bundle.message_bundle(message, DIGEST))
    assert read.certificate == message.certificate_chain[0]
    assert read.hint is None
    assert read.content == MessageSignature("sha256", DIGEST, message.signature)
    assert read.timestamps == (message.timestamp,)
    assert message.log_entry is not None
    assert [(one.index, one.body) for one in read.log_entries] == [(3, message.log_entry.canonical_body)]
    read = UnverifiedBundle.parse(
        bundle.dsse_output("sbom", replace(attestation, certificate_chain=()), STATEMENT).content
    )
    assert read.hint == key_hint(attestation.public_key)
    assert isinstance(read.content, Envelope)
    assert read.content.payload == STATEMENT
    assert read.signature == attestation.signature


def test_files_are_named_after_content_and_algorithm() -> None:
    """`.sigstore.json` is what clients look for; several subjects have a number each."""
    signed = with_key()
    assert bundle.message_output(signed, DIGEST).name == "message-es256.sigstore.json"
    assert bundle.message_output(signed, DIGEST, 3).name == "message-es256-3.sigstore.json"
    output = bundle.dsse_output("provenance", with_key("ml-dsa-65"), STATEMENT)
    assert (output.name, output.media_type) == ("provenance-ml-dsa-65.sigstore.json", bundle.MEDIA_TYPE)
