"""One request to Vault or OpenBao: hvac's adapter, without what it would take from its surroundings.

No environment (address, token, proxies), no `~/.vault-token`, no redirects: a token goes to the configured address and
nowhere else. Answers are bounded in size and in time, for a server that drips would hold a thread for ever.
Source: the HTTP API's overview (envelope, status codes) of Vault and OpenBao.
"""

from __future__ import annotations

import io
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import orjson
import requests
from hvac import exceptions as hvac
from hvac.adapters import RawAdapter
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ReadTimeoutError

from services.signer_hsm.backends.settings import CREATE_DEADLINES, VaultSettings
from services.signer_hsm.errors import BadAnswerError, MisconfiguredError, UnavailableError

Body: TypeAlias = Mapping[str, Any]

MAX_ANSWER: Final = 4 * 1024 * 1024
"""64 signatures of ML-DSA-87 take half a megabyte in base64; a key with a thousand RSA versions less than one."""
_CHUNK: Final = 64 * 1024
_SLOWEST: Final = 2
"""An answer's body may take so many times as long as one read."""


class BoundedTransport(HTTPAdapter):
    """HTTP with a pool as large as the lanes, the operator's roots, and a limit on what is read."""

    def __init__(self, workers: int, context: ssl.SSLContext, seconds: float) -> None:
        self._context = context
        self._seconds = seconds * _SLOWEST
        super().__init__(pool_connections=1, pool_maxsize=workers, max_retries=0, pool_block=True)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:  # noqa: FBT001, FBT002, ANN401 - as the base class has it
        """The base class' pool, with our TLS context."""
        super().init_poolmanager(connections, maxsize, block=block, ssl_context=self._context, **options)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:  # noqa: ANN401 - as the base class has it
        """Always verify, and by the context's roots alone."""
        del url, verify, cert
        conn.cert_reqs = "CERT_REQUIRED"

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:  # noqa: ANN401 - as the base class has it
        """Send, and read the whole body within the bounds.

        Raises:
            BadAnswerError: it is too long.
            ReadTimeout: it takes too long.
            ConnectionError: it breaks off.
        """
        response = super().send(request, *args, **{**options, "stream": True})
        try:
            body = self._read(response)
        except ReadTimeoutError as error:
            raise requests.ReadTimeout(error, request=request) from error
        except HTTPError as error:
            raise requests.ConnectionError(error, request=request) from error
        response.raw = io.BytesIO(body)
        return response

    def _read(self, response: requests.Response) -> bytes:
        until = time.monotonic() + self._seconds
        body = bytearray()
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            body += chunk
            if len(body) > MAX_ANSWER:
                response.close()
                raise BadAnswerError(f"Vault's answer is longer than {MAX_ANSWER} octets")
            if time.monotonic() > until:
                response.close()
                raise requests.ReadTimeout("the body came too slowly")
        response.raw.release_conn()
        return bytes(body)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request came back with.

    Attributes:
        status: of HTTP; 200, or 204 without a body, unless every status was asked for.
        body: the JSON object; empty where there is none.
    """

    status: int
    body: Body = field(default_factory=dict)

    @property
    def data(self) -> Body:
        """The envelope's `data`.

        Raises:
            BadAnswerError: it has none.
        """
        data = self.body.get("data")
        if not isinstance(data, dict):
            raise BadAnswerError("Vault's answer has no data")
        return data

    @property
    def request_id(self) -> str | None:
        """The id under which the server's audit log has the request."""
        found = self.body.get("request_id")
        return found if isinstance(found, str) and found else None


class VaultHttp:
    """The connections to one server; may be used by many threads."""

    def __init__(self, settings: VaultSettings) -> None:
        self._seconds = settings.timeout_seconds
        session = requests.Session()
        session.trust_env = False
        transport = BoundedTransport(settings.workers + 1, _context(settings), settings.timeout_seconds)
        session.mount("https://", transport)
        session.mount("http://", transport)
        self._adapter = RawAdapter(
            base_uri=settings.address.rstrip("/"),
            allow_redirects=False,
            session=session,
        )
        self._namespace = {"X-Vault-Namespace": settings.namespace} if settings.namespace else {}

    def call(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        *,
        token: str | None = None,
        request_id: str | None = None,
        health: bool = False,
        slow: bool = False,
    ) -> Answer:
        """One request and its answer.

        Args:
            method: GET, POST or DELETE.
            path: below `/v1/`.
            body: the JSON object to send.
            token: sent as X-Vault-Token.
            request_id: sent as X-Request-Id, which the audit log can be told to keep.
            health: for sys/health: give the answer of any status, instead of raising, and ask outside of the
                namespace, for inside there is no such path.
            slow: the server may have to make a key first; RSA takes it seconds.

        Raises:
            VaultError: (hvac) the server refuses.
            RequestException: (requests) it was not reached, or did not answer.
            UnavailableError: it points elsewhere: a standby.
            BadAnswerError: the answer is no JSON object, or too long.
        """
        headers = {} if health else dict(self._namespace)
        if token:
            headers["X-Vault-Token"] = token
        if request_id:
            headers["X-Request-Id"] = request_id
        response = self._adapter.request(
            method,
            f"v1/{path}",
            headers=headers,
            raise_exception=False,
            json=None if body is None else dict(body),
            timeout=(self._seconds, self._seconds * (CREATE_DEADLINES if slow else 1)),
        )
        if response.status_code >= requests.codes.bad_request and not health:
            raise hvac.VaultError.from_status(response.status_code, errors=_errors(response.content))
        return _answer(response)

    def close(self) -> None:
        """Close the connections."""
        self._adapter.close()


def _answer(response: requests.Response) -> Answer:
    status = response.status_code
    if 300 <= status < 400:  # noqa: PLR2004 - redirects
        raise UnavailableError("this Vault node is a standby and points to another one", retry_after=1)
    if status == requests.codes.no_content:
        return Answer(status)
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError as error:
        raise BadAnswerError("Vault's answer is no JSON") from error
    if not isinstance(body, dict):
        raise BadAnswerError("Vault's answer is no JSON object")
    return Answer(status, body)


def _errors(content: bytes) -> list[str] | None:
    """The sentences of a refusal; None where it is none of Vault's."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    errors = body.get("errors") if isinstance(body, dict) else None
    return [str(each) for each in errors] if isinstance(errors, list) else None


def _context(settings: VaultSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise MisconfiguredError(f"ca_file {settings.ca_file} holds no PEM certificates that can be read") from error
