"""API keys: recognisable, hashed, narrowed, with an end; whoever guesses learns nothing."""

from __future__ import annotations

import hashlib
import math
import re
import zlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.signing.callers import (
    ApiKeyRecord,
    ApiKeyRuleError,
    ApiKeys,
    Caller,
    CredentialError,
    NewApiKey,
    Scopes,
    new_api_key,
)
from services.signing.callers.api_keys import MAX_LIFE_SECONDS, SCANNER_PATTERN, is_well_formed
from tests.support.clock import ManualClock

START = datetime(2030, 1, 1, 10, 20, tzinfo=UTC)
NOW = int(START.timestamp())
MAKER = Caller("mtls", "spiffe://test/operator/olga", "acme")
SIGN = Scopes(actions=frozenset({"sign"}), keys=frozenset({"release"}))


@dataclass
class MemoryStore:
    """Records in memory; what was asked and kept is counted."""

    records: dict[str, ApiKeyRecord] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    used: list[tuple[str, int]] = field(default_factory=list)

    def add(self, key: NewApiKey, **changes: Any) -> str:  # noqa: ANN401 - members of any type
        """Keep a key's record; answers the key."""
        self.records[key.record.id] = replace(key.record, **changes)
        return key.text

    async def find_api_key(self, key_id: str) -> ApiKeyRecord | None:
        """As ApiKeyStore has it."""
        self.asked.append(key_id)
        return self.records.get(key_id)

    async def api_key_used(self, key_id: str, at: int) -> None:
        """As ApiKeyStore has it."""
        self.used.append((key_id, at))
        self.records[key_id] = replace(self.records[key_id], last_used_at=at)


def made(scopes: Scopes = SIGN, life: int = 86_400) -> NewApiKey:
    """A new key."""
    return new_api_key(MAKER, scopes, life, NOW)


async def refusal(keys: ApiKeys, text: str) -> tuple[str, str]:
    """The word and the sentence with which a key is refused."""
    with pytest.raises(CredentialError) as refused:
        await keys.caller(text)
    return refused.value.reason, str(refused.value)


async def test_a_key_names_its_caller() -> None:
    """Tenant and scopes are the record's; the id is public."""
    store, key = MemoryStore(), made()
    caller = await ApiKeys(store, ManualClock(START)).caller(store.add(key))
    assert caller == Caller("api-key", key.record.id, "acme", scopes=SIGN, ends_at=NOW + 86_400)
    assert store.asked == [key.record.id]


def test_scanners_find_it() -> None:
    """The pattern finds a key in any text, and the checksum is CRC-32 in base 62 of all before it."""
    key = made()
    found = re.search(SCANNER_PATTERN, f"export KEY={key.text}; true")
    assert found is not None
    assert found[0] == key.text
    assert is_well_formed(key.text)
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number = 0
    for digit in key.text[-6:]:
        number = number * 62 + alphabet.index(digit)
    assert number == zlib.crc32(key.text[:-6].encode())


def test_the_secret_has_256_bits() -> None:
    """Forty-three digits of base 62 hold them all, the smallest and the largest number alike."""
    assert 62**43 > 2**256
    assert math.log2(62**43) < 257
    texts = {new_api_key(MAKER, SIGN, 60, NOW, fill).text for fill in (bytes, b"\xff".__mul__)}
    assert {len(text) for text in texts} == {74}
    assert len(texts) == 2
    assert len({made().text for _ in range(50)}) == 50


def test_the_secret_is_nowhere_but_in_the_text() -> None:
    """Neither a record nor a new key shows it when printed, and only its hash is kept."""
    key = made()
    secret = key.text.rsplit("_", 1)[1]
    assert secret not in repr(key)
    assert secret not in repr(key.record)
    assert key.record.key_sha256 == hashlib.sha256(key.text.encode()).digest()
    assert key.record.key_sha256.hex() not in repr(key)


async def test_an_unknown_id_and_a_wrong_secret_answer_alike() -> None:
    """The same word and sentence, after the same single look-up."""
    store, key, other = MemoryStore(), made(), made()
    store.add(key)
    keys = ApiKeys(store, ManualClock(START))
    head = other.text.replace(other.record.id, key.record.id)[:-6]
    wrong = head + new_checksum(head)
    assert await refusal(keys, wrong) == await refusal(keys, other.text) == ("unknown", "there is no such API key")
    assert store.asked == [key.record.id, other.record.id]
    assert store.used == []


def new_checksum(head: str) -> str:
    """The checksum that belongs to a forged key; anybody can make it."""
    alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number, digits = zlib.crc32(head.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = alphabet[digit] + digits
    return digits


async def test_a_record_under_another_id_is_not_enough() -> None:
    """A store that finds too much, say without regard to case, lets nobody in: the hash is over the id too."""
    store, key, other = MemoryStore(), made(), made()
    store.add(key)
    store.records[other.record.id] = key.record
    assert (await refusal(ApiKeys(store, ManualClock(START)), other.text))[0] == "unknown"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"revoked_at": NOW}, "revoked"),
        ({"revoked_at": NOW + 9999}, "revoked"),
        ({"expires_at": NOW}, "expired"),
        ({"expires_at": NOW - 1}, "expired"),
        ({"expires_at": NOW - 1, "revoked_at": NOW - 2}, "revoked"),
    ],
)
async def test_a_key_that_is_over(changes: dict[str, int], reason: str) -> None:
    """Its bearer is told which, and the use is not kept."""
    store = MemoryStore()
    text = store.add(made(), **changes)
    assert (await refusal(ApiKeys(store, ManualClock(START)), text))[0] == reason
    assert store.used == []


async def test_the_last_second_is_good() -> None:
    """A key ends at its end, not before."""
    store = MemoryStore()
    text = store.add(made(), expires_at=NOW + 1)
    assert (await ApiKeys(store, ManualClock(START)).caller(text)).tenant == "acme"


async def test_whoever_lacks_the_secret_does_not_learn_that_a_key_is_over() -> None:
    """A revoked key with a wrong secret is as unknown as any."""
    store, key = MemoryStore(), made()
    store.add(key, revoked_at=NOW)
    head = made().text.replace("_", f"_{key.record.id}_", 1)
    forged = f"pqcsign_{key.record.id}_{head.rsplit('_', 1)[1]}"[:-6]
    assert (await refusal(ApiKeys(store, ManualClock(START)), forged + new_checksum(forged)))[0] == "unknown"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1],
        lambda text: text + "0",
        lambda text: text[:-1] + ("0" if text[-1] != "0" else "1"),
        lambda text: text.swapcase(),
        lambda text: text.replace("pqcsign_", "pqcsign_'; DROP TABLE api_keys; --"),
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text[:8] + "٣" * 16 + text[24:],
        lambda text: text[:8],
        lambda text: text[:8] + "a" * 20_000,
    ],
)
async def test_what_is_no_key_is_never_looked_up(change: Any) -> None:  # noqa: ANN401 - a function
    """A cut or altered key costs no query."""
    store = MemoryStore()
    text = store.add(made())
    assert (await refusal(ApiKeys(store, ManualClock(START)), change(text)))[0] == "malformed"
    assert store.asked == []


async def test_the_last_use_is_kept_to_the_hour_and_once_an_hour() -> None:
    """A busy key does not write with each request."""
    store, clock = MemoryStore(), ManualClock(START)
    text, keys = store.add(made()), ApiKeys(store, clock)
    for _ in range(3):
        await keys.caller(text)
    clock.advance(timedelta(minutes=39, seconds=59))
    await keys.caller(text)
    clock.advance(timedelta(seconds=1))
    await keys.caller(text)
    hour = NOW - NOW % 3600
    assert [at for _, at in store.used] == [hour, hour + 3600]
    await ApiKeys(store, clock).caller(text)
    assert len(store.used) == 2


@pytest.mark.parametrize(
    ("maker", "scopes", "life"),
    [
        (MAKER, SIGN, 0),
        (MAKER, SIGN, MAX_LIFE_SECONDS + 1),
        (MAKER, Scopes(), 60),
        (MAKER, Scopes(keys=frozenset({"release"})), 60),
        (replace(MAKER, scopes=SIGN), Scopes(actions=frozenset({"sign"})), 60),
        (replace(MAKER, scopes=SIGN), Scopes(frozenset({"manage_api_keys"}), frozenset({"release"})), 60),
        (replace(MAKER, scopes=SIGN), Scopes(frozenset({"sign"}), frozenset({"release*"})), 60),
    ],
)
def test_keys_that_must_not_be_made(maker: Caller, scopes: Scopes, life: int) -> None:
    """No key without an end or without actions, and none that could do more than what it is made with."""
    with pytest.raises(ApiKeyRuleError):
        new_api_key(maker, scopes, life, NOW)


def test_a_key_that_a_key_makes_ends_with_it() -> None:
    """Not a second later, and it is on record which key made it; the sentence says what may be asked for."""
    maker = Caller("api-key", "a" * 16, "acme", ends_at=NOW + 3600)
    record = new_api_key(maker, SIGN, 3600, NOW).record
    assert (record.expires_at, record.made_by) == (NOW + 3600, maker.id)
    with pytest.raises(ApiKeyRuleError, match="a life of at most 3600 seconds"):
        new_api_key(maker, SIGN, 3601, NOW)
    with pytest.raises(ApiKeyRuleError, match="a life of at most 100 seconds"):
        new_api_key(maker, SIGN, 3600, NOW + 3500)


@pytest.mark.parametrize("kind", ["mtls", "oidc"])
def test_a_key_that_another_credential_makes_has_no_maker_to_end_with(kind: Any) -> None:  # noqa: ANN401 - a literal
    """Certificates and tokens are shown at the making alone."""
    record = new_api_key(Caller(kind, "somebody", "acme"), SIGN, MAX_LIFE_SECONDS, NOW).record
    assert (record.expires_at, record.made_by) == (NOW + MAX_LIFE_SECONDS, None)


def test_a_key_belongs_to_its_makers_tenant() -> None:
    """There is no way to ask for another."""
    record = new_api_key(replace(MAKER, tenant="bolt"), SIGN, 60, NOW).record
    assert (record.tenant, record.created_at, record.expires_at) == ("bolt", NOW, NOW + 60)
