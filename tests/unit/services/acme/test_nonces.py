from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.acme.errors import AcmeError
from services.acme.nonces import Nonces


def test_once_and_only_once() -> None:
    """A nonce is redeemed once; the second time it is bad."""
    nonces = Nonces()
    nonce = nonces.issue()
    nonces.redeem(nonce)
    with pytest.raises(AcmeError, match="used before") as refused:
        nonces.redeem(nonce)
    assert (refused.value.acme_type, refused.value.status) == ("badNonce", 400)


@pytest.mark.requirement("rfc8555-6.5-04")
@pytest.mark.parametrize("nonce", [None, "", "AAAA", "A" * 32, "A" * 31, "A" * 33, "ä", "A" * 10_000, "AAAAAAAAAAA="])
def test_what_was_not_issued(nonce: str | None) -> None:
    """Made-up nonces are bad, whatever their form."""
    nonces = Nonces()
    nonces.issue()
    with pytest.raises(AcmeError, match="not issued"):
        nonces.redeem(nonce)


def test_other_processes() -> None:
    """A nonce of a process with another key is bad, with the same key good."""
    with pytest.raises(AcmeError):
        Nonces().redeem(Nonces().issue())
    key = bytes(32)
    one, two = Nonces(key=key), Nonces(key=key)
    two.issue()
    two.redeem(one.issue())


def test_not_before_it_is_issued() -> None:
    """A counter that is not reached yet is bad even with the right MAC."""
    key = bytes(32)
    ahead, behind = Nonces(key=key), Nonces(key=key)
    ahead.issue()
    with pytest.raises(AcmeError):
        behind.redeem(ahead.issue())


def test_the_window_is_bounded() -> None:
    """Only the newest nonces are good; a slot that is used again does not remember its former nonce."""
    nonces = Nonces(window=16)
    first = nonces.issue()
    second = nonces.issue()
    nonces.redeem(second)
    issued = [nonces.issue() for _ in range(16)]
    with pytest.raises(AcmeError, match="too old"):
        nonces.redeem(first)
    for nonce in issued:
        nonces.redeem(nonce)
    for nonce in [second, *issued]:
        with pytest.raises(AcmeError):
            nonces.redeem(nonce)


@pytest.mark.requirement("rfc8555-6.5-05")
@given(st.lists(st.integers(0, 40), max_size=120))
def test_any_order_of_use(moves: list[int]) -> None:
    """However issuing and redeeming mix, every nonce is good at most once, and exactly while it is in the window."""
    nonces = Nonces(window=8)
    issued: list[str] = []
    used: set[int] = set()
    for move in moves:
        if move >= len(issued):
            issued.append(nonces.issue())
            continue
        expected = move not in used and move >= len(issued) - 8
        if expected:
            nonces.redeem(issued[move])
            used.add(move)
        else:
            with pytest.raises(AcmeError):
                nonces.redeem(issued[move])


@given(st.binary(max_size=40), st.text(max_size=40))
def test_noise(octets: bytes, text: str) -> None:
    """Noise is badNonce and nothing else."""
    nonces = Nonces()
    for nonce in (text, octets.hex()):
        with pytest.raises(AcmeError):
            nonces.redeem(nonce)


@pytest.mark.requirement("rfc8555-6.5.1-01", "rfc8555-6.5.1-02")
def test_no_two_are_alike() -> None:
    """Nonces differ, and are base64url as RFC 8555 §6.5.1 wants them."""
    nonces = Nonces()
    issued = [nonces.issue() for _ in range(1000)]
    assert len(set(issued)) == 1000
    assert all(len(nonce) == 32 and nonce.replace("-", "a").replace("_", "a").isalnum() for nonce in issued)
