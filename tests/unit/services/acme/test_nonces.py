from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.acme.errors import AcmeError
from services.acme.nonces import LIFETIME, OwnNonces
from tests.support.clock import ManualClock


async def test_once_and_only_once() -> None:
    """A nonce is redeemed once; the second time it is bad."""
    nonces = OwnNonces(ManualClock())
    nonce = nonces.issue()
    await nonces.redeem(nonce)
    with pytest.raises(AcmeError, match="used before") as refused:
        await nonces.redeem(nonce)
    assert (refused.value.acme_type, refused.value.status) == ("badNonce", 400)


@pytest.mark.requirement("rfc8555-6.5-04")
@pytest.mark.parametrize("nonce", [None, "", "AAAA", "A" * 32, "A" * 31, "A" * 33, "ä", "A" * 10_000, "AAAAAAAAAAA="])
async def test_what_was_not_issued(nonce: str | None) -> None:
    """Made-up nonces are bad, whatever their form."""
    nonces = OwnNonces(ManualClock())
    nonces.issue()
    with pytest.raises(AcmeError, match="not issued"):
        await nonces.redeem(nonce)


async def test_other_processes() -> None:
    """A nonce of another process, or of the one before the last start, is bad."""
    with pytest.raises(AcmeError, match="before its last start"):
        await OwnNonces(ManualClock()).redeem(OwnNonces(ManualClock()).issue())


async def test_an_hour_and_no_longer() -> None:
    """A nonce is good for an hour after it was issued."""
    clock = ManualClock()
    nonces = OwnNonces(clock)
    early, late = nonces.issue(), nonces.issue()
    clock.advance(timedelta(seconds=LIFETIME - 1))
    await nonces.redeem(early)
    clock.advance(timedelta(seconds=1))
    with pytest.raises(AcmeError, match="too old") as refused:
        await nonces.redeem(late)
    assert refused.value.acme_type == "badNonce"


async def test_the_window_is_bounded() -> None:
    """Only the newest nonces are good; a slot that is used again does not remember its former nonce."""
    nonces = OwnNonces(ManualClock(), window=16)
    first = nonces.issue()
    second = nonces.issue()
    await nonces.redeem(second)
    issued = [nonces.issue() for _ in range(16)]
    with pytest.raises(AcmeError, match="too old"):
        await nonces.redeem(first)
    for nonce in issued:
        await nonces.redeem(nonce)
    for nonce in [second, *issued]:
        with pytest.raises(AcmeError):
            await nonces.redeem(nonce)


@pytest.mark.requirement("rfc8555-6.5-05")
@given(st.lists(st.integers(0, 40), max_size=120))
async def test_any_order_of_use(moves: list[int]) -> None:
    """However issuing and redeeming mix, every nonce is good at most once, and exactly while it is in the window."""
    nonces = OwnNonces(ManualClock(), window=8)
    issued: list[str] = []
    used: set[int] = set()
    for move in moves:
        if move >= len(issued):
            issued.append(nonces.issue())
            continue
        expected = move not in used and move >= len(issued) - 8
        if expected:
            await nonces.redeem(issued[move])
            used.add(move)
        else:
            with pytest.raises(AcmeError):
                await nonces.redeem(issued[move])


@given(st.binary(max_size=40), st.text(max_size=40))
async def test_noise(octets: bytes, text: str) -> None:
    """Noise is badNonce and nothing else."""
    nonces = OwnNonces(ManualClock())
    for nonce in (text, octets.hex()):
        with pytest.raises(AcmeError):
            await nonces.redeem(nonce)


@pytest.mark.requirement("rfc8555-6.5.1-01", "rfc8555-6.5.1-02")
def test_no_two_are_alike() -> None:
    """Nonces differ, and are base64url as RFC 8555 §6.5.1 wants them."""
    nonces = OwnNonces(ManualClock())
    issued = [nonces.issue() for _ in range(1000)]
    assert len(set(issued)) == 1000
    assert all(len(nonce) == 38 and nonce.replace("-", "a").replace("_", "a").isalnum() for nonce in issued)
