"""Status over plain HTTP: CRL, OCSP and AIA. Everything here is signed or public, so it needs no TLS.

| path                 | what                                             | media type                |
|----------------------|--------------------------------------------------|---------------------------|
| /crl/<issuer id>     | the newest complete CRL, DER (RFC 5280 §5)       | application/pkix-crl      |
| ..../<shard>         | the newest CRL of one of its shards              |                           |
| ..../delta           | the delta to the complete CRL, or to a shard's   |                           |
| /crl/<family>        | as /crl/<issuer id>, of the family's active CA   |                           |
| /crl                 | the same of the first family                     |                           |
| /aia/<issuer id>     | the issuer's certificate, DER (RFC 5280 §4.2.2.1)| application/pkix-cert     |
| /aia/<root id>.p7c   | a root with its cross-certificates, PKCS#7       | application/pkcs7-mime    |
| /ocsp (POST)         | OCSP (RFC 6960 appendix A)                       | application/ocsp-response |
| /ocsp/<base64> (GET) | the same; answers without nonce may be cached    |                           |

Below /ct are the checkpoint and the tiles of the CT log, where there is one (`services.ca.ct`, C2SP tlog-tiles).

Cache headers follow RFC 5019 §6: max-age is a setting, well below the life of what is served, so that a cache between
us and the verifier hides a revocation for no longer than that; it never reaches beyond nextUpdate.
"""

import base64
import binascii
import hashlib
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from pkicore.clock import Clock, unix
from services.ca.hierarchy import BUNDLE, Hierarchy
from services.ca.publication import CrlPublisher
from services.ca.responder import MALFORMED, OcspAnswer, OcspAnswers
from services.ca.revocation_store import StoredCrl
from services.chassis.asgi import Headers, Request, Response, Route
from services.chassis.errors import RouteNotFoundError

MAX_OCSP_REQUEST: Final = 4096  # octets, as pkicore.ocsp takes them
_MAX_BASE64: Final = 4 * MAX_OCSP_REQUEST // 3 + 4

POST_ROUTE: Final = "/ocsp"
GET_ROUTE: Final = "/ocsp/{request...}"
OCSP_REQUEST: Final = "application/ocsp-request"
_CRL: Final = (b"content-type", b"application/pkix-crl")
_CERTIFICATE: Final = (b"content-type", b"application/pkix-cert")
_BUNDLE: Final = (b"content-type", b"application/pkcs7-mime")
OCSP: Final = (b"content-type", b"application/ocsp-response")
NO_STORE: Final = (b"cache-control", b"no-store")


class StatusEndpoints:
    """The handlers, over a hierarchy that may grow; `max_age` is in seconds."""

    def __init__(
        self,
        *,
        publisher: CrlPublisher,
        answers: OcspAnswers,
        hierarchy: Hierarchy,
        max_age: int,
        clock: Clock,
    ) -> None:
        self._publisher = publisher
        self._answers = answers
        self._hierarchy = hierarchy
        self._tags: dict[str, tuple[StoredCrl, bytes]] = {}
        self._max_age = max_age
        self._clock = clock

    def routes(self) -> list[Route]:
        """What the HTTP listener answers."""
        return [
            Route("GET", "/crl", self.crl),
            Route("GET", "/crl/{list...}", self.crl),
            Route("GET", "/aia/{issuer}", self.aia),
            Route("POST", POST_ROUTE, self.ocsp_post, (OCSP_REQUEST,), MAX_OCSP_REQUEST),
            Route("GET", GET_ROUTE, self.ocsp_get),
        ]

    async def crl(self, request: Request) -> Response:
        """The newest CRL of a list."""
        named = request.params.get("list")
        path = self._issuing(next(iter(self._hierarchy.issuing), "")) if named is None else named.removesuffix(".crl")
        found = self._publisher.newest(path)
        if found is None:
            issuer, slash, rest = path.partition("/")
            found = self._publisher.newest(self._issuing(issuer) + slash + rest)
        if found is None:
            raise RouteNotFoundError(
                f"there is no such CRL; there are those of {', '.join(self._hierarchy.certificates)}"
            )
        max_age = self._max_age_until(found.next_update)
        headers = _headers(self._tag(found), found.this_update, found.next_update, max_age)
        return _conditional(request, found.der, [_CRL, *headers])

    async def aia(self, request: Request) -> Response:
        """The certificate of an issuer, or a root with its cross-certificates."""
        issuer = request.params["issuer"].removesuffix(".cer")
        certificates, name = self._hierarchy.certificates, issuer.removesuffix(BUNDLE)
        if issuer in certificates:
            der, kind = certificates[issuer].public_bytes(Encoding.DER), _CERTIFICATE
        elif issuer.endswith(BUNDLE) and name in self._hierarchy.roots:
            der, kind = _bundle((certificates[name], *self._hierarchy.crosses.get(name, ()))), _BUNDLE
        else:
            raise RouteNotFoundError(f"there is no such issuer; there are {', '.join(certificates)}")
        return _conditional(request, der, [kind, *_static_headers(_tag(der), self._max_age)])

    async def ocsp_post(self, request: Request) -> Response:
        """OCSP by POST."""
        answer = await self._answers.answer(await request.body())
        return Response(200, answer.der, [OCSP, NO_STORE])

    async def ocsp_get(self, request: Request) -> Response:
        """OCSP by GET (RFC 6960 appendix A.1): base64 of the request, percent-encoded or not, padded or not.

        Clients that append a slash to the URL of the certificate ask with two; no request begins with one.
        """
        answer = MALFORMED
        der = _decoded(request.params["request"].lstrip("/"))
        if der is not None:
            answer = await self._answers.answer(der)
        if not answer.fresh_until:
            return Response(200, answer.der, [OCSP, NO_STORE])
        return _conditional(request, answer.der, [OCSP, *ocsp_headers(answer, self._max_age_until(answer.next_update))])

    def _issuing(self, family: str) -> str:
        """The issuing CA of a family; empty where there is none."""
        issuer = self._hierarchy.issuing.get(family)
        return "" if issuer is None else issuer.id

    def _tag(self, crl: StoredCrl) -> bytes:
        """The entity tag of a list, computed once."""
        known = self._tags.get(crl.issuer)
        if known is None or known[0] is not crl:
            known = self._tags[crl.issuer] = crl, _tag(crl.der)
        return known[1]

    def _max_age_until(self, next_update: int) -> int:
        return max(0, min(self._max_age, next_update - unix(self._clock.now())))


def _decoded(text: str) -> bytes | None:
    if len(text) > _MAX_BASE64 or not text.isascii():
        return None
    unpadded = text.rstrip("=")
    try:
        return base64.b64decode(unpadded + "=" * (-len(unpadded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _conditional(request: Request, body: bytes, headers: Headers) -> Response:
    """304 where the client has these very bytes (RFC 9110 §13.1.2)."""
    wanted = request.headers.get(b"if-none-match")
    if wanted is None:
        return Response(200, body, headers)
    tags = {tag.strip().removeprefix(b"W/") for tag in wanted.split(b",")}
    if b"*" in tags or dict(headers)[b"etag"] in tags:
        return Response(304, b"", headers[1:])
    return Response(200, body, headers)


@lru_cache(maxsize=16)
def _bundle(certificates: tuple[x509.Certificate, ...]) -> bytes:
    """A certs-only PKCS#7 message (RFC 5280 §4.2.2.1)."""
    return pkcs7.serialize_certificates(list(certificates), Encoding.DER)


def ocsp_headers(answer: OcspAnswer, max_age: int) -> Headers:
    """The cache headers of an answer that may be kept for so many seconds (RFC 5019 §6)."""
    return _headers(_tag(answer.der), answer.this_update, answer.next_update, max_age)


def _headers(tag: bytes, this_update: int, next_update: int, max_age: int) -> Headers:
    return [
        *_static_headers(tag, max_age),
        (b"last-modified", formatdate(this_update, usegmt=True).encode()),
        (b"expires", formatdate(next_update, usegmt=True).encode()),
    ]


def _tag(body: bytes) -> bytes:
    return f'"{hashlib.sha256(body).hexdigest()[:32]}"'.encode()


def _static_headers(tag: bytes, max_age: int) -> Headers:
    cache = f"max-age={max_age}, public, no-transform, must-revalidate"
    return [(b"etag", tag), (b"cache-control", cache.encode())]
