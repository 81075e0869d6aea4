"""Sigstore bundles v0.3 in protobuf JSON: one signature with what an offline verifier needs to believe it.

In certificate mode the leaf is in the bundle, in key mode a hint which key it is (base64 of the SHA-256 of its
SubjectPublicKeyInfo). `keyid` of an envelope stays empty: cosign passes over a signature whose `keyid` is not the SSH
fingerprint of the key. A bundle has one signature only: hybrids are two bundles.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.dsse import IN_TOTO_PAYLOAD, key_hint
from pkicore.errors import UnsupportedError
from services.signing.formats import Output, SignedWith, short_name
from services.signing.formats.dsse import envelope_chunks
from services.signing.formats.key_details import hash_name

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"


def message_output(signed: SignedWith, digest: bytes, number: int = 1) -> Output:
    """A bundle about an artefact, as a file.

    Args:
        signed: over the artefact.
        digest: of the artefact, under the hash of the key's algorithm.
        number: the subject's place among those of the request, from 1.

    Raises:
        UnsupportedError: the algorithm signs no digests.
    """
    suffix = "" if number == 1 else f"-{number}"
    name = f"message-{short_name(signed.algorithm)}{suffix}.sigstore.json"
    return Output(name, MEDIA_TYPE, message_bundle(signed, digest))


def message_bundle(signed: SignedWith, digest: bytes) -> bytes:
    """A bundle about an artefact; its digest is there for identification alone.

    Raises:
        UnsupportedError: the algorithm signs no digests.
    """
    signature_hash = signed.algorithm.signature_hash
    if signature_hash is None:
        raise UnsupportedError(f"a bundle about an artefact's digest is not made with {signed.algorithm.name}")
    content = {
        "messageDigest": {"algorithm": hash_name(signature_hash.name), "digest": _text(digest)},
        "signature": _text(signed.signature),
    }
    return orjson.dumps({**_head(signed), "messageSignature": content})


def dsse_output(kind: str, signed: SignedWith, payload: bytes, payload_type: str = IN_TOTO_PAYLOAD) -> Output:
    """A bundle around an envelope with one signature, as a file: `KIND-ALG.sigstore.json`."""
    content = b"".join(dsse_chunks(signed, [payload], payload_type))
    return Output(f"{kind}-{short_name(signed.algorithm)}.sigstore.json", MEDIA_TYPE, content)


def dsse_chunks(signed: SignedWith, payload: Iterable[bytes], payload_type: str = IN_TOTO_PAYLOAD) -> Iterator[bytes]:
    """A bundle around an envelope in pieces, for payloads that come in pieces."""
    yield orjson.dumps(_head(signed))[:-1] + b',"dsseEnvelope":'
    yield from envelope_chunks([signed], payload, payload_type, named=False)
    yield b"}"


def _head(signed: SignedWith) -> dict[str, Any]:
    material: dict[str, Any] = {}
    if signed.certificate_chain:
        material["certificate"] = {"rawBytes": _text(signed.certificate_chain[0].public_bytes(Encoding.DER))}
    else:
        material["publicKey"] = {"hint": key_hint(signed.public_key)}
    material["tlogEntries"] = [] if signed.log_entry is None else [signed.log_entry.members()]
    if signed.timestamp is not None:
        material["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": _text(signed.timestamp)}]}
    return {"mediaType": MEDIA_TYPE, "verificationMaterial": material}


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()
