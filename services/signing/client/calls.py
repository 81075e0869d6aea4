"""Requests to the signing service and its answers: read whole and bounded, or in pieces; refusals as exceptions."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import IO, Any, Final, TypeVar

import httpx
import orjson

from pkicore.errors import MalformedError, TransportError
from services.chassis.problems import INTERNAL_PREFIX
from services.signing.client.errors import SigningRefusedError, SigningUnavailableError, UntrustedServiceError

MAX_ANSWER: Final = 4 << 20  # octets of an answer that is read whole
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

_Read = TypeVar("_Read")


class Calls:
    """One request at a time.

    Its methods raise SigningClientError, and MalformedError where an answer makes no sense.

    Args:
        http: whose base URL is the service's, and which shows the credential.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    def request(self, method: str, path: str, **content: Any) -> httpx.Request:  # noqa: ANN401 - as httpx has it
        """A request with the base URL and the headers of the connection."""
        return self._http.build_request(method, path, **content)

    async def ask(self, parse: Callable[[bytes], _Read], method: str, path: str, body: bytes | None = None) -> _Read:
        """One request and its answer, read by `parse`; the JSON `body` goes along."""
        headers = {} if body is None else {"content-type": "application/json"}
        return await self.read(parse, self.request(method, path, content=body, headers=headers))

    async def read(self, parse: Callable[[bytes], _Read], request: httpx.Request) -> _Read:
        """The answer to a request, read by `parse`."""
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

    async def download(self, path: str, file: IO[bytes]) -> None:
        """Write what is at a path of the service, which an answer named, into a file."""
        if not path.startswith("/v1/"):
            raise MalformedError("the service names a URL that is not its own")
        response = await self._send(self.request("GET", path))
        try:
            if not response.is_success:
                raise _failure(response.status_code, response.headers, await _whole(response))
            async for part in response.aiter_raw():
                file.write(part)
        except httpx.HTTPError as error:
            raise _no_answer(error) from error
        finally:
            await response.aclose()

    async def _send(self, request: httpx.Request) -> httpx.Response:
        request.headers["accept-encoding"] = "identity"
        try:
            return await self._http.send(request, stream=True)
        except TransportError as error:
            raise UntrustedServiceError(f"the signing service at {_place(request)} is not trusted: {error}") from error
        except httpx.HTTPError as error:
            raise _no_answer(error) from error


async def _whole(response: httpx.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > MAX_ANSWER:
            raise MalformedError(f"the signing service's answer has more than {MAX_ANSWER} octets")
    return bytes(body)


def _no_answer(error: httpx.HTTPError) -> SigningUnavailableError:
    return SigningUnavailableError(f"the signing service does not answer: {str(error) or type(error).__name__}")


def _place(request: httpx.Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc.decode('ascii', 'replace')}"


def _failure(status: int, headers: httpx.Headers, body: bytes) -> SigningRefusedError | SigningUnavailableError:
    """The problem document (RFC 9457) and Retry-After of an answer."""
    try:
        problem: Any = orjson.loads(body)
        kind = str(problem["type"]).removeprefix(INTERNAL_PREFIX)
        title = str(problem.get("title") or "")[:200]
        detail = str(problem.get("detail") or kind)[:2000]
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        kind, title, detail = "", "", "without a problem document"
    sentence = f"the signing service answered {status}: {f'{title}: ' if title else ''}{detail}"
    if status not in _LATER:
        return SigningRefusedError(sentence, kind, status)
    seconds: str = headers.get("retry-after", "")
    return SigningUnavailableError(sentence, float(seconds) if seconds.isdecimal() else None)
