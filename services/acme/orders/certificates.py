"""The download of certificates (RFC 8555 §7.4.2): a chain, and links to those that end at other roots."""

from __future__ import annotations

from typing import Final

from services.acme.answers import link, not_found
from services.acme.requests import AccountRequest
from services.acme.store import CertificateRow, Store
from services.acme.urls import Urls
from services.chassis.asgi import Response

MEDIA_TYPE: Final = b"application/pem-certificate-chain"


class Certificates:
    """The resource certificate, and the alternates of it, which are counted from 1."""

    def __init__(self, store: Store, urls: Urls) -> None:
        self._store = store
        self._urls = urls

    async def read(self, request: AccountRequest, certificate_id: str) -> Response:
        """The chain of a certificate of the account, leaf first, without the root.

        Raises:
            AcmeError: malformed (404 for others' and unknown ones).
        """
        return self._answer(await self._own(request, certificate_id), 0)

    async def alternate(self, request: AccountRequest, certificate_id: str, number: str) -> Response:
        """The same certificate with another chain.

        Raises:
            AcmeError: malformed (404 for others', unknown ones and numbers).
        """
        certificate = await self._own(request, certificate_id)
        wanted = int(number) if len(number) == 1 and number.isascii() and number.isdigit() else 0
        if not 1 <= wanted <= len(certificate.alternates):
            raise not_found()
        return self._answer(certificate, wanted)

    async def _own(self, request: AccountRequest, certificate_id: str) -> CertificateRow:
        request.require_read()
        certificate = await self._store.certificate(certificate_id, request.account.id)
        if certificate is None:
            raise not_found()
        return certificate

    def _answer(self, certificate: CertificateRow, wanted: int) -> Response:
        chains = (certificate.chain, *certificate.alternates)
        url = self._urls.of(f"cert/{certificate.id}")
        urls = [url, *(f"{url}/{number}" for number in range(1, len(chains)))]
        others = [link(other, "alternate") for number, other in enumerate(urls) if number != wanted]
        return Response(200, chains[wanted].encode(), [(b"content-type", MEDIA_TYPE), *others])
