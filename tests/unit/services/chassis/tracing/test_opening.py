"""Traces of an application, from its requests to a collector over a real socket."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client import CollectorRegistry, generate_latest

from pkicore.identity import SpiffeId
from services.chassis.asgi import Application, AsgiApp, Receive, Request, Response, Route, Scope, Send, json_response
from services.chassis.errors import SettingsError
from services.chassis.observability import HttpMetrics, configure_logging
from services.chassis.problems import ProblemTable
from services.chassis.settings import ServiceSettings, for_service
from services.chassis.tracing import current_span, step
from services.chassis.tracing.opening import Tracing, open_tracing
from services.chassis.tracing.requests import Believes, nobody, services_of
from tests.support.otlp_collector import CollectedSpan, OtlpCollector
from tests.support.tls_pki import TlsPki, write_credentials

DOMAIN = "pqcpki.test"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
OURS, WORKLOAD = SpiffeId.service(DOMAIN, "ca"), SpiffeId.workload(DOMAIN, "ca")
ELSEWHERE = SpiffeId.service("elsewhere.test", "ca")


class OvenSettings(ServiceSettings):
    """Of a service of the tests."""

    model_config = for_service("oven")


def settings(tmp_path: Path, **changes: object) -> OvenSettings:
    """Settings with these changes."""
    given = {
        "state_dir": tmp_path,
        "policy_file": tmp_path / "policy.toml",
        "database_url": f"sqlite:///{tmp_path}/oven.sqlite3",
    }
    return OvenSettings.model_validate(given | changes)


class Peer:
    """Whom TLS has verified."""

    def __init__(self, spiffe_id: SpiffeId | None) -> None:
        self.spiffe_id = spiffe_id
        self.serial = 1


async def bread(_: Request) -> Response:
    """Answers with the ids of its span; a step takes part."""
    with step("bake", "bread"):
        await asyncio.sleep(0)
    span = current_span()
    return json_response(None if span is None else span.traceparent)


async def burnt(_: Request) -> Response:
    """Fails as a bug would."""
    raise RuntimeError("hunter2")


def oven() -> Application:
    """An application."""
    routes = [Route("GET", "/bread/{kind}", bread), Route("GET", "/burnt", burnt)]
    return Application("oven", routes, problems=ProblemTable({}), metrics=HttpMetrics(CollectorRegistry()))


def reached_by(application: Application, spiffe_id: SpiffeId | None) -> AsgiApp:
    """The application as this peer reaches it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await application({**scope, "state": {"peer": Peer(spiffe_id)}}, receive, send)

    return app


async def ask(app: AsgiApp, path: str = "/bread/rye", header: str | None = None) -> httpx.Response:
    """One request, with a `traceparent` of a trace that somebody else has begun."""
    transport = httpx.ASGITransport(app)
    headers = {"traceparent": header or f"00-{TRACE}-{SPAN}-01", "x-request-id": "loaf-1"}
    async with httpx.AsyncClient(transport=transport, base_url="https://oven") as http:
        return await http.get(path, headers=headers)


@asynccontextmanager
async def running(tracing: Tracing) -> AsyncGenerator[None]:
    """The background task, cancelled at the end as the runner does."""
    (work,) = tracing.background()
    task = asyncio.ensure_future(work.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture
def collector() -> Iterator[OtlpCollector]:
    """A collector."""
    with OtlpCollector() as started:
        yield started


async def collected(
    collector: OtlpCollector, tmp_path: Path, believes: Believes, peer: SpiffeId | None, **changes: object
) -> tuple[str, list[CollectedSpan]]:
    """The traceparent of one request's span, and all spans of it; sent when the service stops."""
    registry = CollectorRegistry()
    told = settings(tmp_path, tracing_endpoint=collector.url, **changes)
    async with open_tracing("oven", told, registry) as tracing:
        application = tracing.watch(oven(), believes)
        async with running(tracing):
            await asyncio.sleep(0)
            answer = await ask(reached_by(application, peer))
    return answer.json(), collector.spans


async def test_a_request_and_its_steps_are_spans(collector: OtlpCollector, tmp_path: Path) -> None:
    """Named by route and not by path, with the ids of the log, and whose parts they are."""
    traceparent, (part, request) = await collected(collector, tmp_path, nobody, OURS)
    assert (request.service, request.name, request.kind, request.parent_id) == (
        "oven",
        "GET /bread/{kind}",
        "server",
        "",
    )
    assert request.attributes == {
        "http.request.method": "GET",
        "http.route": "/bread/{kind}",
        "http.response.status_code": 200,
        "pqcpki.request_id": "loaf-1",
        "pqcpki.peer": str(OURS),
    }
    assert traceparent.startswith(f"00-{request.trace_id}-{request.span_id}-")
    assert (part.name, part.trace_id, part.parent_id) == ("bake bread", request.trace_id, request.span_id)
    assert not request.failed
    assert 0 <= part.seconds <= request.seconds


@pytest.mark.parametrize(
    ("believes", "peer", "counts"),
    [
        (services_of(DOMAIN), OURS, True),
        (services_of(DOMAIN), WORKLOAD, False),
        (services_of(DOMAIN), ELSEWHERE, False),
        (services_of(DOMAIN), None, False),
        (nobody, OURS, False),
    ],
    ids=["service", "workload", "other domain", "nobody", "public listener"],
)
async def test_only_our_services_choose_the_trace(
    collector: OtlpCollector,
    tmp_path: Path,
    believes: Believes,
    peer: SpiffeId | None,
    counts: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A stranger's traceparent gives neither ids nor the order to record; on a public listener nobody's does."""
    traceparent, spans = await collected(collector, tmp_path, believes, peer, tracing_ratio=0.0)
    assert (TRACE in traceparent) is counts
    assert traceparent.endswith("-01") is counts, "recorded where the parent is"
    assert [span.parent_id for span in spans if span.name.startswith("GET")] == ([SPAN] if counts else [])


async def test_our_services_decide_what_is_not_recorded(collector: OtlpCollector, tmp_path: Path) -> None:
    """Of a trace that a service of ours does not record, no other service records its part."""
    async with open_tracing("oven", settings(tmp_path, tracing_endpoint=collector.url), CollectorRegistry()) as tracing:
        application = tracing.watch(oven(), services_of(DOMAIN))
        async with running(tracing):
            answer = await ask(reached_by(application, OURS), header=f"00-{TRACE}-{SPAN}-00")
    assert (TRACE in answer.json(), answer.json()[-3:], collector.spans) == (True, "-00", [])


async def test_a_failed_request_tells_the_class_of_its_error(collector: OtlpCollector, tmp_path: Path) -> None:
    """Not what the error says: that is for the log alone."""
    async with open_tracing("oven", settings(tmp_path, tracing_endpoint=collector.url), CollectorRegistry()) as tracing:
        application = tracing.watch(oven())
        async with running(tracing):
            await asyncio.sleep(0)
            assert (await ask(application, "/burnt")).status_code == 500
    (span,) = collector.spans
    assert (span.failed, span.attributes["error.type"]) == (True, "RuntimeError")
    assert "hunter2" not in repr(span)


async def test_log_lines_say_trace_and_span(
    collector: OtlpCollector, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The line of a request carries the ids of its span."""
    configure_logging("oven", "info", "json")
    async with open_tracing("oven", settings(tmp_path, tracing_endpoint=collector.url), CollectorRegistry()) as tracing:
        application = tracing.watch(oven())
        async with running(tracing):
            await asyncio.sleep(0)
            await ask(application, "/burnt")
    (span,) = collector.spans
    (line,) = map(json.loads, capfdbinary.readouterr().out.splitlines())
    assert (line["trace_id"], line["span_id"], line["request_id"]) == (span.trace_id, span.span_id, "loaf-1")


async def test_traces_are_off_unless_an_endpoint_is_set(tmp_path: Path) -> None:
    """No span, no task, no metric."""
    registry = CollectorRegistry()
    async with open_tracing("oven", settings(tmp_path), registry) as tracing:
        answer = await ask(tracing.watch(oven(), services_of(DOMAIN)))
        assert (answer.json(), tracing.background(), generate_latest(registry)) == (None, (), b"")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], tuple[ssl.SSLContext, Path]]:
    """Makes a server's TLS and the file of its root."""

    def make() -> tuple[ssl.SSLContext, Path]:
        directory = tmp_path_factory.mktemp("pki")
        made = TlsPki.make("ecdsa")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*write_credentials(made.issuing.issue(dns=("localhost",), family="ecdsa"), directory))
        root = directory / "root.pem"
        root.write_text(ssl.DER_cert_to_PEM_cert(made.trust[0].public_bytes(Encoding.DER)))
        return context, root

    return make


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "not trusted"])
async def test_a_collector_is_trusted_by_its_root(
    pki: Callable[[], tuple[ssl.SSLContext, Path]],
    tmp_path: Path,
    trusted: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """Nothing is sent to one with another root, and no request minds."""
    tls, root = pki()
    told = {"tracing_ca_file": root if trusted else pki()[1]}
    with OtlpCollector(tls) as collector:
        traceparent, spans = await collected(collector, tmp_path, nobody, OURS, **told)
    assert traceparent is not None
    assert len(spans) == (2 if trusted else 0)


async def test_a_slow_collector_keeps_nobody_waiting(collector: OtlpCollector, tmp_path: Path) -> None:
    """Requests are answered while it holds its answer, and a service that stops waits for two seconds."""
    collector.hold = 60.0
    begun = time.monotonic()
    async with open_tracing("oven", settings(tmp_path, tracing_endpoint=collector.url), CollectorRegistry()) as tracing:
        application = tracing.watch(oven())
        async with running(tracing):
            assert {(await ask(application)).status_code for _ in range(3)} == {200}
    assert time.monotonic() - begun < 50


@pytest.mark.parametrize(
    "url", ["http://collector:4318", "https://collector:4318/v1/traces", "collector:4318", "ftp://127.0.0.1"]
)
def test_a_collector_is_reached_by_https_or_on_this_machine(tmp_path: Path, url: str) -> None:
    """Traces tell who asked for what: they do not go over a network in clear."""
    with pytest.raises(ValueError, match="tracing_endpoint"):
        settings(tmp_path, tracing_endpoint=url)


async def test_a_file_of_roots_must_be_one(tmp_path: Path) -> None:
    """The sentence names the setting."""
    told = settings(tmp_path, tracing_endpoint="https://localhost:1", tracing_ca_file=tmp_path / "none.pem")
    with pytest.raises(SettingsError, match="tracing_ca_file"):
        async with open_tracing("oven", told, CollectorRegistry()):
            pass


async def test_without_opentelemetry_the_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image without the extra does not start as if it traced."""
    monkeypatch.delitem(sys.modules, "services.chassis.tracing.recorder", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    with pytest.raises(SettingsError, match=r"pqcpki\[tracing\]"):
        async with open_tracing(
            "oven", settings(tmp_path, tracing_endpoint="https://localhost:1"), CollectorRegistry()
        ):
            pass
