"""A service's public listener, opened beside a simulated CA."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import cast

import httpx
from cryptography import x509
from prometheus_client import CollectorRegistry, generate_latest

from pkicore.ocsp import OcspRequest
from pkicore.x509.certificate import load_chain, to_pem
from services.acme.settings import AcmeSettings
from services.ca.client import CaClient
from services.ca.client.public_certificate import public_names
from services.ca.client.public_side import PublicSide
from services.ca.client.way import WayToCa
from services.chassis.observability import TlsMetrics
from tests.support.acme_server import CaSimulator
from tests.support.clock import ManualClock
from tests.support.pki import Hierarchy, make_hierarchy

NAMES = public_names(("localhost",), "https://acme.example")


def leaf_of(chain: str) -> x509.Certificate:
    """The first certificate of a PEM chain."""
    return load_chain(chain.encode())[0]


async def beside(tmp_path: Path, pki: Hierarchy, ca: CaSimulator, clock: ManualClock) -> WayToCa:
    """A service's way to that CA, whose status listener knows what it has issued."""
    (tmp_path / "issuers").mkdir()
    (tmp_path / "roots.pem").write_bytes(to_pem((pki.root.certificate,)))
    (tmp_path / "issuers" / "issuing-ecdsa.pem").write_bytes(to_pem((pki.issuing.certificate,)))
    certificate, key = (await pki.service("acme")).write(tmp_path)
    settings = AcmeSettings(
        state_dir=tmp_path,
        database_url=f"sqlite:///{tmp_path / 'acme.sqlite3'}",
        policy_file=tmp_path / "policy.toml",
        ca_url="https://localhost:1",
        ca_status_url="http://127.0.0.1:1",
        trust_bundle=tmp_path / "roots.pem",
        issuers_directory=tmp_path / "issuers",
        tls_certificate=certificate,
        tls_key=key,
        audit_key="file:/x",
        passphrase_file=tmp_path / "passphrase",
    )  # type: ignore[call-arg] # pydantic fills the rest

    async def answer(request: httpx.Request) -> httpx.Response:
        serial = OcspRequest.parse(request.content).cert_ids[0].serial
        asked = next(leaf for leaf in map(leaf_of, (one.chain for one in ca.issued)) if leaf.serial_number == serial)
        return httpx.Response(200, content=await pki.staple(asked))

    status = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://ca.test")
    way = WayToCa.build(settings, status, clock, timedelta(hours=1))
    return replace(way, client=cast("CaClient", ca))


async def test_a_listener_has_certificate_and_staple_when_it_is_opened(tmp_path: Path) -> None:
    """The pair is below `tls/public`, asked for in the service's name; its age is a metric; two tasks keep it fresh."""
    clock = ManualClock()
    pki = await make_hierarchy("ecdsa", clock)
    ca = CaSimulator(pki)
    registry = CollectorRegistry()
    way = await beside(tmp_path, pki, ca, clock)
    side = await PublicSide.open("acme", NAMES, tmp_path, way, TlsMetrics(registry, clock), clock)
    held = side.credentials.current().certificate
    assert leaf_of((tmp_path / "tls" / "public" / "cert.pem").read_text()) == held
    assert way.staples.staple(held)
    assert ca.requests[0].requester == {"purpose": "server certificate of acme"}
    assert 'mtls_cert_expiry_seconds{listener="public"}' in generate_latest(registry).decode()
    assert [task.name for task in side.background()] == ["public-certificate", "public-credentials"]
    await side.listener.aclose()


async def test_a_service_opens_again_without_the_ca(tmp_path: Path) -> None:
    """The certificate of the last time is on disk, and good."""
    clock = ManualClock()
    pki = await make_hierarchy("ecdsa", clock)
    ca = CaSimulator(pki)
    way = await beside(tmp_path, pki, ca, clock)
    first = await PublicSide.open("acme", NAMES, tmp_path, way, TlsMetrics(CollectorRegistry(), clock), clock)
    await first.listener.aclose()
    ca.away = True
    again = await PublicSide.open("acme", NAMES, tmp_path, way, TlsMetrics(CollectorRegistry(), clock), clock)
    assert again.credentials.current().certificate == first.credentials.current().certificate
    assert len(ca.requests) == 1
    await again.listener.aclose()
