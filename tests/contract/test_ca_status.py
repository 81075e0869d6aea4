import base64
from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import quote

import httpx
import pytest
from cryptography import x509
from cryptography.x509 import ocsp
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st

from pkicore.crl import VerifiedCrl
from pkicore.encoding import sequence
from pkicore.ocsp import CertId, build_request, error_response, verify_response
from pkicore.x509.certificate import load_chain
from tests.support.ca_world import CaWorld


@pytest.fixture
async def http(world: CaWorld) -> AsyncIterator[httpx.AsyncClient]:
    """The status listener's application."""
    async with world.status() as client:
        yield client


@pytest.fixture
async def leaf(world: CaWorld) -> x509.Certificate:
    """A fresh certificate."""
    return load_chain((await world.issue("a.example")).certificate.encode())[0]


@pytest.mark.parametrize("path", ["/crl", "/crl/issuing-ecdsa", "/crl/issuing-ecdsa.crl"])
async def test_a_crl_is_served_with_its_type_and_cache_headers(
    world: CaWorld, http: httpx.AsyncClient, path: str
) -> None:
    """DER of the right media type, an entity tag, and a max-age below the list's life."""
    answer = await http.get(path)
    VerifiedCrl.verify(answer.content, world.issuer(), world.clock.now())
    assert answer.headers["content-type"] == "application/pkix-crl"
    assert answer.headers["cache-control"].startswith("max-age=60,")
    assert answer.headers["last-modified"] == "Tue, 01 Jan 2030 00:00:00 GMT"
    assert answer.headers["expires"] == "Wed, 02 Jan 2030 00:00:00 GMT"


async def test_what_a_client_has_is_not_sent_again(http: httpx.AsyncClient) -> None:
    """An entity tag that matches, weakly or in a list, is answered 304 without a body; another is not."""
    tag = (await http.get("/crl")).headers["etag"]
    for given in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        answer = await http.get("/crl", headers={"if-none-match": given})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == tag
    assert (await http.get("/crl", headers={"if-none-match": '"x"'})).status_code == 200


async def test_head_is_get_without_the_body(http: httpx.AsyncClient) -> None:
    """HEAD says how long the list is."""
    got, head = await http.get("/crl"), await http.head("/crl")
    assert head.content == b""
    assert head.headers["content-length"] == str(len(got.content))
    assert head.headers["etag"] == got.headers["etag"]


@pytest.mark.parametrize("issuer", ["issuing-ecdsa", "issuing-mldsa", "root-ecdsa", "root-mldsa"])
async def test_every_issuer_is_served(world: CaWorld, http: httpx.AsyncClient, issuer: str) -> None:
    """The DER of each issuer's certificate is where the certificates below it say."""
    answer = await http.get(f"/aia/{issuer}")
    assert answer.headers["content-type"] == "application/pkix-cert"
    assert x509.load_der_x509_certificate(answer.content) == world.core.hierarchy.certificates[issuer]


@pytest.mark.parametrize(
    "path", ["/", "/crl/none", "/crl/../x", "/aia", "/aia/none", "/ocsp/", "/v1/certificates", "/crl/a/b"]
)
async def test_there_is_nothing_else(http: httpx.AsyncClient, path: str) -> None:
    """Other paths are 404, or malformed for OCSP; the mTLS endpoints are not here."""
    answer = await http.get(path)
    assert answer.status_code == 404 or answer.content == error_response("malformedRequest")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/crl"), ("PUT", "/ocsp"), ("DELETE", "/aia/root-ecdsa"), ("GET", "/ocsp")]
)
async def test_other_methods_are_405_with_what_is_allowed(http: httpx.AsyncClient, method: str, path: str) -> None:
    """Each path says which methods it has."""
    answer = await http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"]


async def test_ocsp_by_post(world: CaWorld, http: httpx.AsyncClient, leaf: x509.Certificate) -> None:
    """POST answers with a response that verifies."""
    answer = await http.post("/ocsp", content=build_request(leaf, world.issuer()), headers=OCSP)
    assert answer.headers["content-type"] == "application/ocsp-response"
    verify_response(answer.content, leaf, world.issuer(), world.clock.now())


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("encoded", [True, False])
async def test_ocsp_by_get(
    world: CaWorld, http: httpx.AsyncClient, leaf: x509.Certificate, *, padded: bool, encoded: bool
) -> None:
    """GET takes base64 with and without padding, percent-encoded or not, and may be cached."""
    text = base64.b64encode(build_request(leaf, world.issuer())).decode()
    text = text if padded else text.rstrip("=")
    answer = await http.get("/ocsp/" + (quote(text, safe="") if encoded else text))
    verify_response(answer.content, leaf, world.issuer(), world.clock.now())
    assert answer.headers["cache-control"].startswith("max-age=60,")
    again = await http.get("/ocsp/" + text, headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304


async def test_slashes_in_base64_are_part_of_it(world: CaWorld, http: httpx.AsyncClient) -> None:
    """A request whose base64 has slashes and plus signs is read whole."""
    found = 0
    for number in range(40):
        certificate = load_chain((await world.issue("a.example", idempotency_key=f"s{number}")).certificate.encode())[0]
        text = base64.b64encode(build_request(certificate, world.issuer())).decode()
        if "/" in text and "+" in text:
            found += 1
            answer = await http.get("/ocsp/" + text)
            verify_response(answer.content, certificate, world.issuer(), world.clock.now())
    assert found


async def test_answers_with_a_nonce_are_not_to_be_stored(
    world: CaWorld, http: httpx.AsyncClient, leaf: x509.Certificate
) -> None:
    """A nonced answer says no-store, also by GET."""
    text = base64.b64encode(build_request(leaf, world.issuer(), nonce=b"n" * 16)).decode()
    answer = await http.get("/ocsp/" + quote(text, safe=""))
    assert answer.headers["cache-control"] == "no-store"
    assert "etag" not in answer.headers


@pytest.mark.parametrize("text", ["!", "AAAA", "A" * 6000, "%00", "%C3%A4", "MAA=MAA="])
async def test_junk_by_get_is_malformed(http: httpx.AsyncClient, text: str) -> None:
    """What is no base64 of a request gets the OCSP response that says so."""
    answer = await http.get(f"/ocsp/{text}")
    assert ocsp.load_der_ocsp_response(answer.content).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


async def test_post_is_bounded_and_typed(http: httpx.AsyncClient) -> None:
    """A long body is 413, another media type 415."""
    assert (await http.post("/ocsp", content=bytes(5000), headers=OCSP)).status_code == 413
    assert (await http.post("/ocsp", content=b"x", headers={"content-type": "text/plain"})).status_code == 415


async def test_a_root_is_not_answered_for(world: CaWorld, http: httpx.AsyncClient) -> None:
    """Roots have CRLs, no responder: unauthorized."""
    root = world.families["ecdsa"].root.certificate
    answer = await http.post("/ocsp", content=build_request(world.issuer(), root), headers=OCSP)
    assert answer.content == error_response("unauthorized")


OCSP = {"content-type": "application/ocsp-request"}


async def test_no_answer_may_be_cached_beyond_its_next_update(
    world: CaWorld, http: httpx.AsyncClient, leaf: x509.Certificate
) -> None:
    """Ten seconds before nextUpdate max-age is ten seconds, and none after it."""
    text = base64.b64encode(build_request(leaf, world.issuer())).decode()
    world.clock.advance(timedelta(days=1) - timedelta(seconds=10))
    assert (await http.get("/crl")).headers["cache-control"].startswith("max-age=10,")
    assert (await http.get("/ocsp/" + text)).headers["cache-control"].startswith("max-age=60,")
    world.clock.advance(timedelta(minutes=1))
    assert (await http.get("/crl")).headers["cache-control"].startswith("max-age=0,")


async def test_a_304_does_not_speak_of_an_empty_body(http: httpx.AsyncClient) -> None:
    """RFC 9110 §8.6: a 304 has no Content-Length but that of the body which is not sent."""
    tag = (await http.get("/crl")).headers["etag"]
    assert "content-length" not in (await http.get("/crl", headers={"if-none-match": tag})).headers


async def test_a_url_that_ends_with_a_slash_costs_nothing(
    world: CaWorld, http: httpx.AsyncClient, leaf: x509.Certificate
) -> None:
    """Clients that put two slashes before the request are answered."""
    answer = await http.get("/ocsp//" + quote(base64.b64encode(build_request(leaf, world.issuer())).decode(), safe=""))
    verify_response(answer.content, leaf, world.issuer(), world.clock.now())


async def test_unknown_is_not_to_be_stored(world: CaWorld, http: httpx.AsyncClient) -> None:
    """A serial that is unknown now may be issued next; caches keep nothing of it."""
    request = sequence(sequence(sequence(sequence(CertId.of(world.issuer(), 5).der))))
    answer = await http.get("/ocsp/" + quote(base64.b64encode(request).decode(), safe=""))
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/crl/ecdsa", "issuing-ecdsa"),
        ("/crl/mldsa", "issuing-mldsa"),
        ("/crl/ecdsa.crl", "issuing-ecdsa"),
        ("/crl/ecdsa/delta", "issuing-ecdsa/delta"),
        ("/crl/issuing-mldsa/delta", "issuing-mldsa/delta"),
    ],
)
async def test_a_family_has_the_lists_of_its_active_issuer(
    world: CaWorld, http: httpx.AsyncClient, path: str, number: str
) -> None:
    """Whoever knows the family alone finds its CRL, and the delta."""
    answer, stored = await http.get(path), world.core.publisher.newest(number)
    assert stored is not None
    assert (answer.status_code, answer.content) == (200, stored.der)
    assert answer.headers["content-type"] == "application/pkix-crl"


@pytest.mark.parametrize(
    "path",
    [
        "/crl/issuing-ecdsa/1",
        "/crl/issuing-ecdsa/0",
        "/crl/issuing-ecdsa/-1",
        "/crl/issuing-ecdsa/1/delta",
        "/crl/issuing-ecdsa/delta/delta",
        "/crl/issuing-ecdsa/",
        "/crl/delta",
        "/crl/",
        "/crl//",
        "/crl//delta",
        "/crl/.crl",
        "/crl/rsa",
        "/crl/root-ecdsa/delta",
        "/crl/" + "a" * 4000,
        "/crl/issuing-ecdsa%2F1",
        "/crl/%00",
    ],
    ids=range(16),
)
async def test_a_list_that_is_not_there_is_404(http: httpx.AsyncClient, path: str) -> None:
    """Unknown issuers and shards are told what there is, in few words."""
    answer = await http.get(path)
    assert answer.status_code == 404
    assert len(answer.content) < 1000


async def test_a_megabyte_of_ocsp_is_refused_unread(http: httpx.AsyncClient) -> None:
    """By POST it is too large, by GET malformed; neither is a crash, and the next request is answered."""
    assert (await http.post("/ocsp", content=bytes(1 << 20), headers=OCSP)).status_code == 413
    answer = await http.get("/ocsp/" + base64.b64encode(bytes(45_000)).decode())
    assert answer.content == error_response("malformedRequest")
    assert (await http.get("/crl")).status_code == 200


@drawn(garbage=st.binary(max_size=200), padded=st.booleans(), slashes=st.integers(0, 3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_garbage_by_get_and_post_is_answered(
    http: httpx.AsyncClient, garbage: bytes, *, padded: bool, slashes: int
) -> None:
    """Whatever the octets, both ways answer 200 and the same OCSP error; only an empty path may be none of OCSP's."""
    text = base64.b64encode(garbage).decode()
    got = await http.get("/ocsp/" + "/" * slashes + quote(text if padded else text.rstrip("="), safe="/"))
    posted = await http.post("/ocsp", content=garbage, headers=OCSP)
    assert posted.content == error_response("malformedRequest")
    assert got.content == posted.content or not garbage
