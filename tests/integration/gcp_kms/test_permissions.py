"""Which permissions of Cloud KMS are needed, and what happens without them."""

from __future__ import annotations

import pytest

from services.signer_hsm.backends import Backend, KeyLabel
from services.signer_hsm.errors import DeniedError
from tests.support.gcp_kms_faults import LABEL, P256, opened, sign
from tests.support.gcp_kms_simulator import GcpKmsSimulator


async def test_denied_is_typed_and_ends_when_the_permission_comes(server: GcpKmsSimulator, backend: Backend) -> None:
    """A missing permission is the service's own trouble, and its return needs no restart."""
    key = await backend.create(LABEL, P256)
    server.faults.denied = {"cloudkms.cryptoKeyVersions.useToSign", "cloudkms.keyRings.list"}
    with pytest.raises(DeniedError) as caught:
        await sign(backend, key)
    assert "useToSign" not in str(caught.value)
    health = await backend.health()
    assert (health.ready, health.detail["problem"]) == (False, "denied")
    server.faults.denied = set()
    await sign(backend, key)


LEAST = frozenset(
    f"cloudkms.{permission}"
    for permission in (
        "keyRings.create",
        "keyRings.list",
        "cryptoKeys.create",
        "cryptoKeys.get",
        "cryptoKeyVersions.get",
        "cryptoKeyVersions.update",
        "cryptoKeyVersions.destroy",
        "cryptoKeyVersions.viewPublicKey",
        "cryptoKeyVersions.useToSign",
    )
)


async def test_the_documented_permissions_are_enough_and_each_is_needed(server: GcpKmsSimulator) -> None:
    """The role in docs/operations/gcp-kms.md is enough for every operation, and none of its permissions is too many."""

    async def life(name: str) -> bool:
        async with opened(server) as backend:
            label = KeyLabel(name, "issuing", 1)
            key = await backend.create(label, P256)
            await sign(backend, key)
            assert await backend.find(label)
            await backend.attest(key.handle)
            await backend.set_enabled(key.handle, enabled=False)
            await backend.destroy(key.handle)
            return (await backend.health()).ready

    server.faults.granted = LEAST
    assert await life("all")
    for number, permission in enumerate(sorted(LEAST)):
        server.faults.granted = LEAST - {permission}
        try:
            assert not await life(f"tenant-{number}"), permission
        except DeniedError:
            continue


async def test_signing_alone_needs_two_permissions(server: GcpKmsSimulator, backend: Backend) -> None:
    """A process that only signs gets along with `get` and `useToSign`."""
    key = await backend.create(LABEL, P256)
    async with opened(server) as signer:
        server.faults.granted = frozenset({"cloudkms.cryptoKeyVersions.get", "cloudkms.cryptoKeyVersions.useToSign"})
        await sign(signer, key)
