"""API keys as their tenants manage them: made, listed, revoked; each act by a decision that is on record."""

from __future__ import annotations

from pkicore.clock import Clock, unix
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError
from services.signing.callers import ApiKeyRecord, ApiKeyRuleError, Caller, Scopes, new_api_key
from services.signing.decisions import Decisions, access, caller_name
from services.signing.errors import NotFoundError
from services.signing.store import SigningStore
from services.signing.wire import ApiKeyAnswer, ApiKeyList, NewApiKeyAnswer, NewApiKeyRequest


class ManagedApiKeys:
    """What callers do with the API keys of their own tenant."""

    def __init__(self, store: SigningStore, decisions: Decisions, clock: Clock) -> None:
        self._store = store
        self._decisions = decisions
        self._clock = clock

    async def create(self, caller: Caller, request: NewApiKeyRequest) -> NewApiKeyAnswer:
        """Make a key; what it is answered with is shown this once.

        Raises:
            DeniedError: the policy does not let the caller.
            MalformedError, ApiKeyRuleError: scopes that make no sense, or more than the caller has, or for longer.
        """
        await self._decisions.permit(access(caller, "manage_api_keys"))
        scopes = Scopes.of(request.scopes)
        made = new_api_key(caller, scopes, request.life_seconds, unix(self._clock.now()))
        detail = {"id": made.record.id, "tenant": caller.tenant, "scopes": scopes.members()}
        ends = {"expires_at": made.record.expires_at, "made_by": made.record.made_by}
        event = AuditEvent("api-key.created", caller_name(caller), detail | ends)
        try:
            await self._store.add_api_key(made.record, event)
        except ConflictError as error:
            raise ApiKeyRuleError("the API key that it is made with is revoked") from error
        return NewApiKeyAnswer(made.text, _described(made.record))

    async def listed(self, caller: Caller) -> ApiKeyList:
        """The keys of the caller's tenant.

        Raises:
            DeniedError: the policy does not let the caller.
        """
        await self._decisions.permit(access(caller, "manage_api_keys"))
        return ApiKeyList(tuple(map(_described, await self._store.api_keys(caller.tenant))))

    async def revoke(self, caller: Caller, key_id: str) -> None:
        """Have a key, and what was made with it, be no good from now on.

        Raises:
            DeniedError: the policy does not let the caller.
            NotFoundError: the tenant has no such key that is not revoked.
        """
        await self._decisions.permit(access(caller, "manage_api_keys"))
        event = AuditEvent("api-key.revoked", caller_name(caller), {"id": key_id[:64], "tenant": caller.tenant})
        try:
            await self._store.revoke_api_key(caller.tenant, key_id, event)
        except ConflictError as error:
            raise NotFoundError("there is no such API key, or it is revoked") from error


def _described(key: ApiKeyRecord) -> ApiKeyAnswer:
    return ApiKeyAnswer(
        key.id,
        key.tenant,
        key.scopes.members(),
        key.created_at,
        key.expires_at,
        key.revoked_at,
        key.last_used_at,
        key.made_by,
    )
