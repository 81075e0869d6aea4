"""Steps and `traceparent`, without OpenTelemetry."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from services.chassis.http_client import ServiceCalls
from services.chassis.tracing import Attributes, Kind, Parent, begin_trace, current_span, read_traceparent, step

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class PaperSpan:
    """A span that writes down what becomes of it and of its parts."""

    trace_id, span_id, traceparent = TRACE, SPAN, f"00-{TRACE}-{SPAN}-01"

    def __init__(self, name: str, paper: list[str]) -> None:
        self._name = name
        self._paper = paper

    def child(self, name: str, kind: Kind, attributes: Attributes) -> PaperSpan:
        """As `Span.child`."""
        self._paper.append(f"{self._name} > {name} {kind} {dict(attributes)}")
        return PaperSpan(name, self._paper)

    def note(self, name: str | None, attributes: Attributes) -> None:
        """As `Span.note`."""
        self._paper.append(f"{self._name} is {name} {dict(attributes)}")

    def fail(self, reason: str) -> None:
        """As `Span.fail`."""
        self._paper.append(f"{self._name} failed: {reason}")

    def end(self) -> None:
        """As `Span.end`."""
        self._paper.append(f"{self._name} ends")


def test_without_a_trace_a_step_is_nothing() -> None:
    """Nobody's request is answered: there is no span, and none begins."""
    with step("commit", "order") as span:
        assert span is None
        assert current_span() is None


async def test_steps_are_parts_of_each_other_also_in_tasks() -> None:
    """A step within a step is its part, in whichever task that the request started; a failure is told by its class."""
    paper: list[str] = []

    async def failing() -> None:
        with step("POST", "the CA", "client", {"a": 1}):
            raise OSError("secret")

    async def request() -> None:
        begin_trace(PaperSpan("request", paper))
        with step("commit", "order"):
            pass
        with step("wait", "issuance"), pytest.raises(OSError, match="secret"):
            await asyncio.create_task(failing())

    await asyncio.create_task(request())
    assert current_span() is None, "another task has no part in it"
    assert paper == [
        "request > commit order internal {}",
        "commit order ends",
        "request > wait issuance internal {}",
        "wait issuance > POST the CA client {'a': 1}",
        "POST the CA failed: OSError",
        "POST the CA ends",
        "wait issuance ends",
    ]


class Http:
    """Answers with the `traceparent` that it was sent."""

    status_code = 200
    content = b""

    async def request(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None,
        headers: Mapping[str, str],
        timeout: float,  # noqa: ASYNC109 -- Http's signature
    ) -> Http:
        """As `services.chassis.http_client.Http.request`."""
        del method, url, content, timeout
        self.content = headers.get("traceparent", "none").encode()
        return self


async def test_our_services_are_told_whose_part_they_do() -> None:
    """A call between services is a step of the request, and takes its traceparent along, if there is one."""
    paper: list[str] = []
    calls = ServiceCalls(Http(), "the CA", lambda failure: OSError(failure.sentence))

    async def request() -> bytes:
        begin_trace(PaperSpan("request", paper))
        return await calls.ask(bytes, "POST", "/v1/certificates", b"{}")

    assert await asyncio.create_task(request()) == PaperSpan.traceparent.encode()
    assert paper == ["request > POST the CA client {}", "POST the CA ends"]
    assert await calls.ask(bytes, "GET", "/v1/revocations") == b"none"


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True)])
def test_a_traceparent_names_a_span(flags: str, sampled: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """W3C Trace Context §3.2: version, trace, span, and flags of which the first bit is "sampled"."""
    header = f"00-{TRACE}-{SPAN}-{flags}".encode()
    assert read_traceparent(header) == Parent(int(TRACE, 16), int(SPAN, 16), sampled)


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        f"01-{TRACE}-{SPAN}-01".encode(),
        f"00-{TRACE}-{SPAN}-01-more".encode(),
        f"00-{TRACE.upper()}-{SPAN}-01".encode(),
        f"00-{'0' * 32}-{SPAN}-01".encode(),
        f"00-{TRACE}-{'0' * 16}-01".encode(),
        f"00-{TRACE[1:]}-{SPAN}-01".encode(),
        f"00-{TRACE}-{SPAN}-01\n".encode(),
    ],
    ids=["none", "empty", "version", "longer", "upper case", "no trace", "no span", "short", "line"],
)
def test_what_is_no_traceparent_names_no_span(header: bytes | None) -> None:
    """Whatever our own services would not write is as if there were no header."""
    assert read_traceparent(header) is None
