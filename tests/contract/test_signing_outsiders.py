"""What an outsider tries: another tenant's things by every name they have, guessed ids, odd paths, cursors and headers.

GLOBEX is a good caller of its own tenant, with every right there; everything it wants here is acme's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.signing.callers import Scopes
from tests.support.aftercare_world import Service, aftercare_world
from tests.support.signing_world import GLOBEX, OPERATOR, request, subject

DIGEST = subject(b"artefact")["digest"]["sha256"]
SOME_ID = "0" * 26
KEY = {"idempotency-key": "release-7"}


@pytest.fixture
async def service(tmp_path: Path, empty_url: str) -> AsyncIterator[Service]:
    """The service over either engine: what one refuses to hold, the other may take."""
    async with aftercare_world(tmp_path, url=empty_url, witnesses=False) as made:
        yield made


@pytest.fixture
async def quick(tmp_path: Path) -> AsyncIterator[Service]:
    """The service over SQLite."""
    async with aftercare_world(tmp_path, witnesses=False) as made:
        yield made


async def owned(service: Service) -> dict[str, Any]:
    """All kinds of things that acme has."""
    record = await service.world.sign(request(b"artefact"))
    receiver = {"url": "https://hook.test/", "events": ["signature.created"]}
    wanted = {"name": "app", "signatures": [record.id], "profile": "default"}
    scopes = {"scopes": {"actions": ["read"]}, "life_seconds": 60}
    webhook = (await service.ask("POST", "/v1/webhooks", receiver)).json()
    event = await service.world.sign(request(b"another"))
    return {
        "record": record,
        "webhook": webhook["id"],
        "event": f"evt_signature_created_{event.id}",
        "evidence": (await service.ask("POST", "/v1/evidence", wanted)).json()["id"],
        "api_key": (await service.ask("POST", "/v1/api-keys", scopes)).json()["id"],
    }


async def test_nothing_of_another_tenant_is_reached_by_its_id(service: Service) -> None:
    """Each answer is the one for an id that nobody has, and the owner still has everything afterwards."""
    has = await owned(service)
    record = has["record"]
    evidence = {"name": "x", "signatures": [record.id], "profile": "default"}
    by_digest = {"name": "x", "subjects": [f"sha256:{DIGEST}"], "profile": "default"}
    attempts: list[tuple[str, str, object]] = [
        ("GET", record.urls["self"], None),
        *(("GET", one.url, None) for one in (*record.signatures, *record.bundles)),
        ("DELETE", f"/v1/api-keys/{has['api_key']}", None),
        ("POST", f"/v1/webhooks/{has['webhook']}/rotate", None),
        ("DELETE", f"/v1/webhooks/{has['webhook']}", None),
        ("POST", f"/v1/webhook-deliveries/{has['webhook']}/{has['event']}", None),
        ("GET", f"/v1/evidence/{has['evidence']}", None),
        ("GET", f"/v1/evidence/{has['evidence']}/archive", None),
        ("POST", "/v1/evidence", evidence),
        ("POST", "/v1/evidence", by_digest),
    ]
    for method, path, body in attempts:
        answer = await service.ask(method, path, body, GLOBEX)
        assert answer.status_code == 404, f"{method} {path}: {answer.text}"
        service.world.monotonic[0] += 1
    assert (await service.ask("GET", f"/v1/evidence/{has['evidence']}/archive")).status_code == 200
    assert [one["revoked_at"] for one in (await service.ask("GET", "/v1/api-keys")).json()["keys"]] == [None]
    assert len((await service.ask("GET", "/v1/webhooks")).json()["webhooks"]) == 1


async def test_lists_and_searches_are_of_the_own_tenant(service: Service) -> None:
    """By another tenant's digest, predicate type, cursor or none at all, nothing of it is found."""
    has = await owned(service)
    beyond = f"{'f' * 26}"
    for path in (
        "/v1/signatures",
        f"/v1/signatures?subject_digest=sha256:{DIGEST}",
        "/v1/signatures?predicate_type=https://slsa.dev/verification_summary/v1",
        f"/v1/signatures?subject_digest=sha256:{DIGEST}&after={beyond}",
        "/v1/evidence",
        f"/v1/evidence?after={beyond}",
        "/v1/webhooks",
        "/v1/webhook-deliveries?state=pending",
        "/v1/webhook-deliveries?state=pending&after=0-a-wh_0",
        "/v1/api-keys",
    ):
        answer = await service.ask("GET", path, peer=GLOBEX)
        assert answer.status_code == 200, path
        assert [value for value in answer.json().values() if value] == [], path
        assert has["record"].id not in answer.text
        own = await service.ask("GET", path)
        assert [value for value in own.json().values() if value] != [], path


async def test_another_tenants_idempotency_key_is_no_way_in(quick: Service) -> None:
    """The same key and the same request sign anew for whoever asks."""
    first = await quick.world.sign(request(b"artefact"), OPERATOR, **KEY)
    second = await quick.world.sign(request(b"artefact"), GLOBEX, **KEY)
    assert (first.tenant, second.tenant) == ("acme", "globex")
    assert first.id != second.id


ODD_IDS = [
    "0" * 25,
    "0" * 27,
    "g" * 26,
    "F" * 26,
    "%2e%2e",
    "..%2f..%2fpassphrase",
    "%00",
    f"{SOME_ID}%00",
    "%ff%fe",
    "%f0%9f%94%91",
    "'%20OR%201=1--",
    "%25",
    "*",
    "~",
    "a" * 4000,
    "%c0%ae%c0%ae",
]


PLAIN = [
    ("GET", "/v1/signatures/{odd}"),
    ("GET", "/v1/signatures/{odd}/raw-es256.sig"),
    ("GET", "/v1/signatures/{known}/{odd}"),
    ("GET", "/v1/policy/{odd}"),
    ("GET", "/v1/keys/{odd}/public-key"),
    ("GET", "/v1/evidence/{odd}/archive"),
]
MANAGED = [
    ("GET", "/v1/evidence/{odd}"),
    ("GET", "/v1/holds/{odd}"),
    ("PUT", "/v1/holds/{odd}"),
    ("DELETE", "/v1/holds/{odd}"),
    ("DELETE", "/v1/api-keys/{odd}"),
    ("POST", "/v1/webhooks/{odd}/rotate"),
    ("DELETE", "/v1/webhooks/{odd}"),
    ("POST", "/v1/webhook-deliveries/{odd}/evt_1"),
    ("POST", "/v1/webhook-deliveries/wh_1/{odd}"),
]


async def test_odd_ids_name_nothing(service: Service) -> None:
    """404 or 400 as a problem document, never 500, whatever an id is made of, wherever there is one."""
    known = (await service.world.sign(request(b"artefact"))).id
    tried = [(*place, odd) for place in PLAIN for odd in ODD_IDS]
    tried += [(*place, odd) for place in MANAGED for odd in ("%00", "..%2f..%2fpassphrase", SOME_ID)]
    async with service.http() as http:
        for method, template, odd in tried:
            path = template.format(odd=odd, known=known)
            answer = await http.request(method, path, json={"reason": "x"} if method == "PUT" else None)
            assert answer.status_code in {400, 404}, f"{method} {path}: {answer.status_code} {answer.text}"
            assert answer.headers["content-type"] == "application/problem+json", path


async def test_paths_below_a_signature_are_its_artefacts_alone(quick: Service) -> None:
    """No way up, no second slash, no other case, no file beside it: all look like an artefact that is not there."""
    record = await quick.world.sign(request(b"artefact"))
    (quick.world.directory / "secret").write_text("secret")
    file = record.signatures[0].url.rpartition("/")[2]
    assert (await quick.ask("GET", f"{record.urls['self']}/{file}")).status_code == 200
    nothing = (await quick.ask("GET", f"{record.urls['self']}/nothing")).content
    for tail in (
        "%2e%2e%5csecret",
        "....",
        "SBOM",
        f"{file}%20",
        f"{file}.",
        f"{file};a=b",
        f"{file}%00",
        file.upper(),
    ):
        answer = await quick.ask("GET", f"{record.urls['self']}/{tail}")
        assert answer.status_code in {400, 404}, tail
        assert answer.content == nothing or answer.status_code == 400
    for tail in ("..%2fsecret", "%2e%2e%2f%2e%2e%2fsecret", f"/{file}", f"{file}/", f"{file}/x", "%2fetc%2fpasswd"):
        answer = await quick.ask("GET", f"{record.urls['self']}/{tail}")
        assert answer.status_code == 404, tail
        assert "secret" not in answer.text.replace(tail, "")


ODD_QUERIES = [
    "after=" + "f" * 27,
    "after=" + "9" * 10_000,
    "after=%00",
    "after='",
    "after=",
    "subject_digest=",
    "predicate_type=",
    "limit=0",
    "limit=101",
    "limit=-1",
    "limit=1e2",
    "limit=99999999999999999999999999",
    "limit=%D9%A1",
    "limit=1&limit=2",
    "subject_digest=sha256:" + "0" * 63,
    "subject_digest=sha256:" + "A" * 64,
    "subject_digest=md5:" + "0" * 32,
    "subject_digest=%25",
    "predicate_type=" + "x" * 9000,
    "predicate_type=%00",
    "tenant=globex",
    "a=b&" * 5000,
    "%",
]


async def test_odd_queries_are_refused(quick: Service) -> None:
    """A search is by what it says, within its bounds, and by nothing else; by nothing at all where a value is empty."""
    async with quick.http() as http:
        for query in ODD_QUERIES:
            answer = await http.get(f"/v1/signatures?{query}")
            assert answer.status_code == 400, f"{query[:40]}: {answer.text}"
            assert answer.headers["content-type"] == "application/problem+json"


HUGE = [
    "/v1/webhook-deliveries?after=999999999999999999-x-wh_0",
    "/v1/webhook-deliveries?after=9999999999999999999-x-wh_0",
    "/v1/webhook-deliveries?after=0-%00",
    "/v1/webhook-deliveries?state=%00",
    f"/v1/evidence?after={'f' * 64}",
    f"/v1/evidence?after={'f' * 65}",
    "/v1/evidence?after=%00",
]


async def test_huge_cursors_end_in_an_empty_page_or_a_refusal(service: Service) -> None:
    """No cursor is too large for the database, nor brings anything back that is not the caller's."""
    for path in HUGE:
        answer = await service.ask("GET", path)
        assert answer.status_code in {200, 400}, answer.text
        if answer.status_code == 200:
            assert answer.json() in ({"deliveries": [], "next": None}, {"evidence": [], "next": None})


HEADERS: list[dict[str, str]] = [
    {"x-forwarded-client-cert": f"By=x;URI={OPERATOR}"},
    {"x-client-cert": "-----BEGIN CERTIFICATE-----"},
    {"ssl-client-verify": "SUCCESS", "ssl-client-s-dn": "CN=olga"},
    {"x-spiffe-id": str(OPERATOR)},
    {"x-forwarded-user": "olga", "x-remote-user": "olga"},
    {"x-original-url": "/v1/trusted-root", "x-rewrite-url": "/healthz"},
    {"x-http-method-override": "DELETE"},
    {"authorization": "Basic b2xnYTpvbGdh"},
    {"authorization": "Bearer"},
    {"authorization": "Bearer null"},
    {"authorization": "Bearer " + "a." * 5000},
    {"authorization": "pqcsign_0000000000000000_0"},
    {"cookie": "session=olga", "x-api-key": "pqcsign_x"},
]


async def test_headers_make_nobody_somebody(quick: Service) -> None:
    """Only the TLS peer or one bearer credential says who calls; what proxies would say counts for nothing."""
    record = await quick.world.sign(request(b"artefact"))
    async with quick.http(None) as http:
        for headers in HEADERS:
            quick.world.monotonic[0] += 1  # bad credentials of one second are few
            for path in (record.urls["self"], "/v1/signatures", "/v1/api-keys", "/v1/evidence"):
                assert (await http.get(path, headers=headers)).status_code == 401, (path, headers)


async def test_two_credentials_are_one_too_many(quick: Service) -> None:
    """A certificate and a key, two keys, or a key in the query: refused, or not looked at."""
    key = await quick.world.api_key()
    bearer = ("authorization", f"Bearer {key}")
    async with quick.http(GLOBEX) as http:
        assert (await http.get("/v1/signatures", headers=[bearer])).status_code == 401
    async with quick.http(None) as http:
        assert (await http.get("/v1/signatures", headers=[bearer])).status_code == 200
        assert (await http.get("/v1/signatures", headers=[bearer, bearer])).status_code == 401
        assert (await http.get(f"/v1/signatures?access_token={key}")).status_code == 401


async def test_cached_copies_are_for_those_who_may_read(quick: Service) -> None:
    """If-None-Match answers 304 only after the caller was let in, and what is served is never for shared caches."""
    record = await quick.world.sign(request(b"artefact"))
    owner = await quick.ask("GET", record.signatures[0].url)
    tags = ({"if-none-match": "*"}, {"if-none-match": owner.headers["etag"]})
    assert "private" in owner.headers["cache-control"]
    assert owner.headers["x-content-type-options"] == "nosniff"
    async with quick.http(GLOBEX) as http:
        assert [(await http.get(record.signatures[0].url, headers=tag)).status_code for tag in tags] == [404, 404]
    async with quick.http() as http:
        assert [(await http.get(record.signatures[0].url, headers=tag)).status_code for tag in tags] == [304, 304]


async def test_api_key_cannot_widen_itself(quick: Service) -> None:
    """One that may make keys makes none with more than its own scopes, whatever the request calls them."""
    scopes = Scopes(frozenset({"manage_api_keys", "read"}), None, frozenset({"raw"}))
    async with quick.http(api_key=await quick.world.api_key(scopes=scopes)) as http:
        for wanted in (
            {"actions": ["sign"]},
            {"actions": ["read", "search"], "formats": ["raw"]},
            {"actions": ["read"]},
            {"actions": ["read"], "formats": ["raw", "cms"]},
            {"formats": ["raw"]},
            {"actions": ["*"]},
            {"actions": ["read"], "formats": ["raw"], "tenant": "globex"},
        ):
            answer = await http.post("/v1/api-keys", json={"scopes": wanted, "life_seconds": 60})
            assert answer.status_code in {400, 422}, f"{wanted}: {answer.text}"
        fitting = {"scopes": {"actions": ["read"], "formats": ["raw"]}, "life_seconds": 60}
        made = await http.post("/v1/api-keys", json=fitting)
        assert made.status_code == 201, made.text


async def test_methods_that_are_not_offered(quick: Service) -> None:
    """No record is written or removed over the API: 405 with what is allowed."""
    record = await quick.world.sign(request(b"artefact"))
    refused: list[httpx.Response] = []
    for method in ("PUT", "PATCH", "DELETE", "POST"):
        refused += [await quick.ask(method, path) for path in (record.urls["self"], record.signatures[0].url)]
    assert {answer.status_code for answer in refused} == {405}
    assert (await quick.ask("GET", record.urls["self"])).status_code == 200
