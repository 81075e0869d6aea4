"""What is kept and told: refused tokens, schemes that the caller left open, destructions that take time."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from services.signer_hsm.client import SignerClientError
from services.signer_hsm.decisions import REFUSALS_PER_SECOND
from services.signer_hsm.wire import LifeCycleRequest, SignRequest
from tests.support.signer_world import ADMIN, CA, SignerWorld

ONE = SignRequest("digest", (hashlib.sha256(b"message").digest(),))
JSON = {"content-type": "application/json"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SignerWorld]:
    """The service with a key, and a second that does not end."""
    opened = await SignerWorld.open(f"sqlite:///{tmp_path}/signer.sqlite3", monotonic=lambda: 0.0)
    await opened.make("ca.issuing")
    yield opened
    await opened.close()


async def test_a_refused_token_is_on_record(world: SignerWorld) -> None:
    """With the certificate that showed it, and what it was shown for, as far as the path says."""
    async with world.http(CA, authorization="Bearer a.b.c") as http:
        assert (await http.post("/v1/keys/ca.issuing/sign", content=ONE.to_json(), headers=JSON)).status_code == 403
        assert (await http.get("/v1/keys/ca.issuing")).status_code == 403
        assert (await http.get("/v1/keys?tenant=ca")).status_code == 403
    records = [item for item in await world.audit() if item["reason"] == "token"]
    assert [(item["act"], item["tenant"], item["key"]) for item in records] == [
        ("sign", "ca", "issuing"),
        ("show", "ca", "issuing"),
        ("list", "", None),
    ]
    assert {(item["result"], item["caller"], item["subject"]) for item in records} == {("refused", str(CA), None)}


async def test_refused_tokens_have_their_budget(world: SignerWorld) -> None:
    """Beyond it the caller is told to wait, and nothing more is verified or recorded."""
    async with world.http(CA, authorization="Bearer a.b.c") as http:
        answers = [(await http.get("/v1/keys/ca.issuing")).status_code for _ in range(REFUSALS_PER_SECOND + 5)]
    assert answers == [403] * REFUSALS_PER_SECOND + [429] * 5
    assert len([item for item in await world.audit() if item["reason"] == "token"]) == REFUSALS_PER_SECOND


async def test_the_record_names_the_scheme_that_was_used(world: SignerWorld) -> None:
    """Also where the request left it to the key."""
    await world.client(CA).sign_request("ca.issuing", ONE)
    assert (await world.audit())[-1]["scheme"] == "ES256"


async def test_a_key_that_signs_with_one_scheme_says_so(tmp_path: Path) -> None:
    """Its public key lists that one, it is the default, and another is refused before the back end is asked."""
    world = await SignerWorld.open(f"sqlite:///{tmp_path}/one.sqlite3")
    world.device.schemes["rsa-2048"] = ("PS256",)
    await world.make("ca.root", "rsa-2048")
    ca = world.client(CA)
    async with world.http(CA) as http:
        assert (await http.get("/v1/keys/ca.root/pubkey")).json()["schemes"] == ["PS256"]
    assert (await ca.sign_request("ca.root", ONE)).scheme == "PS256"
    asked = len(world.device.calls)
    with pytest.raises(SignerClientError) as caught:
        await ca.sign("ca.root", 1, "digest", ONE.payloads[0], "RS256")
    assert (caught.value.kind, len(world.device.calls)) == ("not-offered", asked)
    again = await world.reopen()
    assert (await again.client(CA).sign_request("ca.root", ONE)).scheme == "PS256"
    await again.close()


async def test_a_destruction_that_takes_time_is_asked_for_until_it_is_final(world: SignerWorld) -> None:
    """When its time is over, once in an hour, until the back end has its final proof; each answer is on record."""
    world.device.waits_until = world.clock.now() + timedelta(days=7)
    await world.client(ADMIN).destroy("ca.issuing", LifeCycleRequest("gone"))
    version = world.core.store.catalogue.key("ca.issuing").versions[1]
    assert version.state == "destroying"

    async def asked_in_sweeps(times: int) -> int:
        before = world.device.calls.count("destroy")
        for _ in range(times):
            await world.core.versions.sweep()
        return world.device.calls.count("destroy") - before

    assert await asked_in_sweeps(3) == 0
    world.clock.advance(timedelta(days=7, seconds=1))
    assert await asked_in_sweeps(3) == 1  # not quite over in the back end: the next time in an hour
    world.device.waits_until = None
    assert await asked_in_sweeps(3) == 0
    world.clock.advance(timedelta(hours=1, seconds=1))
    assert await asked_in_sweeps(3) == 1
    version = world.core.store.catalogue.key("ca.issuing").versions[1]
    assert version.state == "destroyed"
    assert version.destruction is not None
    assert version.destruction.final
