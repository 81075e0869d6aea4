"""The signing service as commands ask it: JSON in and out, uploads and downloads in pieces, refusals as sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import IO, Any, Final, TypeVar
from urllib.parse import quote, urlencode

import httpx
import orjson

from pkicore.errors import MalformedError, TransportError
from services.chassis.problems import INTERNAL_PREFIX
from services.signing.cli.failures import REFUSED, UNAVAILABLE, CommandError
from services.signing.wire import SignaturePage, SignatureRecord, SignatureRequest

MAX_ANSWER: Final = 4 << 20  # octets of an answer that is read whole
SIGN_SECONDS: Final = 300.0  # the check of a large SBOM takes its time
_LATER: Final = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_NEXT: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "the credential is named above; `pqcsign --help` says which ones are looked for",
    HTTPStatus.FORBIDDEN: "the scopes of the API key, and a Cedar policy of the service, must allow it: "
    "`pqcsign policy test` tries policies out",
}
_NEXT_BY_KIND: Final[Mapping[str, str]] = {
    "idempotency-conflict": "give another --idempotency-key",
    "key-unusable": "is the key's name right? signer-hsm also needs a rule that lets the signing service use it: "
    "config/keys.toml",
}

_Read = TypeVar("_Read")
Parts = Mapping[str, tuple[str | None, IO[bytes] | bytes, str]]
"""Name of a part -> file name, content and media type."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an answer says that is no success."""

    status: int
    kind: str
    title: str
    detail: str
    retry_after: float | None


class Service:
    """Asks the service.

    Its methods raise CommandError where the service refuses (REFUSED) or cannot be asked now (UNAVAILABLE), and
    MalformedError where its answer makes no sense.

    Args:
        http: whose base URL is the service's, and which shows the credential.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def sign(self, request: SignatureRequest, documents: Parts, idempotency_key: str) -> SignatureRecord:
        """`POST /v1/signatures`: JSON alone, or as multipart with documents that are read in pieces."""
        headers = {"idempotency-key": idempotency_key}
        if not documents:
            headers["content-type"] = "application/json"
            content = request.to_json()
            built = self._http.build_request("POST", "/v1/signatures", content=content, headers=headers)
        else:
            parts = {"request": (None, request.to_json(), "application/json"), **documents}
            built = self._http.build_request("POST", "/v1/signatures", files=parts, headers=headers)
        built.extensions["timeout"] = httpx.Timeout(SIGN_SECONDS, connect=10.0).as_dict()
        return await self._read(SignatureRecord.from_json, built)

    async def record(self, signature_id: str) -> SignatureRecord:
        """`GET /v1/signatures/{id}`."""
        return await self.ask(SignatureRecord.from_json, "GET", f"/v1/signatures/{quote(signature_id, safe='')}")

    async def records(self, digest: str, predicate_type: str | None, limit: int) -> list[SignatureRecord]:
        """The newest `limit` records about a digest, `sha256:HEX`."""
        query = {"subject_digest": digest} | ({} if predicate_type is None else {"predicate_type": predicate_type})
        found: list[SignatureRecord] = []
        after: str | None = None
        while len(found) < limit:
            page_query = query | ({} if after is None else {"after": after})
            page = await self.ask(SignaturePage.from_json, "GET", f"/v1/signatures?{urlencode(page_query)}")
            found += page.records
            after = page.next
            if after is None:
                break
        return found[:limit]

    async def public_key(self, key_id: str) -> bytes:
        """`GET /v1/keys/{id}/public-key`: PEM."""
        return await self.ask(bytes, "GET", f"/v1/keys/{quote(key_id, safe='')}/public-key")

    async def ask(self, parse: Callable[[bytes], _Read], method: str, path: str, body: bytes | None = None) -> _Read:
        """One request and its answer, read by `parse`; the JSON `body` goes along."""
        headers = {} if body is None else {"content-type": "application/json"}
        return await self._read(parse, self._http.build_request(method, path, content=body, headers=headers))

    async def download(self, path: str, file: IO[bytes]) -> None:
        """Write what is at a path of the service, which an answer named, into a file."""
        if not path.startswith("/v1/"):
            raise MalformedError("the service names a URL that is not its own")
        response = await self._send(self._http.build_request("GET", path))
        try:
            if not response.is_success:
                raise _failure(response.status_code, response.headers, await _whole(response))
            async for part in response.aiter_raw():
                file.write(part)
        except httpx.HTTPError as error:
            raise _no_answer(error) from error
        finally:
            await response.aclose()

    async def _read(self, parse: Callable[[bytes], _Read], request: httpx.Request) -> _Read:
        response = await self._send(request)
        try:
            body = await _whole(response)
        except httpx.HTTPError as error:
            raise _no_answer(error) from error
        finally:
            await response.aclose()
        if not response.is_success:
            raise _failure(response.status_code, response.headers, body)
        try:
            return parse(body)
        except MalformedError as error:
            raise MalformedError(f"the signing service's answer makes no sense: {error}") from error

    async def _send(self, request: httpx.Request) -> httpx.Response:
        request.headers["accept-encoding"] = "identity"
        try:
            return await self._http.send(request, stream=True)
        except TransportError as error:
            advice = "is --url right, and does --ca hold the roots of its certificate?"
            raise CommandError(
                f"the signing service at {_place(request)} is not trusted: {error}", REFUSED, advice
            ) from error
        except httpx.HTTPError as error:
            raise _no_answer(error) from error


async def _whole(response: httpx.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > MAX_ANSWER:
            raise MalformedError(f"the signing service's answer has more than {MAX_ANSWER} octets")
    return bytes(body)


def _no_answer(error: httpx.HTTPError) -> CommandError:
    return CommandError(
        f"the signing service does not answer: {str(error) or type(error).__name__}", UNAVAILABLE, "try again later"
    )


def _place(request: httpx.Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc.decode('ascii', 'replace')}"


def _failure(status: int, headers: httpx.Headers, body: bytes) -> CommandError:
    refusal = _refusal(status, headers, body)
    said = f"{refusal.title}: {refusal.detail}" if refusal.title else refusal.detail
    sentence = f"the signing service answered {status}: {said}"
    if status not in _LATER:
        return CommandError(sentence, REFUSED, _NEXT_BY_KIND.get(refusal.kind, _NEXT.get(status)))
    wait = "later" if refusal.retry_after is None else f"in {refusal.retry_after:g} s"
    return CommandError(sentence, UNAVAILABLE, f"try again {wait}")


def _refusal(status: int, headers: httpx.Headers, body: bytes) -> Refusal:
    """The problem document (RFC 9457) and Retry-After of an answer."""
    try:
        problem: Any = orjson.loads(body)
        kind = str(problem["type"]).removeprefix(INTERNAL_PREFIX)
        title = str(problem.get("title") or "")
        detail = str(problem.get("detail") or kind)
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        kind, title, detail = "", "", "without a problem document"
    seconds = headers.get("retry-after", "")
    return Refusal(status, kind, title[:200], detail[:2000], float(seconds) if seconds.isdecimal() else None)
