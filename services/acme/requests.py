"""Who sends a POST, and that nobody tampered with it (RFC 8555 §6.2 to §6.5).

1 parse the JWS · 2 compare the URL · 3 find the key: `kid` of an account or, where the resource allows it, `jwk` ·
4 verify the signature · 5 redeem the nonce · 6 the account must be valid, and its key not blocked.
The nonce comes after the signature, so that strangers cannot use up nonces; the payload is believed only after all six.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pkicore.algorithms import PublicKey
from pkicore.errors import BadKeyError, BadSignatureError, MalformedError, UnsupportedError
from pkicore.jose.jwk import public_key_from_jwk
from pkicore.jose.jws import JWS_ALGORITHMS, UnverifiedJws, VerifiedJws
from pkicore.jose.strict import strict_object
from pkicore.weak_keys import PublishedKeys, check_strength
from services.acme.accounts.blocked_keys import BlockedKeys, key_hash_of
from services.acme.errors import AcmeError, of_ended_account
from services.acme.ids import is_id
from services.acme.nonces import Nonces
from services.acme.store import AccountRow, Store
from services.acme.urls import Urls
from services.chassis.errors import ConflictError
from services.chassis.observability import note

CACHED_ACCOUNTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Account:
    """An account with its key as an object, and the hash by which the block list knows that."""

    row: AccountRow
    public_key: PublicKey
    key_hash: str

    @property
    def id(self) -> str:
        """The last part of its URL."""
        return self.row.id


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A POST whose signature, URL and nonce are good."""

    payload: bytes

    @property
    def is_read(self) -> bool:
        """Whether it is a POST-as-GET (RFC 8555 §6.3)."""
        return self.payload == b""

    def members(self) -> dict[str, Any]:
        """The payload, which must be a JSON object.

        Raises:
            AcmeError: malformed.
        """
        try:
            return strict_object(self.payload, "the payload")
        except MalformedError as error:
            raise AcmeError("malformed", str(error)) from error

    def require_read(self) -> None:
        """Refuse a payload where only POST-as-GET is offered.

        Raises:
            AcmeError: malformed.
        """
        if not self.is_read:
            raise AcmeError("malformed", "this resource is only read: the payload must be empty (POST-as-GET)")


@dataclass(frozen=True, slots=True)
class KeyRequest(SignedRequest):
    """Signed with a key that the request itself brought: proves possession, names nobody."""

    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class AccountRequest(SignedRequest):
    """Signed with the key of a valid account."""

    account: Account


class AccountCache:
    """Accounts by id, the most recently used ones in memory, so that a request loads no key.

    Where other processes write to the database too, what they change must count at once: there the row is read each
    time, and only the key is kept.
    """

    def __init__(self, store: Store, size: int = CACHED_ACCOUNTS, *, shared: bool = False) -> None:
        self._store = store
        self._size = size
        self._shared = shared
        self._accounts: OrderedDict[str, Account] = OrderedDict()
        self._changes = 0

    async def get(self, account_id: str) -> Account | None:
        """The account, whatever its status."""
        known = self._accounts.get(account_id)
        if known is not None and not self._shared:
            self._accounts.move_to_end(account_id)
            return known
        changes = self._changes
        row = await self._store.account(account_id)
        if row is None:
            return None
        if known is not None and known.row.jwk == row.jwk:
            account = replace(known, row=row)
        else:
            public_key = public_key_from_jwk(row.jwk)
            account = Account(row, public_key, key_hash_of(public_key))
        if changes == self._changes:  # else the row may be older than a change that was made while it was read
            self._accounts[account_id] = account
            self._accounts.move_to_end(account_id)
            if len(self._accounts) > self._size:
                self._accounts.popitem(last=False)
        return account

    def forget(self, account_id: str) -> None:
        """Drop an account that has changed."""
        self._changes += 1
        self._accounts.pop(account_id, None)

    def forget_all(self) -> None:
        """Drop every account, where it is not known which have changed."""
        self._changes += 1
        self._accounts.clear()


class KeyRules:
    """What the key of an account must be, beyond its form.

    Args:
        published: keys that everybody has.
    """

    def __init__(self, published: PublishedKeys | None = None) -> None:
        self._published = PublishedKeys() if published is None else published

    def check(self, public_key: PublicKey) -> None:
        """Look for weak keys; takes milliseconds.

        Raises:
            AcmeError: badPublicKey.
        """
        try:
            check_strength(public_key)
            self._published.check(public_key)
        except BadKeyError as error:
            raise AcmeError("badPublicKey", str(error)) from error


class Authenticator:
    """Turns the body of a POST into a request that may be believed.

    All methods raise AcmeError: malformed, badSignatureAlgorithm, badPublicKey, badNonce, accountDoesNotExist or
    unauthorized.
    """

    def __init__(
        self,
        urls: Urls,
        nonces: Nonces,
        accounts: AccountCache,
        blocked: BlockedKeys,
        keys: KeyRules,
    ) -> None:
        self._blocked = blocked
        self._keys = keys
        self._urls = urls
        self._nonces = nonces
        self._accounts = accounts

    async def by_account(self, path: str, body: bytes) -> AccountRequest:
        """A request that must be signed by an account."""
        jws = self._parse(path, body)
        if jws.kid is None:
            raise AcmeError("malformed", "this resource wants kid, the URL of an account, not jwk")
        return await self._of_account(jws, jws.kid)

    async def by_key(self, path: str, body: bytes) -> KeyRequest:
        """A request that must bring its own key."""
        jws = self._parse(path, body)
        if jws.jwk is None:
            raise AcmeError("malformed", "this resource wants jwk, a public key, not kid")
        return await self._of_key(jws, jws.jwk)

    async def by_account_or_key(self, path: str, body: bytes) -> AccountRequest | KeyRequest:
        """A request that may be signed either way."""
        jws = self._parse(path, body)
        if jws.jwk is not None:
            return await self._of_key(jws, jws.jwk)
        return await self._of_account(jws, jws.kid or "")

    def _parse(self, path: str, body: bytes) -> UnverifiedJws:
        jws = parse_jws(body)
        note(jws_alg=jws.alg, jws_kid=jws.kid, jws_url=jws.url)
        if jws.url != self._urls.of(path):
            raise AcmeError("unauthorized", "the url that was signed is not the URL of this resource")
        return jws

    async def _of_key(self, jws: UnverifiedJws, jwk: Mapping[str, Any]) -> KeyRequest:
        public_key = public_key_of(jwk)
        verified = verify_jws(jws, public_key)
        await self._nonces.redeem(verified.nonce)
        self._keys.check(public_key)  # only now: it takes milliseconds, which a stranger must not have for nothing
        return KeyRequest(verified.payload, public_key)

    async def _of_account(self, jws: UnverifiedJws, kid: str) -> AccountRequest:
        account_id = self._urls.account_id(kid)
        if account_id is None or not is_id(account_id):
            raise AcmeError("accountDoesNotExist", "kid is not the URL of an account of this server")
        account = await self._accounts.get(account_id)
        if account is None:
            raise AcmeError("accountDoesNotExist", "kid is not the URL of an account of this server")
        verified = verify_jws(jws, account.public_key)
        await self._nonces.redeem(verified.nonce)
        if account.row.status != "valid":
            raise of_ended_account(account.row.status)
        await self._blocked.refuse_hash(account.key_hash)
        return AccountRequest(verified.payload, account)


async def require_valid(store: Store, account_id: str, error: ConflictError) -> None:
    """Say so where a write needed an account that has ended since its request was believed.

    Raises:
        AcmeError: unauthorized.
    """
    row = await store.account(account_id)
    status = "deactivated" if row is None else row.status
    if status != "valid":
        raise of_ended_account(status) from error


def parse_jws(body: bytes, what: str = "") -> UnverifiedJws:
    """The JWS in a body; `what` names it in the error where it is not the request itself.

    Raises:
        AcmeError: malformed or badSignatureAlgorithm.
    """
    try:
        return UnverifiedJws.parse(body)
    except MalformedError as error:
        raise AcmeError("malformed", f"{what}: {error}" if what else str(error)) from error
    except UnsupportedError as error:
        raise _bad_algorithm(error) from error


def verify_jws(jws: UnverifiedJws, public_key: PublicKey) -> VerifiedJws:
    """What the holder of the key has signed.

    Raises:
        AcmeError: malformed or badSignatureAlgorithm.
    """
    try:
        return jws.verify(public_key)
    except UnsupportedError as error:
        raise _bad_algorithm(error) from error
    except BadSignatureError as error:
        raise AcmeError("malformed", "the signature of the JWS does not verify") from error


def public_key_of(jwk: Mapping[str, Any]) -> PublicKey:
    """The key in a JWK that a client sent.

    Raises:
        AcmeError: malformed or badPublicKey.
    """
    try:
        return public_key_from_jwk(jwk)
    except MalformedError as error:
        raise AcmeError("malformed", str(error)) from error
    except (BadKeyError, UnsupportedError) as error:
        raise AcmeError("badPublicKey", str(error)) from error


def _bad_algorithm(error: UnsupportedError) -> AcmeError:
    return AcmeError("badSignatureAlgorithm", str(error), extra={"algorithms": list(JWS_ALGORITHMS)})
