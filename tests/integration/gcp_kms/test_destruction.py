"""Destroying keys in Cloud KMS when answers are lost, permissions are missing or somebody else has acted."""

from __future__ import annotations

from typing import Any

import pytest
from google.cloud import kms_v1

from services.signer_hsm.backends import Backend
from services.signer_hsm.errors import DeniedError, UnavailableError
from tests.support.gcp_kms_faults import LABEL, P256, sign
from tests.support.gcp_kms_simulator import GcpKmsSimulator


async def test_a_lost_answer_to_a_destruction_is_made_good_by_a_repetition(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """The repetition finds the destruction scheduled and reports it."""
    key = await backend.create(LABEL, P256)
    server.faults.lose_answer("DestroyCryptoKeyVersion")
    with pytest.raises(UnavailableError):
        await backend.destroy(key.handle)
    assert (await backend.destroy(key.handle)).proof["state"] == "DESTROY_SCHEDULED"
    assert server.requests["DestroyCryptoKeyVersion"] == 1


async def test_a_destruction_that_somebody_else_was_quicker_with(server: GcpKmsSimulator, backend: Backend) -> None:
    """Refused because it is scheduled already, the destruction is reported as it stands."""
    key = await backend.create(LABEL, P256)

    def meanwhile(answer: Any) -> Any:  # noqa: ANN401 - a message of any method
        server.resources.destroy_version(kms_v1.DestroyCryptoKeyVersionRequest(name=key.handle))
        return answer

    server.faults.change_next("UpdateCryptoKeyVersion", meanwhile)
    assert not (await backend.destroy(key.handle)).final


async def test_a_destruction_that_stops_half_way_leaves_the_key_disabled(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """Disabled comes first, so that a key whose destruction failed signs no more."""
    key = await backend.create(LABEL, P256)
    server.faults.denied = {"cloudkms.cryptoKeyVersions.destroy"}
    with pytest.raises(DeniedError):
        await backend.destroy(key.handle)
    assert not (await backend.load(key.handle)).enabled


async def test_a_key_that_the_operator_restored_is_disabled_until_it_is_enabled(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """RestoreCryptoKeyVersion is the operator's act; the service sees its outcome."""
    key = await backend.create(LABEL, P256)
    await backend.destroy(key.handle)
    server.resources.restore_version(kms_v1.RestoreCryptoKeyVersionRequest(name=key.handle))
    assert not (await backend.load(key.handle)).enabled
    await backend.set_enabled(key.handle, enabled=True)
    await sign(backend, key)
