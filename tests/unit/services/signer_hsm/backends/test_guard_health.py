"""What a guard counts, and what it tells of the back end's health."""

from __future__ import annotations

import asyncio

import pytest

from services.signer_hsm.backends import BackendHealth
from services.signer_hsm.errors import (
    BackendError,
    BusyError,
    DeadlineError,
    DeniedError,
    UnavailableError,
)
from tests.support.guarded import Guarded, for_ever

SHORT = 0.05


async def test_metrics_of_an_operation() -> None:
    """Latency, failures by class, pool use and signatures are counted per back end."""
    made = Guarded(workers=3)
    made.backend.script = [None, DeniedError("x")]
    await made.sign()
    with pytest.raises(DeniedError):
        await made.sign()
    assert made.sample("signer_backend_seconds_count", operation="sign") == 2
    assert made.sample("signer_backend_failures_total", operation="sign", **{"class": "denied"}) == 1
    assert made.sample("signer_signatures_total", scheme="ES256", result="success") == 1
    assert made.sample("signer_signatures_total", scheme="ES256", result="failure") == 1
    assert made.sample("signer_backend_workers") == 3
    assert made.sample("signer_backend_in_use") == 0


async def test_refused_calls_do_not_count_as_quick_ones() -> None:
    """What never reached the back end is a failure, but no latency of the back end."""
    made = Guarded(breaker_failures=1)
    made.backend.script = [DeadlineError("x")]
    for _ in range(5):
        with pytest.raises((DeadlineError, UnavailableError)):
            await made.sign()
    assert made.sample("signer_backend_seconds_count", operation="sign") == 1
    assert made.sample("signer_backend_failures_total", operation="sign", **{"class": "unavailable"}) == 4


async def test_health_is_asked_once_for_all() -> None:
    """Those who ask within a second share one answer, which the metrics keep."""
    made = Guarded()
    made.backend.state = BackendHealth(False, {"sealed": True, "token_ttl_seconds": 42})
    answers = await asyncio.gather(*(made.guard.health() for _ in range(20)))
    assert made.backend.calls == ["health"]
    assert {answer.ready for answer in answers} == {False}
    assert made.sample("vault_sealed") == 1
    assert made.sample("vault_token_ttl_seconds") == 42
    assert made.sample("signer_backend_ready") == 0
    made.now += 1
    made.backend.state = BackendHealth(True, {"sealed": False})
    health = await made.guard.health()
    assert health.ready
    assert health.detail == {"sealed": False, "breaker": "closed"}
    assert made.sample("vault_sealed") == 0
    assert made.sample("signer_backend_ready") == 1


@pytest.mark.parametrize(
    ("error", "ready"), [(UnavailableError("x"), False), (DeniedError("x"), False), (BusyError("x"), True)]
)
async def test_health_never_raises(error: BackendError, ready: bool) -> None:  # noqa: FBT001 - a table's column
    """A back end that cannot be asked is not ready; one that is merely busy is."""
    made = Guarded()
    made.backend.script = [error]
    health = await made.guard.health()
    assert (health.ready, health.detail["problem"]) == (ready, error.cause)


async def test_health_has_a_deadline() -> None:
    """A back end that does not answer the question is not ready."""
    made = Guarded(deadline_seconds=SHORT)
    made.backend.script = [for_ever]
    health = await made.guard.health()
    assert (health.ready, health.detail["problem"]) == (False, "deadline")
