from dataclasses import dataclass

import pytest

from pkicore.identity import SpiffeId
from services.chassis.errors import ForbiddenError, PolicyError
from services.chassis.peer import CallerPolicy

ACME = "spiffe://pqcpki.internal/service/acme"
POLICY = CallerPolicy.load(
    """
    [[allow]]
    caller = "spiffe://pqcpki.internal/service/acme"
    service = "ca"
    endpoints = ["POST /v1/certificates", "GET /v1/certificates/{serial}"]

    [[allow]]
    caller = "spiffe://pqcpki.internal/operator/*"
    service = "ca"
    endpoints = ["POST /v1/crls"]

    [[allow]]
    caller = "spiffe://pqcpki.internal/service/acme"
    service = "ca"
    endpoints = ["POST /v1/revocations"]
    """
)


@dataclass
class Caller:
    """A peer with nothing but an identity."""

    spiffe_id: SpiffeId | None


def peer(text: str) -> Caller:
    """The peer with this SPIFFE ID."""
    return Caller(SpiffeId.parse(text))


@pytest.mark.parametrize(
    ("caller", "method", "path"),
    [
        (ACME, "POST", "/v1/certificates"),
        (ACME, "GET", "/v1/certificates/0a1b"),
        (ACME, "POST", "/v1/revocations"),
        ("spiffe://pqcpki.internal/operator/alice", "POST", "/v1/crls"),
    ],
)
def test_what_an_entry_allows_passes(caller: str, method: str, path: str) -> None:
    """Exact callers, wildcards, patterns and several entries for one caller."""
    POLICY.authorize(peer(caller), "ca", method, path)


@pytest.mark.parametrize(
    ("caller", "service", "method", "path"),
    [
        (ACME, "ca", "GET", "/v1/certificates"),
        (ACME, "ca", "POST", "/v1/crls"),
        (ACME, "ca", "POST", "/v1/certificates/"),
        (ACME, "ca", "POST", "//v1/certificates"),
        (ACME, "ca", "GET", "/v1/certificates/a/b"),
        (ACME, "ca", "GET", "/v1/certificates/"),
        (ACME, "ca", "post", "/v1/certificates"),
        (ACME, "ca", "", "/POST/v1/certificates"),
        (ACME, "acme", "POST", "/v1/certificates"),
        ("spiffe://pqcpki.internal/service/acme2", "ca", "POST", "/v1/certificates"),
        ("spiffe://pqcpki.internal/service/acme/x", "ca", "POST", "/v1/certificates"),
        ("spiffe://evil.example/service/acme", "ca", "POST", "/v1/certificates"),
        ("spiffe://pqcpki.internal/operator", "ca", "POST", "/v1/crls"),
        ("spiffe://pqcpki.internal/operator/a/b", "ca", "POST", "/v1/crls"),
        ("spiffe://pqcpki.internal/operators/a", "ca", "POST", "/v1/crls"),
        ("spiffe://evil.example/operator/a", "ca", "POST", "/v1/crls"),
    ],
)
def test_everything_else_is_refused(caller: str, service: str, method: str, path: str) -> None:
    """Default deny: other methods, paths, services, trust domains and lookalike names."""
    with pytest.raises(ForbiddenError):
        POLICY.authorize(peer(caller), service, method, path)


@pytest.mark.parametrize("caller", [None, Caller(None)])
def test_a_peer_without_an_identity_is_refused(caller: Caller | None) -> None:
    """No certificate, or one without a SPIFFE ID, is nobody."""
    with pytest.raises(ForbiddenError):
        POLICY.authorize(caller, "ca", "POST", "/v1/certificates")


def test_an_empty_policy_allows_nothing() -> None:
    """A policy without entries is one that refuses all."""
    with pytest.raises(ForbiddenError):
        CallerPolicy.load("").authorize(peer(ACME), "ca", "POST", "/v1/certificates")


def entry(caller: str = f'"{ACME}"', service: str = '"ca"', endpoints: str = '["GET /x"]', more: str = "") -> str:
    """One policy entry as TOML."""
    return f"[[allow]]\ncaller = {caller}\nservice = {service}\nendpoints = {endpoints}\n{more}"


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ("allow = ", "is not TOML"),
        ("allow = 1", r"\[\[allow\]\] entries only"),
        ("[deny]", "entries only, not deny"),
        ("[[allow]]", "allow entry 1 must have exactly caller, service and endpoints"),
        (entry(more='deny = "x"'), "allow entry 1 must have exactly"),
        (entry(caller="7"), "caller must be a SPIFFE ID"),
        (entry(caller='"*"'), "is no SPIFFE ID"),
        (entry(caller='"spiffe://td/*"'), "is no SPIFFE ID"),
        (entry(caller='"spiffe://td/service/a*"'), "is no SPIFFE ID"),
        (entry(caller='"spiffe://*/service/a"'), "is no SPIFFE ID"),
        (entry(service='""'), "service must be"),
        (entry(endpoints="[]"), "endpoints must be a list"),
        (entry(endpoints='"GET /x"'), "endpoints must be a list"),
        (entry(endpoints='["* /x"]'), "must be a method and a path"),
        (entry(endpoints="[3]"), "must be a method and a path"),
        (entry(endpoints='["GET x"]'), "must begin with a slash"),
        (entry(endpoints='["GET /x/*y{"]'), "is no path segment"),
        (entry() + entry(endpoints='["GET  /x"]'), "allow entry 2"),
    ],
)
def test_a_policy_that_makes_no_sense_stops_the_start(toml: str, sentence: str) -> None:
    """The error names the entry; nothing is guessed."""
    with pytest.raises(PolicyError, match=sentence):
        CallerPolicy.load(toml)
