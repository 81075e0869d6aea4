"""A token whose place another one of its label has taken: on real SoftHSM2 tokens, through the service."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pkicore.clock import SystemClock
from services.signer_hsm.backends import Backend
from services.signer_hsm.backends.pkcs11 import open_backend
from services.signer_hsm.client import SignerClientError, SignerUnavailableError
from services.signer_hsm.wire import LifeCycleRequest
from tests.support.signer_world import CA, SignerWorld
from tests.support.softhsm import SoftHsm

DIGEST = hashlib.sha256(b"message").digest()
RECOVERY_SECONDS = 15


@pytest.fixture
async def backend(hsm: SoftHsm) -> AsyncIterator[Backend]:
    """The back end on it."""
    opened = await open_backend(hsm.settings(name="device"), clock=SystemClock())
    yield opened
    await opened.aclose()


@pytest.fixture
async def world(backend: Backend, tmp_path: Path) -> AsyncIterator[SignerWorld]:
    """The service over it, with one key."""
    opened = await SignerWorld.open(f"sqlite:///{tmp_path}/s.sqlite3", backend=backend, deadline=10.0)
    await opened.make("ca.issuing")
    await opened.client(CA).sign("ca.issuing", 1, "digest", DIGEST, "ES256")
    yield opened
    await opened.close()


async def comes_back(backend: Backend, serial: str) -> None:
    """The token with this serial number is the one in use within some seconds."""
    end = time.monotonic() + RECOVERY_SECONDS
    while (await backend.health()).detail.get("token_serial") != serial:
        assert time.monotonic() < end
        await asyncio.sleep(0.1)


async def replaced(hsm: SoftHsm, backend: Backend) -> tuple[str, str]:
    """Put a new token of the same label in the place of the one in use; the serial numbers of both."""
    was = str((await backend.health()).detail["token_serial"])
    hsm.tokens.rename(hsm.home / "away")
    hsm.tokens.mkdir(mode=0o700)
    hsm.add_token()
    end = time.monotonic() + RECOVERY_SECONDS
    while (present := str((await backend.health()).detail.get("token_serial", was))) == was:
        assert time.monotonic() < end
        await asyncio.sleep(0.1)
    return was, present


async def test_nothing_is_destroyed_by_a_token_that_never_had_it(
    world: SignerWorld, backend: Backend, hsm: SoftHsm
) -> None:
    """A key is elsewhere, not missing: that is said, nothing is proven, and with its token it is destroyed."""
    was, present = await replaced(hsm, backend)
    with pytest.raises(SignerUnavailableError, match=f"{was}, in whose place there is {present}"):
        await world.client(CA).sign("ca.issuing", 1, "digest", DIGEST, "ES256")
    health = (await world.client(CA).health()).backends["device"]
    assert (health["ready"], was in health["detail"]["reason"]) == (False, True)
    with pytest.raises(SignerUnavailableError, match=was):
        await world.client().destroy("ca.issuing", LifeCycleRequest("x"))
    assert (await world.client().key("ca.issuing")).versions[0].destruction is None
    await world.core.versions.sweep()
    assert (await world.client().key("ca.issuing")).state == "destroying"

    hsm.tokens.rename(hsm.home / "theirs")
    (hsm.home / "away").rename(hsm.tokens)
    await comes_back(backend, was)
    await world.core.versions.sweep()
    (gone,) = (await world.client().key("ca.issuing")).versions
    assert gone.destruction is not None
    assert (gone.state, gone.destruction.proof["objects_destroyed"]) == ("destroyed", 2)
    assert gone.evidence["token_serial"] == gone.destruction.proof["token_serial"] == was


async def test_what_the_right_token_does_not_have_is_gone(world: SignerWorld, backend: Backend) -> None:
    """Its own token's word that there is no such key is a proof, and a signature with it is refused as not found."""
    handle = world.core.store.catalogue.key("ca.issuing").versions[1].handle
    assert handle is not None
    await backend.destroy(handle)
    with pytest.raises(SignerClientError) as caught:
        await world.client(CA).sign("ca.issuing", 1, "digest", DIGEST, "ES256")
    assert caught.value.kind == "key-not-found"
    gone = await world.client().destroy("ca.issuing", LifeCycleRequest("x"))
    assert gone.versions[0].destruction is not None
    assert gone.versions[0].destruction.proof["objects_destroyed"] == 0
