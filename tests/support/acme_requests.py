"""Requests to the ACME server with something in them changed, and the problems they are answered with."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.acme_client import Corruption
from tests.support.acme_server import BASE

ALGORITHMS = ["ES256", "ES384", "ES512", "RS256", "EdDSA", "ML-DSA-44", "ML-DSA-65", "ML-DSA-87"]
NEW_ACCOUNT = f"{BASE}/acme/new-account"
NEW_ORDER = f"{BASE}/acme/new-order"
ORDER = {"identifiers": [{"type": "dns", "value": "a.example"}]}


def assert_problem(response: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """The response is that problem, complete, with nonce and links, and tells nothing of our insides."""
    document: dict[str, Any] = response.json()
    assert (response.status_code, document["type"]) == (status, f"urn:ietf:params:acme:error:{kind}"), document
    assert response.headers["content-type"] == "application/problem+json"
    assert document["status"] == status
    assert document["detail"]
    assert None not in document.values()
    assert "Traceback" not in response.text
    if response.request.method == "POST":
        assert response.headers["replay-nonce"]
        assert response.headers["cache-control"] == "no-store"
    assert f'<{BASE}/acme/directory>;rel="index"' in response.headers["link"]
    return document


def header(**members: object) -> Corruption:
    """Replace parameters of the protected header before signing; None removes them."""

    def change(protected: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        changed = protected | members
        return {name: value for name, value in changed.items() if value is not None}, payload

    return Corruption(before=change)
