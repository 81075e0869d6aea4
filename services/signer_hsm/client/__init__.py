"""How other services and the command line call signer-hsm over mTLS.

KeyAccessError (pkicore)
└─ SignerClientError
   ├─ SignerUnavailableError (and KeyUnavailableError)   no usable answer, or a back end that cannot sign now
   └─ SignerRefusedError            signer-hsm said no, and will again
      ├─ ForbiddenError                the key policy or the caller policy
      ├─ UnknownKeyError               (and KeyNotFoundError)
      ├─ WrongStateError               disabled, destroyed, or not there yet
      ├─ BadPayloadError               kind, length or scheme do not fit the key
      ├─ NotOfferedError               the back end does not have that
      ├─ ApprovalsMissingError         more people must agree
      ├─ RateLimitedError              more than the policy grants
      ├─ IdempotencyConflictError      the idempotency key was used with another request
      └─ OutcomeUnknownError           a signature under this idempotency key may have been made
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast
from urllib.parse import urlencode

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from pkicore.algorithms import Payload, known_public_key
from pkicore.errors import (
    KeyAccessError,
    KeyNotFoundError,
    KeyUnavailableError,
    MalformedError,
    UnsupportedError,
)
from pkicore.keys.remote import RemotePublicKey
from services.chassis.http_client import SERVER_ERROR, Failure, Http, ServiceCalls
from services.signer_hsm.client.coalescing import Coalescing, Place, Signed
from services.signer_hsm.wire import (
    ApprovalAnswer,
    ApprovalList,
    ApprovalRequest,
    AttestationAnswer,
    AttestationUpload,
    HealthAnswer,
    KeyDescription,
    KeyPage,
    LifeCycleRequest,
    NewKeyRequest,
    PolicyAnswer,
    PublicKeyAnswer,
    SignAnswer,
    SignRequest,
)


class SignerClientError(KeyAccessError):
    """signer-hsm did not do what was asked.

    Attributes:
        kind: the problem's type without the urn prefix; empty where there was no problem document.
        status: the HTTP status; 0 where there was no answer.
        retry_after: seconds after which a repetition makes sense, where the answer says so.
    """

    def __init__(self, detail: str, *, kind: str = "", status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.status = status
        self.retry_after = retry_after


class SignerUnavailableError(SignerClientError, KeyUnavailableError):
    """No usable answer, or a back end that cannot do it now; whether it was done is not known unless `kind` says so."""


class SignerRefusedError(SignerClientError):
    """signer-hsm said no; nothing was done."""


class ForbiddenError(SignerRefusedError):
    """This caller may not do that."""


class UnknownKeyError(SignerRefusedError, KeyNotFoundError):
    """There is no such key."""


class WrongStateError(SignerRefusedError):
    """The key is disabled, destroyed, or not there yet."""


class BadPayloadError(SignerRefusedError):
    """Kind, length or scheme do not fit the key."""


class NotOfferedError(SignerRefusedError):
    """The back end does not have this algorithm, payload kind or act."""


class ApprovalsMissingError(SignerRefusedError):
    """More people must approve first."""


class RateLimitedError(SignerRefusedError):
    """More than the key policy grants."""


class IdempotencyConflictError(SignerRefusedError):
    """The idempotency key belongs to another request."""


class OutcomeUnknownError(SignerRefusedError):
    """A signature under this idempotency key may have been made, and its bytes are lost: use another key."""


REFUSALS: Final[Mapping[str, type[SignerRefusedError]]] = {
    "forbidden": ForbiddenError,
    "key-not-found": UnknownKeyError,
    "wrong-state": WrongStateError,
    "bad-payload": BadPayloadError,
    "not-offered": NotOfferedError,
    "approvals-missing": ApprovalsMissingError,
    "rate-limited": RateLimitedError,
    "idempotency-conflict": IdempotencyConflictError,
    "outcome-unknown": OutcomeUnknownError,
}


class SignerClient:
    """The endpoints as methods; `http` is a pooled mTLS client that expects signer-hsm's SPIFFE ID."""

    def __init__(self, http: Http) -> None:
        self._signer = ServiceCalls(http, "signer-hsm", _error_of)
        self._coalescing = Coalescing(self._sign_together, SignerRefusedError)

    async def sign(self, key_id: str, version: int, kind: Payload, payload: bytes, scheme: str) -> bytes:
        """One signature: ECDSA as DER, the others raw; the caller verifies it.

        What is wanted of a key at the same time goes in one request (see `services.signer_hsm.client.coalescing`);
        messages, which may be long, go alone.

        Raises:
            SignerRefusedError: signer-hsm said no, and why (see the tree above).
            SignerUnavailableError: no usable answer.
        """
        place = Place(key_id, version, kind, scheme)
        if kind == "message":
            (signature,) = await self._sign_together(place, [payload])
        else:
            signature = await self._coalescing.sign(place, payload)
        if isinstance(signature, bytes):
            return signature
        raise _error_of_kind(signature.kind, signature.detail)

    async def _sign_together(self, place: Place, payloads: Sequence[bytes]) -> Sequence[Signed]:
        request = SignRequest(
            place.kind, tuple(payloads), batch=len(payloads) > 1, scheme=place.scheme, version=place.version
        )
        answer = await self.sign_request(place.key_id, request)
        if len(answer.signatures) != len(payloads):
            raise SignerUnavailableError("signer-hsm answered another number of signatures than were asked for")
        return answer.signatures

    async def sign_request(self, key_id: str, request: SignRequest) -> SignAnswer:
        """Any request to sign, batches and idempotency keys included.

        Raises:
            SignerRefusedError, SignerUnavailableError: as `sign`.
        """
        return await self._signer.ask(SignAnswer.from_json, "POST", f"/v1/keys/{key_id}/sign", request.to_json())

    async def public_key(self, key_id: str, version: int | None) -> RemotePublicKey:
        """The public half of a key version, as `pkicore.keys.remote` asks for it; None asks for the current one.

        Raises:
            SignerRefusedError, SignerUnavailableError: as `sign`.
        """
        answer = await self.public_key_of(key_id, version)
        return self._signer.read(lambda der: _remote_public_key(answer, der), answer.public_key)

    async def public_key_of(self, key_id: str, version: int | None = None) -> PublicKeyAnswer:
        """The public key of a version, of the current one if none is named.

        Raises:
            SignerRefusedError, SignerUnavailableError: as `sign`.
        """
        answer = await self._signer.ask(PublicKeyAnswer.from_json, "GET", _versioned(key_id, "pubkey", version))
        self._coalescing.learn(key_id, answer.at_once)
        return answer

    async def create(self, request: NewKeyRequest) -> KeyDescription:
        """Make a key, or bring one in; safe to repeat with the same idempotency key.

        Raises:
            SignerRefusedError, SignerUnavailableError: as `sign`.
        """
        return await self._signer.ask(KeyDescription.from_json, "POST", "/v1/keys", request.to_json())

    async def keys(self, tenant: str, *, after: str | None = None, limit: int | None = None) -> KeyPage:
        """The keys of a tenant by id, one page.

        Raises:
            SignerRefusedError, SignerUnavailableError: as `sign`.
        """
        query = {"tenant": tenant, "after": after, "limit": limit}
        return await self._signer.ask(KeyPage.from_json, "GET", _with_query("/v1/keys", query))

    async def key(self, key_id: str) -> KeyDescription:
        """A key and its versions.

        Raises:
            SignerRefusedError, SignerUnavailableError: as `sign`.
        """
        return await self._signer.ask(KeyDescription.from_json, "GET", f"/v1/keys/{key_id}")

    async def rotate(self, key_id: str, request: LifeCycleRequest) -> KeyDescription:
        """Make the next version and have it sign from now on; safe to repeat with the same idempotency key.

        Raises:
            SignerRefusedError, SignerUnavailableError: as `sign`.
        """
        return await self._life_cycle(key_id, "rotate", request)

    async def disable(self, key_id: str, request: LifeCycleRequest) -> KeyDescription:
        """Have a version sign no more until it is enabled.

        Raises:
            SignerRefusedError, SignerUnavailableError: as `sign`.
        """
        return await self._life_cycle(key_id, "disable", request)

    async def enable(self, key_id: str, request: LifeCycleRequest) -> KeyDescription:
        """Have a disabled version sign again.

        Raises:
            SignerRefusedError, SignerUnavailableError: as `sign`.
        """
        return await self._life_cycle(key_id, "enable", request)

    async def destroy(self, key_id: str, request: LifeCycleRequest) -> KeyDescription:
        """Destroy a version, for good as soon as the back end lets go of it.

        Raises:
            SignerRefusedError, SignerUnavailableError: as `sign`.
        """
        return await self._life_cycle(key_id, "destroy", request)

    async def attestation(self, key_id: str, version: int | None = None) -> AttestationAnswer:
        """What vouches for how a key version is held.

        Raises:
            SignerRefusedError, SignerUnavailableError: as `sign`.
        """
        return await self._signer.ask(AttestationAnswer.from_json, "GET", _versioned(key_id, "attestation", version))

    async def attest(self, key_id: str, upload: AttestationUpload) -> AttestationAnswer:
        """Hand in a device's statement about a key; it is verified before it is stored.

        Raises:
            SignerRefusedError, SignerUnavailableError: as `sign`.
        """
        return await self._signer.ask(
            AttestationAnswer.from_json, "POST", f"/v1/keys/{key_id}/attestation", upload.to_json()
        )

    async def approve(self, request: ApprovalRequest) -> ApprovalAnswer:
        """Agree to a life-cycle act.

        Raises:
            SignerRefusedError, SignerUnavailableError: as `sign`.
        """
        return await self._signer.ask(ApprovalAnswer.from_json, "POST", "/v1/approvals", request.to_json())

    async def approvals(self, tenant: str) -> Sequence[ApprovalAnswer]:
        """The approvals of a tenant that have not expired.

        Raises:
            SignerRefusedError, SignerUnavailableError: as `sign`.
        """
        path = _with_query("/v1/approvals", {"tenant": tenant})
        return (await self._signer.ask(ApprovalList.from_json, "GET", path)).approvals

    async def policy(self) -> PolicyAnswer:
        """The key policy in force.

        Raises:
            SignerRefusedError, SignerUnavailableError: as `sign`.
        """
        return await self._signer.ask(PolicyAnswer.from_json, "GET", "/v1/policy")

    async def health(self) -> HealthAnswer:
        """The state of the caller's back ends.

        Raises:
            SignerRefusedError, SignerUnavailableError: as `sign`.
        """
        return await self._signer.ask(HealthAnswer.from_json, "GET", "/health")

    async def _life_cycle(self, key_id: str, act: str, request: LifeCycleRequest) -> KeyDescription:
        return await self._signer.ask(KeyDescription.from_json, "POST", f"/v1/keys/{key_id}/{act}", request.to_json())


def _versioned(key_id: str, what: str, version: int | None) -> str:
    return _with_query(f"/v1/keys/{key_id}/{what}", {"version": version})


def _with_query(path: str, parameters: Mapping[str, str | int | None]) -> str:
    query = urlencode({name: value for name, value in parameters.items() if value is not None})
    return f"{path}?{query}" if query else path


def _remote_public_key(answer: PublicKeyAnswer, der: bytes) -> RemotePublicKey:
    try:
        key = known_public_key(load_der_public_key(der))
    except (ValueError, UnsupportedAlgorithm, UnsupportedError) as error:
        raise MalformedError("the public key is none that is offered") from error
    return RemotePublicKey(answer.version, key, frozenset(cast("tuple[Payload, ...]", answer.kinds)))


def _error_of(failure: Failure) -> SignerClientError:
    problem = failure.problem
    if problem is None:
        return SignerUnavailableError(failure.sentence, status=failure.status)
    default = SignerUnavailableError if failure.status >= SERVER_ERROR else SignerRefusedError
    error: type[SignerClientError] = REFUSALS.get(problem.kind, default)
    return error(problem.detail, kind=problem.kind, status=failure.status, retry_after=problem.retry_after)


def _error_of_kind(kind: str, detail: str) -> SignerClientError:
    """The error of one payload in a batch; what is no refusal may pass."""
    return REFUSALS.get(kind, SignerUnavailableError)(detail, kind=kind)
