"""The keys of an OIDC issuer: fetched, bounded, kept, and fetched again when a token names one that is missing.

1. A key that is known is used at once, without I/O, also while a fetch is under way.
2. An unknown kid, or keys older than an hour, lead to one fetch at most per minute, whoever asks and however it ends.
3. A fetch that fails leaves the keys as they are, for a day; then they are forgotten, since a key that the issuer has
   withdrawn must not be good for ever.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import structlog

from pkicore.algorithms import PublicKey
from pkicore.errors import MalformedError
from pkicore.jose.jwt import MAX_JWKS, JwkSet
from pkicore.jose.strict import strict_object
from services.chassis.errors import SettingsError
from services.chassis.oidc.issuers import https_url

RETRY_SECONDS: Final = 60.0
REFRESH_SECONDS: Final = 3600.0
FORGET_SECONDS: Final = 86_400.0
_CONNECT_SECONDS: Final = 3.0
_FETCH_SECONDS: Final = 5.0
_MAX_DISCOVERY: Final = 64 * 1024  # octets
_DISCOVERY_PATH: Final = "/.well-known/openid-configuration"

Fetch = Callable[[], Awaitable[bytes]]
"""Reads the JWK set's octets; raises OSError, httpx.HTTPError, httpx.InvalidURL or MalformedError."""


class IssuerKeys:
    """One issuer's keys.

    Args:
        issuer: for the log.
        fetch: where they come from.
        monotonic: seconds that never go back.
        deadline: seconds that a fetch may take.
    """

    def __init__(
        self, issuer: str, fetch: Fetch, monotonic: Callable[[], float], *, deadline: float = _FETCH_SECONDS
    ) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._deadline = deadline
        self._keys: JwkSet | None = None
        self._fetched_at = 0.0
        self._tried_at: float | None = None
        self._fetching = asyncio.Lock()
        self._log = structlog.get_logger("oidc").bind(issuer=issuer)

    async def find(self, kid: str | None, alg: str) -> PublicKey | None:
        """The key that a token's header names, None if the issuer has none such, or cannot be asked."""
        key = self._known(kid, alg)
        fresh = self._monotonic() - self._fetched_at < REFRESH_SECONDS
        if key is not None and (fresh or self._fetching.locked()):
            return key
        async with self._fetching:
            if self._may_try():
                await self._refresh()
        return self._known(kid, alg)

    def _known(self, kid: str | None, alg: str) -> PublicKey | None:
        if self._keys is None or self._monotonic() - self._fetched_at >= FORGET_SECONDS:
            return None
        return self._keys.find(kid, alg)

    def _may_try(self) -> bool:
        return self._tried_at is None or self._monotonic() - self._tried_at >= RETRY_SECONDS

    async def _refresh(self) -> None:
        self._tried_at = self._monotonic()
        try:
            async with asyncio.timeout(self._deadline):
                keys = JwkSet.parse(await self._fetch())
        except (OSError, httpx.HTTPError, httpx.InvalidURL, MalformedError) as error:  # TimeoutError is an OSError
            self._log.warning("the issuer's keys were not read", error=str(error) or type(error).__name__)
            return
        self._keys, self._fetched_at = keys, self._monotonic()


def file_fetch(path: Path) -> Fetch:
    """Reads a small local file."""

    async def fetch() -> bytes:
        def read() -> bytes:
            with path.open("rb") as file:
                return file.read(MAX_JWKS + 1)

        return await asyncio.to_thread(read)

    return fetch


def url_client(ca_file: Path | None) -> httpx.AsyncClient:
    """A client that follows nothing, takes nothing from the environment and waits for nothing long.

    Raises:
        SettingsError: the file of roots cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"jwks_ca_file {ca_file} cannot be read as PEM certificates") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return httpx.AsyncClient(
        verify=context,
        trust_env=False,
        follow_redirects=False,
        timeout=httpx.Timeout(_FETCH_SECONDS, connect=_CONNECT_SECONDS),
        headers={"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"},
    )


def url_fetch(http: httpx.AsyncClient, url: str) -> Fetch:
    """Reads an https URL, no more of it than a JWK set may have."""

    async def fetch() -> bytes:
        return await _read(http, url, MAX_JWKS)

    return fetch


def discovery_fetch(http: httpx.AsyncClient, issuer: str) -> Fetch:
    """Reads the JWK set that the issuer's discovery document names, each time (OpenID Connect Discovery 1.0 §4).

    The document must name the very issuer (§4.3), and keys on the issuer's own host: whoever may write one document
    there must not be able to send this service elsewhere. Another host's keys are configured as `jwks_url`.
    """
    url = issuer.rstrip("/") + _DISCOVERY_PATH

    async def fetch() -> bytes:
        document = strict_object(await _read(http, url, _MAX_DISCOVERY), "the discovery document")
        if document.get("issuer") != issuer:
            raise MalformedError("the discovery document is of another issuer")
        return await _read(http, _keys_url(document.get("jwks_uri"), issuer), MAX_JWKS)

    return fetch


def _keys_url(url: object, issuer: str) -> str:
    try:
        found = https_url(url) if isinstance(url, str) else None
    except ValueError:
        found = None
    if found is None or urlsplit(found).netloc != urlsplit(issuer).netloc:
        raise MalformedError("the discovery document's jwks_uri is no https URL on the issuer's host: set jwks_url")
    return found


async def _read(http: httpx.AsyncClient, url: str, most: int) -> bytes:
    """The body, which must not have more than `most` octets."""
    body = bytearray()
    async with http.stream("GET", url) as response:
        if response.status_code != httpx.codes.OK:
            raise OSError(f"the answer has status {response.status_code}")
        async for part in response.aiter_raw():
            body += part
            if len(body) > most:
                raise MalformedError(f"the answer has more than {most} octets")
    return bytes(body)
