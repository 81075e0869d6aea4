"""The directory (RFC 8555 §7.1.1): what is served, and nothing else."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from services.acme.directory import Directory, Meta
from services.acme.urls import Urls
from services.chassis.asgi import Request
from tests.support.acme_server import BASE, DIRECTORY, AcmeServer

RESOURCES = {"newNonce", "newAccount", "newOrder", "revokeCert", "keyChange"}


async def document(meta: Meta) -> dict[str, Any]:
    """The directory of a server that says this of itself."""
    scope = {"type": "http", "method": "GET", "path": "/acme/directory", "headers": []}
    response = await Directory(Urls(BASE), meta).get(Request(scope, _nothing, "id"))
    found: dict[str, Any] = orjson.loads(response.body)
    return found


async def _nothing() -> dict[str, Any]:
    return {"type": "http.disconnect"}


@pytest.mark.requirement("rfc8555-7.1.1-01", "rfc9773-3-01")
async def test_everything_in_it_is_served(server: AcmeServer) -> None:
    """Each URL has a resource behind it, with the base that is configured and not with what Host says."""
    response = await server.http.get(DIRECTORY, headers={"host": "evil.example", "x-forwarded-host": "evil.example"})
    found = response.json()
    found.pop("meta")
    assert found.keys() >= RESOURCES
    for name, url in found.items():
        assert url.startswith(f"{BASE}/acme/"), name
        below = f"{url}/aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE" if name == "renewalInfo" else url  # RFC 9773 §4.1
        answers = [await server.http.request(method, below) for method in ("POST", "HEAD", "GET")]
        answered = [answer for answer in answers if answer.status_code != 405]
        assert not any("nothing at this path" in answer.text for answer in answered), name
        assert answered, name


async def test_one_name_is_a_new_one(server: AcmeServer) -> None:
    """So that clients pass over what they do not know; it is the same until the server starts again."""
    seen = [set((await server.http.get(DIRECTORY)).json()) for _ in range(2)]
    restarted = await server.restart()
    seen.append(set((await restarted.http.get(DIRECTORY)).json()))
    await restarted.stop()
    assert seen[0] == seen[1]
    assert len(seen[0] - seen[2]) == 1


@pytest.mark.requirement("rfc8555-7.1.1-02", "rfc8555-7.1.1-03", "rfc8555-7.3.4-07", "rfc8555-7.3-12", "profiles-3-01")
@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        (Meta(), None),
        (Meta(terms="https://a.example/t"), {"termsOfService": "https://a.example/t"}),
        (Meta(website="https://a.example"), {"website": "https://a.example"}),
        (Meta(caa_identities=("a.example", "b.example")), {"caaIdentities": ["a.example", "b.example"]}),
        (Meta(external_account_required=True), {"externalAccountRequired": True}),
        (Meta(profiles={"server": "90 days"}), {"profiles": {"server": "90 days"}}),
    ],
    ids=["nothing", "terms", "website", "CAA", "external accounts", "profiles"],
)
async def test_what_the_server_says_of_itself(meta: Meta, expected: dict[str, Any] | None) -> None:
    """Members of `meta` are there where there is something to say (RFC 8555 §9.7.6)."""
    assert (await document(meta)).get("meta") == expected
