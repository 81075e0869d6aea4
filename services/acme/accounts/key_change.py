"""keyChange (RFC 8555 §7.3.5): an account gets another key; both keys sign, each over the other.

1 the old key signs the request, by `kid` · 2 its payload is a JWS, signed by the new key, which it brings · 3 both are
for the same URL; the inner one has no nonce, since the outer one's guards both · 4 the inner payload names the account
and its old key, so that nobody's inner JWS serves another account, or serves again after the next change · 5 the new
key may be that of a new account · 6 it replaces the old one if that is still the account's.
"""

from __future__ import annotations

import hmac
from typing import Any

from pkicore.algorithms import PublicKey
from pkicore.errors import MalformedError, PkiError
from pkicore.jose.jwk import jwk_of, public_key_from_jwk, thumbprint
from pkicore.jose.strict import strict_object
from services.acme.accounts.account import AccountDocuments
from services.acme.accounts.blocked_keys import BlockedKeys
from services.acme.answers import answer, location
from services.acme.errors import AcmeError
from services.acme.requests import AccountCache, AccountRequest, KeyRules, parse_jws, public_key_of, verify_jws
from services.acme.store import Store
from services.acme.store.account_changes import AccountChanges
from services.chassis.asgi import Response
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError, DuplicateError


class KeyChange:
    """The resource keyChange."""

    def __init__(
        self,
        store: Store,
        changes: AccountChanges,
        cache: AccountCache,
        documents: AccountDocuments,
        keys: KeyRules,
        blocked: BlockedKeys,
    ) -> None:
        self._store = store
        self._changes = changes
        self._cache = cache
        self._documents = documents
        self._url = documents.urls.of("key-change")
        self._keys = keys
        self._blocked = blocked

    async def post(self, request: AccountRequest, _: str) -> Response:
        """Give the account that signs its new key.

        Raises:
            AcmeError: malformed, badSignatureAlgorithm, badPublicKey; malformed with 409 and the account's URL where
                the new key has an account; unauthorized where the old key is blocked, or the account was changed or
                closed meanwhile; serverInternal where the CA cannot be asked.
        """
        account = request.account
        new_key = self._new_key(request)
        new = thumbprint(new_key)
        if hmac.compare_digest(new, account.row.thumbprint):
            raise AcmeError("malformed", "the new key is the old key")
        await self._refuse_taken(new)
        self._keys.check(new_key)
        await self._blocked.refuse_new(new_key)
        await self._blocked.refuse_old(account.key_hash)
        detail = {"old": account.row.thumbprint, "new": new}
        audit = AuditEvent("account.key-changed", f"account:{account.id}", detail)
        try:
            await self._changes.change_key(account.id, account.row.thumbprint, new, jwk_of(new_key), audit)
        except DuplicateError:  # another request has made an account with it, or given it to one
            await self._refuse_taken(new)
            raise
        except ConflictError as error:
            sentence = "the account was deactivated, or has got another key, by another request"
            raise AcmeError("unauthorized", sentence) from error
        finally:
            self._cache.forget(account.id)
        changed = await self._store.account(account.id) or account.row
        return answer(self._documents.of(changed), location(self._documents.url(account.id)))

    def _new_key(self, request: AccountRequest) -> PublicKey:
        inner = parse_jws(request.payload, "the inner JWS")
        if inner.jwk is None:
            raise AcmeError("malformed", "the inner JWS must bring the new key as jwk")
        if inner.nonce is not None:
            raise AcmeError("malformed", "the inner JWS must have no nonce")
        if inner.url != self._url:
            raise AcmeError("malformed", "the url of the inner JWS must be that of the outer one")
        new_key = public_key_of(inner.jwk)
        payload = _members(verify_jws(inner, new_key).payload)
        if payload.get("account") != self._documents.url(request.account.id):
            raise AcmeError("malformed", "account in the inner JWS must be the account that signs the outer one")
        if not _is_key(payload.get("oldKey"), request.account.row.thumbprint):
            raise AcmeError("malformed", "oldKey in the inner JWS must be the key of the account")
        return new_key

    async def _refuse_taken(self, new: str) -> None:
        existing = await self._store.account_by_thumbprint(new)
        if existing is not None:
            where = location(self._documents.url(existing.id))
            raise AcmeError("malformed", "the new key has an account already", status=409, headers=[where])


def _members(payload: bytes) -> dict[str, Any]:
    try:
        return strict_object(payload, "the payload of the inner JWS")
    except MalformedError as error:
        raise AcmeError("malformed", str(error)) from error


def _is_key(jwk: object, expected: str) -> bool:
    if not isinstance(jwk, dict):
        return False
    try:
        return hmac.compare_digest(thumbprint(public_key_from_jwk(jwk)), expected)
    except PkiError:
        return False
