"""What is counted appears under the names that the alert rules use."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from services.signer_hsm.metrics import BREAKER_STATES, SignerMetrics


@pytest.fixture
def registry() -> CollectorRegistry:
    """An empty one."""
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> SignerMetrics:
    """All of them, in the registry."""
    return SignerMetrics(registry)


def test_latency(registry: CollectorRegistry, metrics: SignerMetrics) -> None:
    """Operations are timed per back end; 100 ms, the alert's bound, is a bucket's."""
    for seconds in (0.05, 0.09, 0.2):
        metrics.observe("hsm", "sign", seconds)
    labels = {"backend": "hsm", "operation": "sign"}
    assert registry.get_sample_value("signer_backend_seconds_count", labels) == 3
    assert registry.get_sample_value("signer_backend_seconds_bucket", {**labels, "le": "0.1"}) == 2


def test_failures_that_page_begin_at_zero(registry: CollectorRegistry, metrics: SignerMetrics) -> None:
    """A first bad answer is an increase from 0, which Prometheus would not see in a series that begins at 1."""
    labels = {"backend": "hsm", "operation": "sign", "class": "bad-answer"}
    assert registry.get_sample_value("signer_backend_failures_total", labels) is None
    metrics.expect("hsm", ["sign"])
    assert registry.get_sample_value("signer_backend_failures_total", labels) == 0
    metrics.failure("hsm", "sign", "bad-answer")
    assert registry.get_sample_value("signer_backend_failures_total", labels) == 1


def test_rotations_begin_at_zero(registry: CollectorRegistry, metrics: SignerMetrics) -> None:
    """The first rotation is an increase from 0, a failed one too."""
    for result in ("success", "failure"):
        assert registry.get_sample_value("signer_rotations_total", {"result": result}) == 0
    metrics.rotation("success")
    assert registry.get_sample_value("signer_rotations_total", {"result": "success"}) == 1


def test_pool_and_breaker_are_read_when_asked(registry: CollectorRegistry, metrics: SignerMetrics) -> None:
    """Pool use and breaker state are those of the moment of the scrape."""
    state, pool = ["closed"], [3, 1]
    metrics.pool("hsm", workers=4, in_use=lambda: pool[0], stuck=lambda: pool[1])
    metrics.breaker("hsm", lambda: state[0])
    for number, state[0] in enumerate(BREAKER_STATES):
        assert registry.get_sample_value("signer_breaker_state", {"backend": "hsm"}) == number
    pool[:] = [7, 2]
    assert registry.get_sample_value("signer_backend_in_use", {"backend": "hsm"}) == 7
    assert registry.get_sample_value("signer_backend_stuck_workers", {"backend": "hsm"}) == 2
    assert registry.get_sample_value("signer_backend_workers", {"backend": "hsm"}) == 4


def test_health_of_a_vault(registry: CollectorRegistry, metrics: SignerMetrics) -> None:
    """Seal and token time are shown for back ends that tell them; what is not told now keeps its last value."""
    metrics.health("vault", ready=False, detail={"sealed": True, "token_ttl_seconds": 12.5})
    metrics.health("hsm", ready=True, detail={"slot": 3})
    metrics.health("vault", ready=False, detail={"problem": "unavailable"})
    assert registry.get_sample_value("vault_sealed", {"backend": "vault"}) == 1
    assert registry.get_sample_value("vault_token_ttl_seconds", {"backend": "vault"}) == 12.5
    assert registry.get_sample_value("vault_sealed", {"backend": "hsm"}) is None
    assert registry.get_sample_value("signer_backend_ready", {"backend": "hsm"}) == 1
    assert registry.get_sample_value("signer_backend_ready", {"backend": "vault"}) == 0


def test_signatures_and_decisions(registry: CollectorRegistry, metrics: SignerMetrics) -> None:
    """A batch counts each of its signatures; decisions are counted by act and result."""
    metrics.signatures("hsm", "ES256", "success", 64)
    metrics.signatures("hsm", "ES256", "success")
    metrics.decision("sign", "refused")
    labels = {"backend": "hsm", "scheme": "ES256", "result": "success"}
    assert registry.get_sample_value("signer_signatures_total", labels) == 65
    assert registry.get_sample_value("signer_decisions_total", {"act": "sign", "result": "refused"}) == 1
    assert b"signer_decisions_total" in generate_latest(registry)
