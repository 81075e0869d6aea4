"""What the CA says of an account key holds for a while, and no longer."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from services.acme.accounts.blocked_keys import HOLDS_SECONDS, BlockedKeys, key_hash_of
from services.acme.errors import AcmeError
from services.ca.client import CaError, CaUnavailableError, ForbiddenError, KeyStatus

KEY = ec.generate_private_key(ec.SECP256R1()).public_key()


class Ca:
    """Simulates the CA: says what it is told to, or fails."""

    def __init__(self) -> None:
        self.says: bool | CaError = False
        self.certified = False
        self.asked = 0

    async def key_status(self, key_hash: str) -> KeyStatus:
        """As `CaClient.key_status`."""
        assert len(key_hash) == 64
        self.asked += 1
        if isinstance(self.says, CaError):
            raise self.says
        return KeyStatus(key_hash, self.says, self.certified)


class Orders:
    """Simulates the orders: none waits for the CA."""

    async def all(self) -> list[bytes]:
        """As `CsrsUnderWay.all`."""
        return []


class Time:
    """Seconds that pass when told to."""

    now = 100.0

    def __call__(self) -> float:
        """What monotonic says."""
        return self.now


async def test_an_answer_holds_for_half_a_minute() -> None:
    """One question in that time, and a block or its end shows after it."""
    ca, time = Ca(), Time()
    keys = BlockedKeys(ca, Orders(), time)
    await keys.refuse_account(KEY)
    ca.says = True
    time.now += HOLDS_SECONDS - 1
    await keys.refuse_account(KEY)
    assert ca.asked == 1
    time.now += 1
    with pytest.raises(AcmeError, match="block list") as caught:
        await keys.refuse_account(KEY)
    assert caught.value.acme_type == "unauthorized"
    ca.says = False
    time.now += HOLDS_SECONDS
    await keys.refuse_account(KEY)
    assert ca.asked == 3


async def test_a_blocked_account_stays_so_while_the_ca_is_away() -> None:
    """What was said last holds, the CA is asked every few seconds only, and nothing is issued on it."""
    ca, time = Ca(), Time()
    ca.says = True
    keys = BlockedKeys(ca, Orders(), time)
    with pytest.raises(AcmeError):
        await keys.refuse_account(KEY)
    ca.says = CaUnavailableError("away")
    time.now += HOLDS_SECONDS
    for _ in range(5):
        with pytest.raises(AcmeError):
            await keys.refuse_account(KEY)
    assert ca.asked == 2


async def test_the_key_of_a_certificate_makes_no_account() -> None:
    """It is a bad public key; an account that has it already goes on."""
    ca = Ca()
    ca.certified = True
    keys = BlockedKeys(ca, Orders(), Time())
    with pytest.raises(AcmeError, match="key of a certificate") as caught:
        await keys.refuse_new(KEY)
    assert caught.value.acme_type == "badPublicKey"
    await keys.refuse_account(KEY)


async def test_an_older_policy_file_is_told_of() -> None:
    """A CA that does not let the server ask: accounts work as before, and the log names the line that is missing."""
    ca = Ca()
    ca.says = ForbiddenError("forbidden", 403, "the policy does not allow this caller to call this endpoint")
    keys = BlockedKeys(ca, Orders(), Time())
    with capture_logs() as logs:
        await keys.refuse_new(KEY)
        await keys.refuse_account(KEY)
    assert [entry["endpoint"] for entry in logs] == ["GET /v1/blocked-keys/{key_hash}"]


async def test_the_number_of_known_keys_is_bounded() -> None:
    """Strangers with ever new keys push out the oldest answers, and fill no memory."""
    ca = Ca()
    keys = BlockedKeys(ca, Orders(), Time(), remembered=2)
    await keys.refuse_account(KEY)
    for _ in range(2):
        await keys.refuse_new(ec.generate_private_key(ec.SECP256R1()).public_key())
    await keys.refuse_account(KEY)
    assert ca.asked == 4


async def test_a_key_that_is_given_up_is_asked_about_afresh() -> None:
    """What the CA said a moment ago is not enough, and without its answer the key stays."""
    ca = Ca()
    keys = BlockedKeys(ca, Orders(), Time())
    await keys.refuse_account(KEY)
    ca.says = CaUnavailableError("away")
    with pytest.raises(AcmeError, match="cannot be asked") as away:
        await keys.refuse_old(key_hash_of(KEY))
    ca.says = True
    with pytest.raises(AcmeError, match="block list") as blocked:
        await keys.refuse_old(key_hash_of(KEY))
    assert (away.value.acme_type, blocked.value.acme_type) == ("serverInternal", "unauthorized")
