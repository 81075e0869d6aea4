"""The time-stamp and the log entry of each signature, where its format has no place for them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pkicore.dsse import Envelope
from pkicore.tsp import MessageImprint, token_of, verify_token
from tests.support.signing_world import SigningWorld, request

ARTEFACTS = (b"one", b"two", b"three")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SigningWorld]:
    """The service, with a log and a time-stamping authority."""
    opened = await SigningWorld.open(tmp_path, witnesses=True)
    yield opened
    await opened.close()


async def require_stamped(world: SigningWorld, url: str | None, signature: bytes) -> None:
    """A time-stamp over these octets is served there."""
    assert url is not None
    token = token_of((await world.fetch(url)).content)
    imprint = MessageImprint.of("sha256", hashlib.sha256(signature).digest())
    verify_token(token, imprint, authority=world.timestamp_chain[0])


async def test_each_of_several_files_has_its_own_time_and_place(world: SigningWorld) -> None:
    """Three artefacts are three signatures, three time-stamps, three log entries; the record's own are the first."""
    record = await world.sign(request(*ARTEFACTS, profile="witnessed", formats=["raw", "dsse"]))
    assert [one.subject for one in record.signatures] == ["file-0", "file-1", "file-2"]
    for one in record.signatures:
        assert one.signature is not None
        await require_stamped(world, one.timestamp, one.signature)
    entries = [one.log_entry for one in record.signatures]
    assert len({(await world.fetch(url or "")).json()["logIndex"] for url in entries}) == len(ARTEFACTS)
    first = record.signatures[0]
    assert (record.urls["timestamp"], record.urls["log_entry"]) == (first.timestamp, first.log_entry)


async def test_an_envelope_names_a_time_and_a_place_for_each_of_its_signatures(world: SigningWorld) -> None:
    """In the order of the signatures of a hybrid; the envelopes with one signature name the same ones."""
    record = await world.sign(request(ARTEFACTS[0], profile="witnessed", formats=["dsse"]))
    hybrid, *singles = record.bundles
    envelope = Envelope.parse((await world.fetch(hybrid.url)).content)
    for url, signature in zip(hybrid.timestamps, envelope.signatures, strict=True):
        await require_stamped(world, url, signature.signature)
    assert len(set(hybrid.log_entries)) == 2
    assert tuple(url for one in singles for url in one.timestamps) == hybrid.timestamps
    assert tuple(url for one in singles for url in one.log_entries) == hybrid.log_entries


async def test_a_bundle_holds_them_itself(world: SigningWorld) -> None:
    """Nothing is named beside it."""
    record = await world.sign(request(ARTEFACTS[0], profile="witnessed", formats=["bundle"]))
    assert [(one.timestamps, one.log_entries) for one in record.bundles] == [((), ())] * len(record.bundles)


async def test_without_witnesses_none_are_named(world: SigningWorld) -> None:
    """Nor served."""
    record = await world.sign(request(ARTEFACTS[0], formats=["raw", "dsse"]))
    assert [(one.timestamp, one.log_entry) for one in record.signatures] == [(None, None)]
    assert not {"timestamp", "log_entry"} & record.urls.keys()
