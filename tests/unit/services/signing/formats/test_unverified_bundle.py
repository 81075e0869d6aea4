from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from pkicore.errors import MalformedError, UnsupportedError
from services.signing.formats import bundle
from services.signing.formats.unverified_bundle import UnverifiedBundle
from services.signing.statements import Subject, statement
from tests.support.sigstore_world import SigstoreWorld

ARTEFACT = b"release\n"
DIGEST = hashlib.sha256(ARTEFACT).digest()
STATEMENT = statement([Subject("app", {"sha256": DIGEST.hex()})], "https://cyclonedx.org/bom", b"{}")
VERSION_2 = "application/vnd.dev.sigstore.bundle+json;version=0.2"
MANY = [{"signedTimestamp": f"AA{n:02}"} for n in range(32)]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def message() -> bytes:
    """A message bundle in certificate mode."""
    return bundle.message_bundle(asyncio.run(SigstoreWorld().sign_message(ARTEFACT)), DIGEST)


@pytest.fixture(scope="module")
def attestation() -> bytes:
    """A bundle around an envelope."""
    return bundle.dsse_output("sbom", asyncio.run(SigstoreWorld().sign_statement(STATEMENT)), STATEMENT).content


def material(members: dict[str, Any]) -> dict[str, Any]:
    """The verification material of a bundle."""
    found: dict[str, Any] = members["verificationMaterial"]
    return found


def entry(members: dict[str, Any]) -> dict[str, Any]:
    """Its log entry."""
    found: dict[str, Any] = material(members)["tlogEntries"][0]
    return found


CHANGES: list[tuple[str, Change, type[Exception]]] = [
    (
        "another version",
        lambda m: m.update(mediaType=VERSION_2),
        UnsupportedError,
    ),
    ("no media type", lambda m: m.pop("mediaType"), UnsupportedError),
    ("no material", lambda m: m.pop("verificationMaterial"), MalformedError),
    ("two kinds of key", lambda m: material(m).update(publicKey={"hint": "x"}), MalformedError),
    ("no key", lambda m: material(m).pop("certificate"), MalformedError),
    ("a chain", lambda m: material(m).update(x509CertificateChain={"certificates": []}), UnsupportedError),
    ("a certificate that is none", lambda m: material(m)["certificate"].update(rawBytes="AAAA"), MalformedError),
    ("no content", lambda m: m.pop("messageSignature"), MalformedError),
    ("two contents", lambda m: m.update(dsseEnvelope={}), MalformedError),
    ("another hash", lambda m: m["messageSignature"]["messageDigest"].update(algorithm="SHA3_256"), UnsupportedError),
    ("no base64", lambda m: m["messageSignature"].update(signature="@"), MalformedError),
    ("loose bits", lambda m: m["messageSignature"].update(signature="AB=="), MalformedError),
    ("two entries", lambda m: material(m)["tlogEntries"].append(entry(m)), MalformedError),
    ("entries that are none", lambda m: material(m).update(tlogEntries={}), MalformedError),
    ("another kind of entry", lambda m: entry(m)["kindVersion"].update(kind="dsse"), UnsupportedError),
    ("another version of entry", lambda m: entry(m)["kindVersion"].update(version="0.0.1"), UnsupportedError),
    ("two indexes", lambda m: entry(m).update(logIndex="2"), MalformedError),
    ("a negative index", lambda m: entry(m).update(logIndex="-3"), MalformedError),
    ("an index that is no string", lambda m: entry(m).update(logIndex=3), MalformedError),
    ("an index of other digits", lambda m: entry(m).update(logIndex="\N{SUPERSCRIPT THREE}"), MalformedError),
    ("no proof", lambda m: entry(m).pop("inclusionProof"), MalformedError),
    ("no checkpoint", lambda m: entry(m)["inclusionProof"].pop("checkpoint"), MalformedError),
    ("too long a proof", lambda m: entry(m)["inclusionProof"].update(hashes=["AAAA"] * 65), MalformedError),
    ("the same time-stamp twice", lambda m: stamps(m).append(stamps(m)[0]), MalformedError),
    (
        "too many time-stamps",
        lambda m: stamps(m).extend(MANY),
        MalformedError,
    ),
    ("time-stamps that are none", lambda m: stamps(m).append("AAAA"), MalformedError),
]


def stamps(members: dict[str, Any]) -> list[Any]:
    """Its time-stamps."""
    found: list[Any] = material(members)["timestampVerificationData"]["rfc3161Timestamps"]
    return found


@pytest.mark.parametrize(("change", "error"), [one[1:] for one in CHANGES], ids=[one[0] for one in CHANGES])
def test_what_is_no_bundle_is_refused(message: bytes, change: Change, error: type[Exception]) -> None:
    """Each member is of its kind and there once, or the bundle is not read at all."""
    members = orjson.loads(message)
    change(members)
    with pytest.raises(error):
        UnverifiedBundle.parse(orjson.dumps(members))


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_malformed(data: bytes) -> None:
    """Bytes that are no JSON object are refused, however deep they are."""
    with pytest.raises(MalformedError):
        UnverifiedBundle.parse(data)


def test_a_member_twice_is_refused(message: bytes) -> None:
    """Readers differ on which of two equal members counts, so neither does."""
    twice = message[:-1] + b',"messageSignature":{"signature":"AAAA"}}'
    with pytest.raises(MalformedError, match="twice"):
        UnverifiedBundle.parse(twice)


def test_a_bundle_has_a_size_bound(attestation: bytes) -> None:
    """Nothing larger than the caller's bound is parsed."""
    UnverifiedBundle.parse(attestation, max_bytes=len(attestation))
    with pytest.raises(MalformedError, match="larger"):
        UnverifiedBundle.parse(attestation, max_bytes=len(attestation) - 1)


def test_an_envelope_with_two_signatures_is_refused(attestation: bytes) -> None:
    """A bundle is about one signature; which of two would count is a question that must not arise."""
    members = orjson.loads(attestation)
    members["dsseEnvelope"]["signatures"] *= 2
    with pytest.raises(UnsupportedError, match="one signature"):
        UnverifiedBundle.parse(orjson.dumps(members))


def test_an_index_of_zero_may_be_left_out(message: bytes) -> None:
    """Protobuf JSON leaves out what is zero: other writers' first entry is read all the same."""
    members = orjson.loads(message)
    del entry(members)["logIndex"], entry(members)["inclusionProof"]["logIndex"]
    assert UnverifiedBundle.parse(orjson.dumps(members)).log_entries[0].index == 0


def test_the_digest_may_be_left_out(message: bytes) -> None:
    """It is for identification alone, and other writers leave it out."""
    members = orjson.loads(message)
    del members["messageSignature"]["messageDigest"]
    content = UnverifiedBundle.parse(orjson.dumps(members)).content
    assert getattr(content, "digest_name", "") is None
