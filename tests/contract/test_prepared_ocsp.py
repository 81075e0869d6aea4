"""What the HTTP listener answers at once is what it would answer the normal way."""

import base64
from datetime import timedelta
from urllib.parse import quote

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pkicore.ocsp import build_request
from pkicore.x509.certificate import load_chain
from services.ca.prepared_ocsp import PreparedOcsp
from services.ca.wire import RevocationRequest
from services.chassis.plain_request import PlainRequest
from tests.support.ca_world import ACME, CaWorld

OCSP = "application/ocsp-request"
MAX_AGE = 60


@pytest.fixture
def prepared(world: CaWorld) -> PreparedOcsp:
    """The look-up of its HTTP listener."""
    return PreparedOcsp(world.core.answers, MAX_AGE, world.clock)


@pytest.fixture
async def leaf(world: CaWorld) -> x509.Certificate:
    """A fresh certificate."""
    return load_chain((await world.issue("a.example")).certificate.encode())[0]


def post(body: bytes, media_type: bytes = OCSP.encode(), target: bytes = b"/ocsp") -> PlainRequest:
    """As it is read from a connection."""
    return PlainRequest(b"POST", target, media_type, body, False, 0)


def get(text: str) -> PlainRequest:
    """As it is read from a connection."""
    return PlainRequest(b"GET", b"/ocsp/" + text.encode(), b"", b"", False, 0)


def fields(head: bytes) -> dict[str, str]:
    """A prepared head."""
    return dict(line.split(": ", 1) for line in head.decode().split("\r\n") if line)


async def test_the_same_is_answered_on_both_ways(
    world: CaWorld, prepared: PreparedOcsp, leaf: x509.Certificate
) -> None:
    """Body and every header field but the request id, by GET and by POST, under the same route."""
    request = build_request(leaf, world.issuer())
    path = base64.b64encode(request).decode()
    assert prepared.find(post(request)) is None
    async with world.status() as http:
        posted = await http.post("/ocsp", content=request, headers={"content-type": OCSP})
        got = await http.get("/ocsp/" + quote(path, safe=""))
    for normal, asked, route in ((posted, post(request), "/ocsp"), (got, get(path), "/ocsp/{request...}")):
        found = prepared.find(asked)
        assert found is not None
        assert (found.route, found.body) == (route, normal.content)
        assert fields(found.head) == {k: v for k, v in normal.headers.items() if k != "x-request-id"}


async def test_usual_encodings_are_ready(world: CaWorld, prepared: PreparedOcsp, leaf: x509.Certificate) -> None:
    """Padded or not, percent-encoded or not; others go the normal way, also where they say the same."""
    request = build_request(leaf, world.issuer(), hash_name="sha256")
    await world.core.answers.answer(request)
    path = base64.b64encode(request).decode()
    for text in (path, path.rstrip("="), quote(path, safe=""), quote(path.rstrip("="), safe="")):
        assert prepared.find(get(text)) is not None
    for text in ("/" + path, path + "/", path.replace("M", "%4D"), quote(path, safe="").lower(), path[:-4], path + "%"):
        assert prepared.find(get(text)) is None


@pytest.mark.parametrize(("media_type", "target"), [(b"", b"/ocsp"), (b"text/plain", b"/ocsp"), (None, b"/ocsp/")])
async def test_what_would_be_refused_is_not_ready(
    world: CaWorld, prepared: PreparedOcsp, leaf: x509.Certificate, media_type: bytes | None, target: bytes
) -> None:
    """Another media type, another path."""
    request = build_request(leaf, world.issuer())
    await world.core.answers.answer(request)
    assert prepared.find(post(request)) is not None
    assert prepared.find(post(request, OCSP.encode() if media_type is None else media_type, target)) is None


async def test_nothing_old_is_ready(world: CaWorld, prepared: PreparedOcsp, leaf: x509.Certificate) -> None:
    """Neither from half of its life on, nor from the future, nor after a revocation."""
    request = build_request(leaf, world.issuer())
    await world.core.answers.answer(request)
    world.clock.advance(timedelta(hours=6) - timedelta(seconds=1))
    assert prepared.find(post(request)) is not None
    world.clock.advance(timedelta(seconds=1))
    assert prepared.find(post(request)) is None
    await world.core.answers.answer(request)
    world.clock.advance(-timedelta(seconds=1))
    assert prepared.find(post(request)) is None
    await world.core.answers.answer(request)
    assert prepared.find(post(request)) is not None
    await world.core.revoker.revoke(ACME, RevocationRequest("superseded", serial=f"{leaf.serial_number:x}"))
    assert prepared.find(post(request)) is None


async def test_no_cache_may_keep_it_beyond_its_end(world: CaWorld, leaf: x509.Certificate) -> None:
    """Where max-age is longer than what is left of an answer's life, it gets shorter by the second."""
    prepared = PreparedOcsp(world.core.answers, 86_400, world.clock)
    request = build_request(leaf, world.issuer())
    await world.core.answers.answer(request)
    text = base64.b64encode(request).decode()
    for left in (43_200, 43_199, 43_099):
        found = prepared.find(get(text))
        assert found is not None
        assert fields(found.head)["cache-control"].startswith(f"max-age={left},")
        world.clock.advance(timedelta(seconds=1 if left == 43_200 else 100))


@given(st.binary(max_size=200), st.text("ABCab/+=%23D", max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_garbage_is_not_ready(prepared: PreparedOcsp, garbage: bytes, text: str) -> None:
    """It is told so on the normal way."""
    assert prepared.find(post(garbage)) is None
    assert prepared.find(get(text)) is None
    assert prepared.find(get(quote(base64.b64encode(garbage).decode(), safe=""))) is None
