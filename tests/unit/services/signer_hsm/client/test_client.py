from __future__ import annotations

import httpx
import pytest

from pkicore.errors import KeyAccessError, KeyNotFoundError, KeyUnavailableError, TransportError
from services.signer_hsm import client as module
from services.signer_hsm.client import SignerClient, SignerRefusedError, SignerUnavailableError


def answering(status: int, body: bytes) -> SignerClient:
    """A client whose every request has this answer."""
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=body))
    return SignerClient(httpx.AsyncClient(transport=transport, base_url="https://signer"))


def problem(kind: str, extra: str = "") -> bytes:
    """A problem document."""
    return b'{"type":"urn:pqcpki:problem:%s","title":"T","detail":"D"%s}' % (kind.encode(), extra.encode())


@pytest.mark.parametrize("kind", module.REFUSALS)
async def test_each_refusal_is_typed(kind: str) -> None:
    """Every problem of the table is its own error, and an error that key users know."""
    with pytest.raises(SignerRefusedError) as caught:
        await answering(409, problem(kind)).key("ca.k")
    assert type(caught.value) is module.REFUSALS[kind]
    assert isinstance(caught.value, KeyAccessError)
    assert (caught.value.kind, caught.value.status, str(caught.value)) == (kind, 409, "D")


async def test_what_no_table_knows() -> None:
    """Other client errors are refusals, server errors unavailability with the time to come back."""
    with pytest.raises(SignerRefusedError):
        await answering(400, problem("malformed")).key("ca.k")
    with pytest.raises(SignerUnavailableError) as caught:
        await answering(503, problem("backend-throttled", ',"retry_after":2.5')).key("ca.k")
    assert (caught.value.kind, caught.value.retry_after) == ("backend-throttled", 2.5)
    with pytest.raises(KeyNotFoundError):
        await answering(404, problem("key-not-found")).public_key("ca.k", None)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"nonsense", b'{"key":"ca.k","version":0}', b"\xff"])
@pytest.mark.parametrize("status", [200, 404, 500])
async def test_answers_that_make_no_sense(status: int, body: bytes) -> None:
    """Whatever is no answer and no problem is unavailability."""
    for call in (
        answering(status, body).key("ca.k"),
        answering(status, body).public_key("ca.k", 1),
        answering(status, body).sign("ca.k", 1, "digest", bytes(32), "ES256"),
        answering(status, body).health(),
    ):
        with pytest.raises(KeyUnavailableError):
            await call


async def test_a_public_key_that_is_none() -> None:
    """A key that does not parse, or of an algorithm that is not offered, is no answer."""
    body = b'{"key":"ca.k","version":1,"algorithm":"x","public_key":"AAAA","kinds":["digest"],"schemes":["ES256"]}'
    with pytest.raises(KeyUnavailableError, match="makes no sense"):
        await answering(200, body).public_key("ca.k", 1)


async def test_a_signature_that_is_a_problem() -> None:
    """One payload whose signature failed alone is no signature."""
    body = b'{"key":"ca.k","version":1,"scheme":"ES256","signatures":[]}'
    with pytest.raises(SignerUnavailableError, match="another number of signatures"):
        await answering(200, body).sign("ca.k", 1, "digest", bytes(32), "ES256")


class Broken:
    """Whatever carries the requests, and does not."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def request(self, *_: object, **__: object) -> httpx.Response:
        """Fail."""
        raise self.error


@pytest.mark.parametrize("error", [TransportError("refused"), ConnectionResetError(), TimeoutError()])
async def test_no_answer_at_all(error: Exception) -> None:
    """A transport that fails is a key that cannot be used now."""
    with pytest.raises(KeyUnavailableError):
        await SignerClient(Broken(error)).health()
