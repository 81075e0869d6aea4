import asyncio
import contextvars
import json
import logging
from collections.abc import Iterator
from datetime import timedelta

import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from services.chassis.log_budget import LINES
from services.chassis.observability import (
    TlsMetrics,
    begin_request,
    configure_logging,
    current_request_id,
    note,
    redact,
)
from tests.support.clock import ManualClock


class Output:
    """What was written to standard output."""

    def __init__(self, captured: pytest.CaptureFixture[bytes]) -> None:
        self._captured = captured

    def text(self) -> str:
        """Since the last look."""
        return self._captured.readouterr().out.decode()

    def lines(self) -> list[dict[str, object]]:
        """The same, as JSON lines."""
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def output(capsysbinary: pytest.CaptureFixture[bytes]) -> Iterator[Output]:
    """Catches standard output; logging is as before afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Output(capsysbinary)
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_is_one_json_object_with_service_level_and_time(output: Output) -> None:
    """Line ends and quotes inside values cannot forge a line."""
    configure_logging("bakery", "info", "json")
    structlog.get_logger("x").info("bread\nsold", buyer='"}\n{"level":"error"')
    (line,) = output.lines()
    assert (line["service"], line["level"], line["event"]) == ("bakery", "info", "bread\nsold")
    assert str(line["time"]).endswith("Z")


def test_lines_below_the_level_are_not_written(output: Output) -> None:
    """At warning, info is silent."""
    configure_logging("bakery", "warning", "json")
    structlog.get_logger("x").info("bread sold")
    assert output.lines() == []


def test_what_is_known_of_a_request_stands_in_every_line_of_its_task(output: Output) -> None:
    """The request id and what is noted later are in the lines of that request, and in no others."""
    configure_logging("bakery", "info", "json")
    log = structlog.get_logger("x")

    def answer() -> str | None:
        begin_request("r-1")
        log.info("begun")
        note(jws_alg="ES256")
        log.info("parsed")
        return current_request_id()

    note(jws_alg="none")
    assert contextvars.copy_context().run(answer) == "r-1"
    log.info("after")
    seen = [(line.get("request_id"), line.get("jws_alg")) for line in output.lines()]
    assert seen == [("r-1", None), ("r-1", "ES256"), (None, None)]
    assert current_request_id() is None


def test_a_trace_holds_no_local_variables(output: Output) -> None:
    """A passphrase in a local variable does not reach the log with the trace."""
    configure_logging("bakery", "info", "json")

    def fail() -> None:
        recipe = "grandmother's"
        raise ValueError(f"{len(recipe)} letters")

    try:
        fail()
    except ValueError:
        structlog.get_logger("x").exception("oven")
    (line,) = output.lines()
    assert "ValueError" in str(line["exception"])
    assert "grandmother" not in json.dumps(line)


def test_libraries_log_in_the_same_form(output: Output) -> None:
    """Warnings of the standard library's logging become JSON lines, debug chatter is dropped."""
    configure_logging("bakery", "info", "json")
    logging.getLogger("uvicorn.error").warning("Invalid %s", "request")
    logging.getLogger("asyncio").debug("chatter")
    (line,) = output.lines()
    assert (line["event"], line["level"], line["service"]) == ("Invalid request", "warning", "bakery")


def test_console_lines_are_for_people(output: Output) -> None:
    """The other format is text."""
    configure_logging("bakery", "info", "console")
    structlog.get_logger("x").info("bread sold", loaves=3)
    assert "bread sold" in output.text()


@pytest.mark.parametrize(
    "key",
    ["passphrase", "password", "Secret", "api_token", "hmac-key", "private_key", "privateKey", "authorization", "pin"],
)
def test_values_named_like_secrets_are_blanked(key: str) -> None:
    """At every depth of mappings."""
    event = redact(None, "info", {"event": "x", key: "hunter2", "inner": {key: "hunter2", "kept": 1}})
    assert "hunter2" not in str(event)
    assert event["inner"]["kept"] == 1


@pytest.mark.parametrize("key", ["event", "pinned", "tokens_left", "path", "spinning"])
def test_other_values_stay(key: str) -> None:
    """A word within a word is no secret."""
    assert redact(None, "info", {key: "kept"})[key] == "kept"


def refuse(metrics: TlsMetrics, client: str | None, peer: str = "serial 0a") -> None:
    """Tell of a refused handshake."""
    metrics.handshake(
        listener="public", result="failure", reason="certificate revoked", peer=peer, group=None, client=client
    )


async def test_handshakes_rotations_and_ages_are_metrics() -> None:
    """Names and labels as the dashboards expect them; ages follow the clock."""
    registry, clock = CollectorRegistry(), ManualClock()
    metrics = TlsMetrics(registry, clock)
    metrics.certificate("public", clock.now(), clock.now() + timedelta(hours=24))
    metrics.handshake(listener="public", result="success", reason="", peer=None, group="X25519MLKEM768", client=None)
    refuse(metrics, "192.0.2.1")
    metrics.rotation("success")
    clock.advance(timedelta(hours=1))
    text = generate_latest(registry).decode()
    for line in (
        'mtls_handshakes_total{listener="public",reason="",result="success"} 1.0',
        'mtls_handshakes_total{listener="public",reason="certificate revoked",result="failure"} 1.0',
        'mtls_cert_expiry_seconds{listener="public"} 82800.0',
        'cert_age_seconds{listener="public"} 3600.0',
        'mtls_rotation_total{result="success"} 1.0',
    ):
        assert line in text


async def test_refused_handshakes_cannot_fill_the_log() -> None:
    """Of one address's refusals the first have a line, whatever names it shows; all are counted, others are seen."""
    registry = CollectorRegistry()
    with capture_logs() as lines:
        metrics = TlsMetrics(registry, ManualClock())
        for number in range(10 * LINES):
            refuse(metrics, "192.0.2.1", peer=f"spiffe://other/{number}")
        refuse(metrics, "192.0.2.2")
        assert len(lines) == LINES + 1
        assert lines[-1]["client"] == "192.0.2.2"
        await asyncio.sleep(1.5)
    assert lines[-1] == {
        "event": "more handshakes refused",
        "log_level": "warning",
        "client": "192.0.2.1",
        "left_out": 9 * LINES,
    }
    total = 'mtls_handshakes_total{listener="public",reason="certificate revoked",result="failure"}'
    assert f"{total} {10 * LINES + 1}.0" in generate_latest(registry).decode()


async def test_addresses_of_one_ipv6_host_share_a_budget() -> None:
    """Whoever can choose among 2^64 addresses has no more lines for it."""
    with capture_logs() as lines:
        metrics = TlsMetrics(CollectorRegistry(), ManualClock())
        for number in range(3 * LINES):
            refuse(metrics, f"2001:db8::{number:x}")
        refuse(metrics, None)
    assert [line["client"] for line in lines] == [f"2001:db8::{number:x}" for number in range(LINES)] + [None]
