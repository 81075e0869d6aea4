"""Answers of Cloud KMS that are corrupted, garbled or about something else are not believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import google_crc32c
import pytest
from google.cloud import kms_v1
from prometheus_client import CollectorRegistry

from pkicore.algorithms import ALGORITHMS
from services.signer_hsm.backends import Backend, KeyLabel
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.errors import BackendError, BadAnswerError
from services.signer_hsm.metrics import SignerMetrics
from tests.support.backend_gcp_kms import settings_for
from tests.support.gcp_kms_faults import LABEL, P256, altered, sign
from tests.support.gcp_kms_resources import Code
from tests.support.gcp_kms_simulator import Failure, GcpKmsSimulator

CORRUPTIONS: dict[str, Callable[[Any], Any]] = {
    "another version's name": altered(name="projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/2"),
    "no name": altered(name=""),
    "a wrong checksum": altered(signature_crc32c=1),
    "no checksum": altered(signature_crc32c=None),
    "a bit flipped on the way": lambda answer: altered(signature=answer.signature[:-1] + b"!")(answer),
    "a payload whose checksum was not compared": altered(verified_digest_crc32c=False),
    "the other flag": altered(verified_digest_crc32c=False, verified_data_crc32c=True),
    "another protection level": altered(protection_level=kms_v1.ProtectionLevel.SOFTWARE),
    "an empty message": lambda _answer: kms_v1.AsymmetricSignResponse(),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
async def test_a_corrupted_answer_is_asked_for_once_more_and_then_refused(
    server: GcpKmsSimulator, backend: Backend, corruption: str
) -> None:
    """One bad answer is repaired by one repetition; two in a row are a bad answer, and there is no third request."""
    key = await backend.create(LABEL, P256)
    server.faults.change_next("AsymmetricSign", CORRUPTIONS[corruption])
    await sign(backend, key)
    assert server.requests["AsymmetricSign"] == 2
    server.faults.change_next("AsymmetricSign", CORRUPTIONS[corruption], 2)
    with pytest.raises(BadAnswerError):
        await sign(backend, key)
    assert server.requests["AsymmetricSign"] == 4


async def test_octets_that_are_no_message_are_a_bad_answer(server: GcpKmsSimulator, backend: Backend) -> None:
    """Garbage instead of a message is a bad answer for every operation, and the next request works."""
    key = await backend.create(LABEL, P256)
    server.faults.change_next("AsymmetricSign", lambda _answer: b"\xff\xff garbage", 2)
    server.faults.change_next("GetCryptoKeyVersion", lambda _answer: b"\xff\xff garbage")
    with pytest.raises(BadAnswerError, match="no message"):
        await sign(backend, key)
    with pytest.raises(BadAnswerError, match="no message"):
        await backend.load(key.handle)
    await sign(backend, key)


async def test_a_status_that_contradicts_itself_is_a_bad_answer(server: GcpKmsSimulator, backend: Backend) -> None:
    """Details that do not fit their status make the SDK stumble; the caller sees a bad answer, not the SDK's error."""
    key = await backend.create(LABEL, P256)
    failure = Failure(Code.RESOURCE_EXHAUSTED, 2, "AsymmetricSign", retry_delay=1.0, words="something else")
    server.faults.failures.append(failure)
    with pytest.raises(BadAnswerError, match="makes no sense"):
        await sign(backend, key)
    await sign(backend, key)


async def test_an_answer_without_end_is_not_read(server: GcpKmsSimulator, backend: Backend) -> None:
    """An answer larger than the limit is refused by the channel, typed, without being taken into memory."""
    key = await backend.create(LABEL, P256)
    server.faults.change_next("AsymmetricSign", altered(signature=bytes(2 * 1024 * 1024)))
    with pytest.raises(BackendError):
        await sign(backend, key)
    await sign(backend, key)


async def test_a_wrong_signature_with_the_right_checksum_is_caught_by_verifying(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """Checksums do not tell a signature by another key: the verification that the settings ask for does."""
    key = await backend.create(LABEL, P256)
    other = await backend.create(KeyLabel("ca", "other", 1), P256)
    wrong = await sign(backend, other)
    server.faults.change_next("AsymmetricSign", altered(signature=wrong, signature_crc32c=google_crc32c.value(wrong)))
    guarded = GuardedBackend(backend, settings_for(server), SignerMetrics(CollectorRegistry()))
    with pytest.raises(BadAnswerError):
        await sign(guarded, key)
    await sign(guarded, key)
    await guarded.aclose()


@pytest.mark.parametrize(
    "change",
    [
        altered(name="projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/2"),
        altered(pem_crc32c=1),
        altered(pem_crc32c=None),
        altered(pem="garbage", pem_crc32c=google_crc32c.value(b"garbage")),
        altered(algorithm=kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm.EC_SIGN_P384_SHA384),
        altered(protection_level=kms_v1.ProtectionLevel.SOFTWARE),
    ],
)
async def test_a_corrupted_public_key_is_refused(
    server: GcpKmsSimulator, backend: Backend, change: Callable[[Any], Any]
) -> None:
    """A public key is believed after the same checks; once corrupted it is asked for again, twice it is refused."""
    server.faults.change_next("GetPublicKey", change, 2)
    with pytest.raises(BadAnswerError):
        await backend.create(LABEL, P256)
    server.faults.change_next("GetPublicKey", change)
    assert (await backend.create(LABEL, P256)).enabled


async def test_the_public_key_of_another_curve_is_refused(server: GcpKmsSimulator, backend: Backend) -> None:
    """A well-formed key of another algorithm than the version's is a bad answer."""
    other = await backend.create(KeyLabel("ca", "other", 1), ALGORITHMS["ecdsa-p384"])
    request = kms_v1.GetPublicKeyRequest(name=other.handle)
    pem = server.resources.public_key(request).pem
    change = altered(pem=pem, pem_crc32c=google_crc32c.value(pem.encode()))
    server.faults.change_next("GetPublicKey", change, 2)
    with pytest.raises(BadAnswerError, match="another algorithm"):
        await backend.create(LABEL, P256)


async def test_an_answer_about_another_version_is_refused(server: GcpKmsSimulator, backend: Backend) -> None:
    """Evidence, state and attestation of another version are not taken for this one's."""
    key = await backend.create(LABEL, P256)
    for act in (backend.load, backend.attest):
        server.faults.change_next("GetCryptoKeyVersion", altered(name=f"{key.handle}1"))
        with pytest.raises(BadAnswerError):
            await act(key.handle)
