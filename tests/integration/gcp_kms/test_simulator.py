"""The simulator of Cloud KMS refuses what the real service refuses: one test for each check that it makes."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import google_crc32c
import grpc
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import kms_v1

from services.signer_hsm.backends.gcp_kms.channel import open_client
from tests.support.backend_gcp_kms import resources_of, settings_for
from tests.support.clock import ManualClock
from tests.support.gcp_kms_resources import Code, Format, Level, RefusalError, State
from tests.support.gcp_kms_simulator import GcpKmsSimulator, ServiceAccount, simulator

LOCATION = "projects/test/locations/europe-west3"
RING = f"{LOCATION}/keyRings/ring"
KEY = f"{RING}/cryptoKeys/key"
VERSION = f"{KEY}/cryptoKeyVersions/1"
Name = kms_v1.CryptoKeyVersion.CryptoKeyVersionAlgorithm
Purpose = kms_v1.CryptoKey.CryptoKeyPurpose
SHA256 = bytes(32)


@dataclass
class Place:
    """A simulator, a client of it, and its time."""

    server: GcpKmsSimulator
    client: kms_v1.KeyManagementServiceAsyncClient
    clock: ManualClock

    async def ask(self, method: str, **request: Any) -> Any:  # noqa: ANN401 - a message of any method
        """One request, without repetition."""
        return await getattr(self.client, method)(request=request, retry=None, timeout=5)

    async def refused(self, code: grpc.StatusCode, method: str, **request: Any) -> None:  # noqa: ANN401 - fields of any message
        """The request is refused with this status."""
        with pytest.raises(GoogleAPICallError) as caught:
            await self.ask(method, **request)
        assert caught.value.grpc_status_code is code, caught.value

    async def make(self, algorithm: int = Name.EC_SIGN_P256_SHA256, **changes: Any) -> None:  # noqa: ANN401 - fields of any message
        """The key KEY with one version, in a ring of its own."""
        await self.ask("create_key_ring", parent=LOCATION, key_ring_id="ring", key_ring={})
        await self.ask("create_crypto_key", parent=RING, crypto_key_id="key", crypto_key=key_of(algorithm, **changes))

    async def sign(self, **changes: Any) -> Any:  # noqa: ANN401 - fields of any message
        """Sign a digest that fits a P-256 key."""
        return await self.ask("asymmetric_sign", **({"name": VERSION, "digest": {"sha256": SHA256}} | changes))


def key_of(algorithm: int = Name.EC_SIGN_P256_SHA256, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of any message
    """A crypto key that is accepted but for the changes."""
    return {"purpose": Purpose.ASYMMETRIC_SIGN, "version_template": {"algorithm": algorithm}} | changes


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    """An empty simulator."""
    clock = ManualClock()
    async with simulator(resources_of(clock)) as server:
        client = await open_client(settings_for(server))
        yield Place(server, client, clock)
        await client.transport.close()  # type: ignore[no-untyped-call]  # the SDK annotates no result


async def test_rings(place: Place) -> None:
    """Rings need a known location and a good id, and are made once."""
    await place.refused(Code.NOT_FOUND, "create_key_ring", parent="projects/x/locations/y", key_ring_id="ring")
    await place.refused(Code.NOT_FOUND, "list_key_rings", parent="projects/x/locations/y")
    for bad in ("", "a b", "x" * 64):
        await place.refused(Code.INVALID_ARGUMENT, "create_key_ring", parent=LOCATION, key_ring_id=bad)
    await place.make()
    await place.refused(Code.ALREADY_EXISTS, "create_key_ring", parent=LOCATION, key_ring_id="ring")


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": Purpose.ENCRYPT_DECRYPT},
        {"purpose": Purpose.CRYPTO_KEY_PURPOSE_UNSPECIFIED},
        {"version_template": {}},
        {"version_template": {"algorithm": Name.GOOGLE_SYMMETRIC_ENCRYPTION}},
        {"version_template": {"algorithm": Name.EC_SIGN_P256_SHA256, "protection_level": Level.EXTERNAL}},
        {"version_template": {"algorithm": Name.PQ_SIGN_ML_DSA_65, "protection_level": Level.HSM}},
        {"labels": {"Upper": "x"}},
        {"labels": {"name": "UPPER"}},
        {"labels": {f"l{number}": "" for number in range(65)}},
        {"rotation_period": timedelta(days=90)},
        {"destroy_scheduled_duration": timedelta(hours=23)},
        {"destroy_scheduled_duration": timedelta(days=121)},
    ],
)
async def test_fields_of_a_key(place: Place, changes: dict[str, Any]) -> None:
    """Purpose, algorithm, level, labels, rotation and destruction window have rules."""
    await place.ask("create_key_ring", parent=LOCATION, key_ring_id="ring", key_ring={})
    request = {"parent": RING, "crypto_key_id": "key", "crypto_key": key_of(**changes)}
    await place.refused(Code.INVALID_ARGUMENT, "create_crypto_key", **request)


async def test_names_of_keys(place: Place) -> None:
    """A key needs a ring and a good id, is made once, and is found by its name only."""
    await place.refused(Code.NOT_FOUND, "create_crypto_key", parent=RING, crypto_key_id="key", crypto_key=key_of())
    await place.make()
    for bad in ("", "a.b", "x" * 64):
        request = {"parent": RING, "crypto_key_id": bad, "crypto_key": key_of()}
        await place.refused(Code.INVALID_ARGUMENT, "create_crypto_key", **request)
    await place.refused(Code.ALREADY_EXISTS, "create_crypto_key", parent=RING, crypto_key_id="key", crypto_key=key_of())
    await place.refused(Code.NOT_FOUND, "get_crypto_key", name=f"{RING}/cryptoKeys/other")
    for method in ("get_crypto_key_version", "get_public_key", "destroy_crypto_key_version"):
        await place.refused(Code.NOT_FOUND, method, name=f"{KEY}/cryptoKeyVersions/2")
    await place.refused(Code.INVALID_ARGUMENT, "get_crypto_key_version", name=KEY)


async def test_versions_are_numbered_and_made_enabled(place: Place) -> None:
    """Numbers count up; the only initial state that may be asked for is ENABLED; a missing key has none."""
    await place.make()
    made = await place.ask("create_crypto_key_version", parent=KEY, crypto_key_version={})
    assert made.name == f"{KEY}/cryptoKeyVersions/2"
    bad = {"state": State.DISABLED}
    await place.refused(Code.INVALID_ARGUMENT, "create_crypto_key_version", parent=KEY, crypto_key_version=bad)
    await place.refused(Code.NOT_FOUND, "create_crypto_key_version", parent=f"{KEY}x", crypto_key_version={})


async def test_pages(place: Place) -> None:
    """Lists come in pages in the order of their names as text; tokens that it did not give out are refused."""
    await place.make()
    for _ in range(11):
        await place.ask("create_crypto_key_version", parent=KEY, crypto_key_version={})
    pager = await place.ask("list_crypto_key_versions", parent=KEY, page_size=5)
    numbers = [version.name.rpartition("/")[2] async for version in pager]
    assert numbers == sorted(numbers)
    assert len(numbers) == 12
    assert place.server.requests["ListCryptoKeyVersions"] == 3
    for bad in ({"page_token": "x"}, {"page_token": "OTk="}, {"page_size": -1}):
        await place.refused(Code.INVALID_ARGUMENT, "list_crypto_key_versions", parent=KEY, **bad)


async def test_the_attestation_comes_in_the_full_view_and_for_hsm_keys_only(place: Place) -> None:
    """A list without FULL has none, nor has a key in software."""
    await place.make(version_template={"algorithm": Name.EC_SIGN_P256_SHA256, "protection_level": Level.HSM})
    (basic,) = [version async for version in await place.ask("list_crypto_key_versions", parent=KEY)]
    view = kms_v1.CryptoKeyVersion.CryptoKeyVersionView.FULL
    (full,) = [version async for version in await place.ask("list_crypto_key_versions", parent=KEY, view=view)]
    assert not basic.attestation
    assert full.attestation.content
    await place.ask("create_crypto_key", parent=RING, crypto_key_id="soft", crypto_key=key_of())
    soft = await place.ask("get_crypto_key_version", name=f"{RING}/cryptoKeys/soft/cryptoKeyVersions/1")
    assert soft.protection_level == Level.SOFTWARE
    assert not soft.attestation


async def test_states_change_only_as_they_may(place: Place) -> None:
    """ENABLED and DISABLED to each other and to DESTROY_SCHEDULED, thence to DISABLED, from DESTROYED nowhere."""
    await place.make()
    await place.refused(Code.FAILED_PRECONDITION, "restore_crypto_key_version", name=VERSION)
    await place.ask("destroy_crypto_key_version", name=VERSION)
    await place.refused(Code.FAILED_PRECONDITION, "destroy_crypto_key_version", name=VERSION)
    await place.refused(Code.FAILED_PRECONDITION, "update_crypto_key_version", **_update(State.ENABLED))
    restored = await place.ask("restore_crypto_key_version", name=VERSION)
    assert restored.state == State.DISABLED
    assert restored.destroy_time is None
    await place.ask("update_crypto_key_version", **_update(State.ENABLED))
    await place.ask("destroy_crypto_key_version", name=VERSION)
    place.clock.advance(timedelta(days=30))
    gone = await place.ask("get_crypto_key_version", name=VERSION)
    assert gone.state == State.DESTROYED
    assert gone.destroy_event_time == place.clock.now()
    for method in ("restore_crypto_key_version", "destroy_crypto_key_version", "get_public_key"):
        await place.refused(Code.FAILED_PRECONDITION, method, name=VERSION)


def _update(state: int, path: str = "state") -> dict[str, Any]:
    return {"crypto_key_version": {"name": VERSION, "state": state}, "update_mask": {"paths": [path]}}


async def test_updates_are_of_the_state_between_two_values(place: Place) -> None:
    """Another mask, or another state, is refused."""
    await place.make()
    await place.refused(Code.INVALID_ARGUMENT, "update_crypto_key_version", **_update(State.DISABLED, "algorithm"))
    await place.refused(Code.INVALID_ARGUMENT, "update_crypto_key_version", **_update(State.DESTROYED))
    no_mask = {"crypto_key_version": {"name": VERSION, "state": State.DISABLED}}
    await place.refused(Code.INVALID_ARGUMENT, "update_crypto_key_version", **no_mask)


async def test_the_window_of_a_destruction_is_the_keys_own(place: Place) -> None:
    """A key made with another window is destroyed after that."""
    await place.make(destroy_scheduled_duration=timedelta(days=7))
    scheduled = await place.ask("destroy_crypto_key_version", name=VERSION)
    assert scheduled.destroy_time == place.clock.now() + timedelta(days=7)


@pytest.mark.parametrize("state", [State.PENDING_GENERATION, State.DISABLED, State.DESTROY_SCHEDULED])
async def test_only_enabled_versions_sign_and_show_their_public_key(place: Place, state: int) -> None:
    """In every other state both are refused."""
    place.server.resources.pending_reads = 100
    await place.make()
    place.server.resources.rings[RING][KEY].versions[1].message.state = State(state)
    if state == State.DESTROY_SCHEDULED:
        message = place.server.resources.rings[RING][KEY].versions[1].message
        message.destroy_time = place.clock.now() + timedelta(days=1)
    await place.refused(Code.FAILED_PRECONDITION, "asymmetric_sign", name=VERSION, digest={"sha256": SHA256})
    await place.refused(Code.FAILED_PRECONDITION, "get_public_key", name=VERSION)


async def test_formats_of_public_keys(place: Place) -> None:
    """PQC keys come only in a format that is asked for; NIST_PQC is for them alone."""
    await place.make(Name.PQ_SIGN_ML_DSA_44_EXTERNAL_MU)
    await place.refused(Code.INVALID_ARGUMENT, "get_public_key", name=VERSION)
    await place.refused(Code.INVALID_ARGUMENT, "get_public_key", name=VERSION, public_key_format=Format.DER)
    raw = await place.ask("get_public_key", name=VERSION, public_key_format=Format.NIST_PQC)
    assert len(raw.public_key.data) == 1312
    assert raw.pem == ""
    await place.ask("create_crypto_key", parent=RING, crypto_key_id="ec", crypto_key=key_of())
    name = f"{RING}/cryptoKeys/ec/cryptoKeyVersions/1"
    await place.refused(Code.INVALID_ARGUMENT, "get_public_key", name=name, public_key_format=Format.NIST_PQC)


@pytest.mark.parametrize(
    ("algorithm", "request_fields"),
    [
        (Name.EC_SIGN_P256_SHA256, {}),
        (Name.EC_SIGN_P256_SHA256, {"digest": {"sha256": bytes(31)}}),
        (Name.EC_SIGN_P256_SHA256, {"digest": {"sha384": bytes(48)}}),
        (Name.EC_SIGN_P256_SHA256, {"data": b"message"}),
        (Name.EC_SIGN_P256_SHA256, {"digest": {"sha256": SHA256}, "data": b"message"}),
        (Name.EC_SIGN_P384_SHA384, {"digest": {"sha256": SHA256}}),
        (Name.RSA_SIGN_PSS_2048_SHA256, {"digest": {"sha512": bytes(64)}}),
        (Name.EC_SIGN_ED25519, {"digest": {"sha256": SHA256}}),
        (Name.EC_SIGN_ED25519, {"data": bytes(64 * 1024 + 1)}),
        (Name.PQ_SIGN_ML_DSA_44, {"digest": {"external_mu": bytes(64)}}),
        (Name.PQ_SIGN_ML_DSA_44_EXTERNAL_MU, {"data": b"message"}),
        (Name.PQ_SIGN_ML_DSA_44_EXTERNAL_MU, {"digest": {"external_mu": bytes(63)}}),
        (Name.PQ_SIGN_ML_DSA_44_EXTERNAL_MU, {"digest": {"sha512": bytes(64)}}),
    ],
)
async def test_payloads_that_do_not_fit_the_algorithm(
    place: Place, algorithm: int, request_fields: dict[str, Any]
) -> None:
    """Each algorithm takes one field of one length, and never two fields."""
    await place.make(algorithm)
    await place.refused(Code.INVALID_ARGUMENT, "asymmetric_sign", name=VERSION, **request_fields)


async def test_checksums(place: Place) -> None:
    """A wrong checksum is refused; the flag says whether there was one to compare; the other field's does not count."""
    await place.make()
    right = google_crc32c.value(SHA256)
    request = {"name": VERSION, "digest": {"sha256": SHA256}, "digest_crc32c": right + 1}
    await place.refused(Code.INVALID_ARGUMENT, "asymmetric_sign", **request)
    assert (await place.sign(digest_crc32c=right)).verified_digest_crc32c
    assert not (await place.sign()).verified_digest_crc32c
    answer = await place.sign(data_crc32c=right)
    assert not answer.verified_data_crc32c
    assert answer.signature_crc32c == google_crc32c.value(answer.signature)


async def test_permissions(place: Place) -> None:
    """A method without its permission is denied, and only that one; a list of grants leaves out the rest."""
    await place.make()
    place.server.faults.denied = {"cloudkms.cryptoKeyVersions.useToSign"}
    await place.refused(Code.PERMISSION_DENIED, "asymmetric_sign", name=VERSION, digest={"sha256": SHA256})
    await place.ask("get_public_key", name=VERSION)
    place.server.faults.denied = set()
    place.server.faults.granted = frozenset({"cloudkms.cryptoKeyVersions.useToSign"})
    await place.sign()
    await place.refused(Code.PERMISSION_DENIED, "get_public_key", name=VERSION)


async def test_methods_that_it_does_not_have(place: Place) -> None:
    """What is not simulated is not implemented, so that nothing seems to work."""
    await place.refused(Code.UNIMPLEMENTED, "import_crypto_key_version", parent=KEY)
    await place.refused(Code.UNIMPLEMENTED, "encrypt", name=KEY)


def _token(key: rsa.RSAPrivateKey, **claims: Any) -> str:  # noqa: ANN401 - claims of any type
    given = {"iss": "me", "exp": time.time() + 60, "scope": "https://www.googleapis.com/auth/cloudkms"} | claims
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "RS256"}, given)]
    signature = key.sign(b".".join(parts), padding.PKCS1v15(), hashes.SHA256())
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def test_tokens() -> None:
    """A token must be there, signed by the account's key, by the account, for KMS, and in time."""
    key = rsa.generate_private_key(65537, 2048)
    account = ServiceAccount("me", key.public_key())
    account.check({"authorization": f"Bearer {_token(key)}"}, "127.0.0.1")
    account.check({"authorization": f"Bearer {_token(key, scope='', aud='https://127.0.0.1:1/')}"}, "127.0.0.1")
    stranger = rsa.generate_private_key(65537, 2048)
    for bad in (
        "",
        "Bearer x",
        f"Basic {_token(key)}",
        f"Bearer {_token(stranger)}",
        f"Bearer {_token(key, iss='you')}",
        f"Bearer {_token(key, exp=time.time() - 1)}",
        f"Bearer {_token(key, scope='https://www.googleapis.com/auth/drive')}",
        f"Bearer {_token(key, scope='', aud='https://storage.test/')}",
    ):
        with pytest.raises(RefusalError) as caught:
            account.check({"authorization": bad}, "127.0.0.1")
        assert caught.value.code is Code.UNAUTHENTICATED
    with pytest.raises(RefusalError):
        account.check({}, "127.0.0.1")
