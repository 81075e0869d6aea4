"""The API of the signing service, typed: what `pqcsign` calls.

`SigningClient` knows paths and messages, `Calls` how a request travels and what its failure means; which connection
that is, and which credential it shows, is its maker's question.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import IO, Final, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

import httpx

from services.signing.client.calls import MAX_ANSWER, Calls
from services.signing.client.errors import (
    SigningClientError,
    SigningRefusedError,
    SigningUnavailableError,
    UntrustedServiceError,
)
from services.signing.wire import (
    ApiKeyList,
    NewApiKeyAnswer,
    NewApiKeyRequest,
    SignaturePage,
    SignatureRecord,
    SignatureRequest,
)
from services.signing.wire.evidence import EvidenceAnswer, EvidencePage, HoldAnswer, HoldRequest, NewEvidenceRequest
from services.signing.wire.policies import PoliciesAnswer
from services.signing.wire.webhooks import (
    DeliveryAnswer,
    DeliveryPage,
    NewWebhookAnswer,
    NewWebhookRequest,
    WebhookList,
)

__all__ = [
    "MAX_ANSWER",
    "SIGN_SECONDS",
    "Parts",
    "SigningClient",
    "SigningClientError",
    "SigningRefusedError",
    "SigningUnavailableError",
    "UntrustedServiceError",
]

SIGN_SECONDS: Final = 300.0  # the check of a large SBOM takes its time
_CONNECT_SECONDS: Final = 10.0

Parts: TypeAlias = Mapping[str, tuple[str | None, IO[bytes] | bytes, str]]
"""Name of a part -> file name, content and media type."""

_Item = TypeVar("_Item")
_Page: TypeAlias = Callable[[str | None], Awaitable[tuple[tuple[_Item, ...], str | None]]]


class SigningClient:
    """Asks the service.

    Its methods raise SigningRefusedError where the service refuses, SigningUnavailableError where it cannot be asked
    now, UntrustedServiceError where somebody else answers, and MalformedError where the answer makes no sense.

    Args:
        http: whose base URL is the service's, and which shows the credential.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._calls = Calls(http)

    # signatures

    async def sign(self, request: SignatureRequest, documents: Parts, idempotency_key: str) -> SignatureRecord:
        """`POST /v1/signatures`: JSON alone, or as multipart with documents that are read in pieces."""
        headers = {"idempotency-key": idempotency_key}
        if not documents:
            headers["content-type"] = "application/json"
            built = self._calls.request("POST", "/v1/signatures", content=request.to_json(), headers=headers)
        else:
            parts = {"request": (None, request.to_json(), "application/json"), **documents}
            built = self._calls.request("POST", "/v1/signatures", files=parts, headers=headers)
        return await self._calls.read(SignatureRecord.from_json, _slow(built))

    async def signature(self, signature_id: str) -> SignatureRecord:
        """`GET /v1/signatures/{id}`."""
        return await self._calls.ask(SignatureRecord.from_json, "GET", f"/v1/signatures/{_segment(signature_id)}")

    async def signatures(self, digest: str | None, predicate_type: str | None, limit: int) -> list[SignatureRecord]:
        """The newest `limit` records about a digest, `sha256:HEX`, or with an attestation of this type."""
        query = _query(subject_digest=digest, predicate_type=predicate_type)

        async def page(after: str | None) -> tuple[tuple[SignatureRecord, ...], str | None]:
            path = f"/v1/signatures?{urlencode(query | _query(after=after))}".rstrip("?")
            found = await self._calls.ask(SignaturePage.from_json, "GET", path)
            return found.records, found.next

        return await _paged(page, limit)

    async def download(self, path: str, file: IO[bytes]) -> None:
        """Write what is at a path of the service, which an answer named, into a file."""
        await self._calls.download(path, file)

    # for verifiers, and about policies

    async def public_key(self, key_id: str) -> bytes:
        """`GET /v1/keys/{id}/public-key`: PEM."""
        return await self._calls.ask(bytes, "GET", f"/v1/keys/{_segment(key_id)}/public-key")

    async def trusted_root(self) -> bytes:
        """`GET /v1/trusted-root`: JSON as verifiers read it."""
        return await self._calls.ask(bytes, "GET", "/v1/trusted-root")

    async def signing_config(self) -> bytes:
        """`GET /v1/signing-config`: JSON as sigstore's clients read it."""
        return await self._calls.ask(bytes, "GET", "/v1/signing-config")

    async def policies(self, sha256: str | None = None) -> PoliciesAnswer:
        """`GET /v1/policy[/{sha256}]`: the set in force, or one that was."""
        path = "/v1/policy" if sha256 is None else f"/v1/policy/{_segment(sha256)}"
        return await self._calls.ask(PoliciesAnswer.from_json, "GET", path)

    # API keys

    async def create_api_key(self, request: NewApiKeyRequest) -> NewApiKeyAnswer:
        """`POST /v1/api-keys`."""
        return await self._calls.ask(NewApiKeyAnswer.from_json, "POST", "/v1/api-keys", request.to_json())

    async def api_keys(self) -> ApiKeyList:
        """`GET /v1/api-keys`."""
        return await self._calls.ask(ApiKeyList.from_json, "GET", "/v1/api-keys")

    async def revoke_api_key(self, key_id: str) -> None:
        """`DELETE /v1/api-keys/{id}`."""
        await self._calls.ask(bytes, "DELETE", f"/v1/api-keys/{_segment(key_id)}")

    # webhooks

    async def create_webhook(self, request: NewWebhookRequest) -> NewWebhookAnswer:
        """`POST /v1/webhooks`."""
        return await self._calls.ask(NewWebhookAnswer.from_json, "POST", "/v1/webhooks", request.to_json())

    async def webhooks(self) -> WebhookList:
        """`GET /v1/webhooks`."""
        return await self._calls.ask(WebhookList.from_json, "GET", "/v1/webhooks")

    async def rotate_webhook(self, webhook_id: str) -> NewWebhookAnswer:
        """`POST /v1/webhooks/{id}/rotate`."""
        path = f"/v1/webhooks/{_segment(webhook_id)}/rotate"
        return await self._calls.ask(NewWebhookAnswer.from_json, "POST", path)

    async def delete_webhook(self, webhook_id: str) -> None:
        """`DELETE /v1/webhooks/{id}`."""
        await self._calls.ask(bytes, "DELETE", f"/v1/webhooks/{_segment(webhook_id)}")

    async def deliveries(self, state: str | None, limit: int) -> list[DeliveryAnswer]:
        """`GET /v1/webhook-deliveries`: up to `limit` of those that are pending, delivered or dead; None: of all."""

        async def page(after: str | None) -> tuple[tuple[DeliveryAnswer, ...], str | None]:
            path = f"/v1/webhook-deliveries?{urlencode(_query(state=state, after=after))}"
            found = await self._calls.ask(DeliveryPage.from_json, "GET", path)
            return found.deliveries, found.next

        return await _paged(page, limit)

    async def redeliver(self, webhook_id: str, event_id: str) -> None:
        """`POST /v1/webhook-deliveries/{webhook}/{event}`."""
        path = f"/v1/webhook-deliveries/{_segment(webhook_id)}/{_segment(event_id)}"
        await self._calls.ask(bytes, "POST", path)

    # evidence and holds

    async def create_evidence(self, request: NewEvidenceRequest) -> EvidenceAnswer:
        """`POST /v1/evidence`."""
        headers = {"content-type": "application/json"}
        built = self._calls.request("POST", "/v1/evidence", content=request.to_json(), headers=headers)
        return await self._calls.read(EvidenceAnswer.from_json, _slow(built))

    async def evidence(self, evidence_id: str) -> EvidenceAnswer:
        """`GET /v1/evidence/{id}`."""
        return await self._calls.ask(EvidenceAnswer.from_json, "GET", f"/v1/evidence/{_segment(evidence_id)}")

    async def all_evidence(self, limit: int) -> list[EvidenceAnswer]:
        """`GET /v1/evidence`: the newest `limit` archives."""

        async def page(after: str | None) -> tuple[tuple[EvidenceAnswer, ...], str | None]:
            path = f"/v1/evidence?{urlencode(_query(after=after))}".rstrip("?")
            found = await self._calls.ask(EvidencePage.from_json, "GET", path)
            return found.evidence, found.next

        return await _paged(page, limit)

    async def keeping(self, signature_id: str) -> HoldAnswer:
        """`GET /v1/holds/{signature}`."""
        return await self._calls.ask(HoldAnswer.from_json, "GET", f"/v1/holds/{_segment(signature_id)}")

    async def hold(self, signature_id: str, request: HoldRequest) -> None:
        """`PUT /v1/holds/{signature}`."""
        await self._calls.ask(bytes, "PUT", f"/v1/holds/{_segment(signature_id)}", request.to_json())

    async def delete_hold(self, signature_id: str) -> None:
        """`DELETE /v1/holds/{signature}`."""
        await self._calls.ask(bytes, "DELETE", f"/v1/holds/{_segment(signature_id)}")


async def _paged(page: _Page[_Item], limit: int) -> list[_Item]:
    """Items of one page after the other, up to the limit."""
    found: list[_Item] = []
    after: str | None = None
    while len(found) < limit:
        items, after = await page(after)
        found += items
        if after is None:
            break
    return found[:limit]


def _slow(request: httpx.Request) -> httpx.Request:
    request.extensions["timeout"] = httpx.Timeout(SIGN_SECONDS, connect=_CONNECT_SECONDS).as_dict()
    return request


def _query(**parameters: str | None) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if value is not None}


def _segment(text: str) -> str:
    """A text as one segment of a path, whatever is in it."""
    return quote(text, safe="")
