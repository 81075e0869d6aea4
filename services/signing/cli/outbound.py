"""Requests to OIDC issuers and to GitHub's runner: https alone, nothing followed, answers bounded and in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from pkicore.errors import MalformedError
from pkicore.jose.strict import strict_object

MAX_ANSWER: Final = 64 * 1024  # octets
_SECONDS: Final = 15.0  # one request


@dataclass(frozen=True, slots=True)
class Outbound:
    """Asks others than the signing service.

    Attributes:
        http: carries the requests.
        seconds: that one of them may take.
    """

    http: httpx.AsyncClient
    seconds: float = _SECONDS

    async def get(self, url: str, headers: Mapping[str, str]) -> bytes:
        """The body of a 200.

        Raises:
            OSError: no answer, another status, or a body longer than 64 KiB.
        """
        status, body = await self._ask("GET", url, headers, None)
        if status != httpx.codes.OK:
            raise OSError(f"the answer has status {status}")
        return body

    async def document(self, url: str) -> dict[str, Any]:
        """The JSON object at a URL.

        Raises:
            OSError: as `get`.
            MalformedError: it is none.
        """
        return strict_object(await self.get(url, {}), f"the document at {url}")

    async def post_form(self, url: str, fields: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """Status and JSON object that a form leads to.

        Raises:
            OSError: no answer, or a body longer than 64 KiB.
            MalformedError: no JSON object.
        """
        status, body = await self._ask("POST", url, {"accept": "application/json"}, fields)
        return status, strict_object(body, f"the answer of {url}")

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str], fields: Mapping[str, str] | None
    ) -> tuple[int, bytes]:
        if not url.startswith("https://"):
            raise MalformedError(f"{url} is no https URL")
        body = bytearray()
        try:
            async with (
                asyncio.timeout(self.seconds),
                self.http.stream(method, url, headers=headers, data=fields) as response,
            ):
                async for part in response.aiter_raw():
                    body += part
                    if len(body) > MAX_ANSWER:
                        raise OSError(f"the answer of {response.url.host} has more than {MAX_ANSWER} octets")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ConnectionError(f"{_host(url)} does not answer: {str(error) or type(error).__name__}") from error
        except TimeoutError as error:
            raise TimeoutError(f"{_host(url)} gave no whole answer within {self.seconds:g} seconds") from error
        return response.status_code, bytes(body)


@asynccontextmanager
async def outbound(ca_file: Path | None) -> AsyncIterator[Outbound]:
    """With the roots in a file; None: those of the system.

    Raises:
        SettingsError: the file cannot be read.
    """
    from services.chassis.oidc.issuer_keys import url_client  # here: it loads much that most commands never need

    async with url_client(ca_file) as http:
        yield Outbound(http)


def _host(url: str) -> str:
    return httpx.URL(url).host if url.isprintable() else "the issuer"
