"""Signed requests of one account (RFC 8555 §6): directory, nonces, problems, polling."""

from __future__ import annotations

import hmac
import ssl
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from pkicore.algorithms import PrivateKey
from pkicore.encoding import base64url_encode
from pkicore.errors import MalformedError
from pkicore.jose.jwk import jwk_of, thumbprint
from pkicore.jose.jws import sign_jws
from pkicore.jose.strict import strict_object
from services.acme.acme_client.errors import RequestInputError, RequestRefusedError, ServerAnswerError

MAX_ANSWER: Final = 1 << 20  # octets
NONCE_TRIES: Final = 5
_JOSE: Final = {"Content-Type": "application/jose+json"}
_PROBLEM: Final = "urn:ietf:params:acme:error:"
_SECONDS: Final = 30.0  # of silence within one request
_POLL_SECONDS: Final = 300.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_ERROR: Final = 400


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said."""

    status: int
    headers: httpx.Headers
    body: bytes

    def document(self) -> dict[str, Any]:
        """The JSON object in the body.

        Raises:
            ServerAnswerError: there is none.
        """
        try:
            return strict_object(self.body, "the answer")
        except MalformedError as error:
            raise ServerAnswerError(f"the server answered with status {self.status}, and {error}") from error

    def location(self) -> str:
        """The URL of what was made.

        Raises:
            ServerAnswerError: it is not there.
        """
        return member({"Location": self.headers.get("Location")}, "Location")


@dataclass(frozen=True, slots=True)
class ExternalAccount:
    """What an operator handed out: a key identifier and its MAC key."""

    kid: str
    mac_key: bytes


class Session:
    """One account key before one server.

    Args:
        http: carries the requests; it must follow no redirects.
        directory: the URL that everything starts from.
        key: the account key.
        pause: waits for so many seconds.
    """

    def __init__(
        self, http: httpx.Client, directory: str, key: PrivateKey, *, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._http = http
        self._key = key
        self._pause = pause
        self._kid: str | None = None
        self._nonces: list[str] = []
        self._resources = self._request("GET", directory).document()

    def key_authorization(self, token: str) -> str:
        """What proves control (RFC 8555 §8.1)."""
        return f"{token}.{thumbprint(self._key.public_key())}"

    def offers(self, resource: str) -> bool:
        """Whether the directory has it."""
        return resource in self._resources

    def resource(self, name: str) -> str:
        """A URL of the directory."""
        return member(self._resources, name)

    def register(
        self, contact: Collection[str] = (), external: ExternalAccount | None = None, *, agreed: bool = False
    ) -> None:
        """Make the account, or find it where the key has one already, which agrees to terms that are new to it.

        Raises:
            RequestInputError: the server has terms of service that were not agreed to.
            RequestRefusedError: the server wants no such account.
        """
        meta = self._resources.get("meta")
        if isinstance(meta, dict) and "termsOfService" in meta and not agreed:
            raise RequestInputError(f"read {meta['termsOfService']}, and say --agree-terms")
        url = self.resource("newAccount")
        wanted: dict[str, Any] = {"termsOfServiceAgreed": agreed, "contact": [f"mailto:{one}" for one in contact]}
        if external is not None:
            wanted["externalAccountBinding"] = self._binding(external, url)
        answer = self.post(url, wanted)
        self._kid = answer.location()
        if agreed and answer.status == HTTPStatus.OK and not answer.document().get("termsOfServiceAgreed"):
            self.post(self._kid, {"termsOfServiceAgreed": True})

    def sign_in(self) -> None:
        """Find the account that the key has.

        Raises:
            RequestRefusedError: it has none.
        """
        self._kid = self.post(self.resource("newAccount"), {"onlyReturnExisting": True}).location()

    def get(self, url: str) -> dict[str, Any]:
        """A document that is for everybody."""
        return self._request("GET", url).document()

    def post(self, url: str, payload: Mapping[str, Any] | None = None) -> Answer:
        """A signed request, POST-as-GET without payload; again with the server's nonce where it wants another.

        Raises:
            RequestRefusedError: a problem document.
            ServerAnswerError: no usable answer.
        """
        octets = b"" if payload is None else orjson.dumps(payload)
        for _ in range(NONCE_TRIES - 1):
            try:
                return self._post_once(url, octets)
            except RequestRefusedError as error:
                if error.kind != "badNonce":
                    raise
        return self._post_once(url, octets)

    def poll(self, url: str, while_in: Collection[str], seconds: float = _POLL_SECONDS) -> dict[str, Any]:
        """Ask until the status of an order or authorization is none of these.

        Raises:
            ServerAnswerError: it still is after the time.
        """
        deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE
        while True:
            answer = self.post(url)
            document = answer.document()
            if document.get("status") not in while_in:
                return document
            if time.monotonic() > deadline:
                raise ServerAnswerError(f"{url} is still {document['status']} after {seconds:g} seconds")
            self._pause(max(pause, min(_retry_after(answer), _LONGEST_PAUSE)))
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _post_once(self, url: str, payload: bytes) -> Answer:
        protected: dict[str, object] = {"nonce": self._nonce(), "url": url}
        protected |= {"jwk": jwk_of(self._key.public_key())} if self._kid is None else {"kid": self._kid}
        return self._request("POST", url, sign_jws(self._key, payload, protected))

    def _nonce(self) -> str:
        if not self._nonces:
            self._request("HEAD", self.resource("newNonce"))
        if not self._nonces:
            raise ServerAnswerError("the server gives no nonce")
        return self._nonces.pop()

    def _request(self, method: str, url: str, content: bytes | None = None) -> Answer:
        if not url.startswith("https://"):
            raise ServerAnswerError(f"{url[:200]!r} is no https URL")
        try:
            with self._http.stream(method, url, content=content, headers=_JOSE if content else {}) as response:
                answer = Answer(response.status_code, response.headers, _bounded(response))
        except httpx.HTTPError as error:
            raise ServerAnswerError(f"no answer from {url}: {str(error) or type(error).__name__}") from error
        if nonce := answer.headers.get("Replay-Nonce"):
            self._nonces.append(nonce)
        if answer.status >= _ERROR:
            problem = answer.document()
            raise RequestRefusedError(str(problem.get("type", "")).removeprefix(_PROBLEM), _sentence(problem))
        return answer

    def _binding(self, external: ExternalAccount, url: str) -> dict[str, str]:
        header = base64url_encode(orjson.dumps({"alg": "HS256", "kid": external.kid, "url": url}))
        payload = base64url_encode(orjson.dumps(jwk_of(self._key.public_key())))
        mac = hmac.digest(external.mac_key, f"{header}.{payload}".encode(), "sha256")
        return {"protected": header, "payload": payload, "signature": base64url_encode(mac)}


def http_client(ca_bundle: Path | None) -> httpx.Client:
    """Requests that trust the bundle, or the system's where there is none.

    Raises:
        RequestInputError: the bundle cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=ca_bundle)
    except OSError as error:
        raise RequestInputError(f"{ca_bundle} is no bundle of certificates: {error.strerror or error}") from error
    return httpx.Client(verify=context, timeout=_SECONDS, headers={"User-Agent": "ztca"})


def member(document: Mapping[str, Any], name: str) -> str:
    """A text that the server must have given.

    Raises:
        ServerAnswerError: it has not.
    """
    value = document.get(name)
    if not isinstance(value, str):
        raise ServerAnswerError(f"the server's answer lacks {name}")
    return value


def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER:
            raise ServerAnswerError(f"the answer is larger than {MAX_ANSWER} octets")
    return bytes(body)


def _retry_after(answer: Answer) -> float:
    with suppress(ValueError):  # it may be a date, which none sends to those who poll
        return float(answer.headers.get("Retry-After", "0"))
    return 0.0


def _sentence(problem: Mapping[str, Any]) -> str:
    """The problem's sentence and those of its sub-problems."""
    parts = problem.get("subproblems")
    details = [problem, *parts] if isinstance(parts, list) else [problem]
    return "; ".join(str(part.get("detail", "no reason given")) for part in details if isinstance(part, dict))
