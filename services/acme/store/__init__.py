"""Everything the ACME server reads from and writes to its database.

Reads are bound to an account by positive match: what belongs to somebody else looks exactly like what does not exist.
Writes are units that carry their audit events; each state change is an update that names the state it leaves.
"""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from services.acme.identifiers import Identifier
from services.acme.store.rows import (
    AccountRow,
    AuthorizationRow,
    CertificateRow,
    ChallengeRow,
    OrderRow,
    ProofRow,
    account_of,
    authorization_of,
    authorization_values,
    certificate_of,
    certificate_values,
    challenge_of,
    challenge_values,
    joined_authorization_of,
    order_of,
    order_values,
    proof_of,
    to_json,
)
from services.acme.store.statements import REUSABLE_SIZES, STATEMENTS
from services.chassis.database import AuditEvent, Database, Prepared, Row, Unit, Write


class _Statements(UserDict[str, Prepared]):
    """Each is compiled when it is first asked for, so that a start need not wait for all of them."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    def __missing__(self, name: str) -> Prepared:
        statement = self[name] = self._database.prepare(STATEMENTS[name])
        return statement


OrderPlace: TypeAlias = tuple[int, str]
"""Where an order stands in its account's list: when it was made (Unix time), and its id."""
FIRST_PAGE: Final[OrderPlace] = (1 << 62, "")
NewAuthorization: TypeAlias = tuple[AuthorizationRow, Sequence[ChallengeRow]]


class Store:
    """The database behind typed methods; every statement is compiled once, here.

    All methods raise `services.chassis.errors.DatabaseError`; conditional writes raise its ConflictError when another
    request got there first.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._statements = _Statements(database)

    # Accounts

    async def account(self, account_id: str) -> AccountRow | None:
        """The account with this id, whatever its status."""
        row = await self._one("account", id=account_id)
        return None if row is None else account_of(row)

    async def account_by_thumbprint(self, thumbprint: str) -> AccountRow | None:
        """The account with this key, whatever its status."""
        row = await self._one("account_by_thumbprint", thumbprint=thumbprint)
        return None if row is None else account_of(row)

    async def accounts_by_algorithm(self) -> dict[str, int]:
        """How many valid accounts there are for each algorithm of their key; reads every account."""
        rows = self._database.scan(self._statements["accounts_by_algorithm"])
        return {row["algorithm"]: row["count"] async for row in rows}

    async def create_account(self, account: AccountRow, audit: AuditEvent, riding: Sequence[Write] = ()) -> None:
        """Store a new account, with what else is written or not at all; DuplicateError when its key has one."""
        values = {
            "id": account.id,
            "status": account.status,
            "thumbprint": account.thumbprint,
            "jwk": to_json(account.jwk),
            "contacts": to_json(account.contacts),
            "terms_agreed_at": account.terms_agreed_at,
            "created_at": account.created_at,
            "terms": account.terms,
            "eab_kid": account.eab_kid,
        }
        await self._commit("account-created", [*riding, self._write("insert_account", values)], audit)

    async def update_contacts(self, account_id: str, contacts: Sequence[str], audit: AuditEvent) -> None:
        """Replace the contacts of a valid account."""
        values = {"account": account_id, "new_contacts": to_json(contacts)}
        await self._commit("account-updated", [self._write("update_contacts", values)], audit)

    async def deactivate_account(self, account_id: str, audit: AuditEvent) -> None:
        """Deactivate a valid account and end what it has not finished."""
        writes = [
            self._write("deactivate_account", {"account": account_id}, contended=True),  # new orders wait, or are seen
            self._write("end_orders", {"account": account_id}, expect=None),
            self._write("end_authorizations", {"account": account_id}, expect=None),
        ]
        await self._commit("account-deactivated", writes, audit)

    # Orders

    async def order(self, order_id: str, account_id: str) -> OrderRow | None:
        """An order of this account."""
        row = await self._one("order", id=order_id, account=account_id)
        return None if row is None else order_of(row)

    async def order_by_id(self, order_id: str) -> OrderRow | None:
        """An order of any account: for work the server itself goes on with."""
        row = await self._one("order_by_id", id=order_id)
        return None if row is None else order_of(row)

    async def processing_orders(self) -> list[OrderRow]:
        """Orders whose certificate has been promised but not delivered."""
        return [order_of(row) for row in await self._all("processing_orders")]

    async def order_ids(
        self, account_id: str, now: int, after: OrderPlace, limit: int
    ) -> tuple[list[str], OrderPlace | None]:
        """A page of an account's orders, newest first, without the invalid ones; and where the next page begins.

        Args:
            account_id: whose.
            now: unfinished orders that expired before are left out.
            after: the last one of the page before; `FIRST_PAGE` for the first.
            limit: of orders in a page.
        """
        before, beyond = after
        rows = await self._all("order_ids", account=account_id, now=now, before=before, beyond=beyond, most=limit + 1)
        page = rows[:limit]
        last = (page[-1]["created_at"], page[-1]["id"]) if len(rows) > limit else None
        return [row["id"] for row in page], last

    async def create_order(
        self,
        order: OrderRow,
        authorizations: Sequence[str],
        made: Sequence[NewAuthorization],
        most: int,
        audit: AuditEvent,
        riding: Sequence[Write] = (),
    ) -> None:
        """Store a new order. Its own write, the first after `riding`, needs a valid account with room for it.

        Args:
            order: ready where all its authorizations are valid already, else pending.
            authorizations: ids, in the order of its identifiers.
            made: those of them that are new; the others must be valid ones of the same account still.
            most: the account has fewer unfinished orders than this.
            audit: the record.
            riding: what else is written with the order or not at all.
        """
        new = {authorization.id for authorization, _ in made}
        held = {"account": order.account_id, "now": order.created_at}
        writes = [
            *riding,
            self._write("insert_order", order_values(order) | {"now": order.created_at, "most": most}, contended=True),
            *(
                self._write("hold_authorization", held | {"authorization": of})
                for of in authorizations
                if of not in new
            ),
            *self._new_authorizations(made),
        ]
        for position, of in enumerate(authorizations):
            link = {"order_id": order.id, "position": position, "authorization_id": of}
            writes.append(self._write("insert_order_authorization", link))
        await self._commit("order-created", writes, audit)

    async def start_processing(
        self,
        order: OrderRow,
        csr: bytes,
        key: str,
        now: int,
        audit: AuditEvent,
        own_end: int | None = None,
        riding: Sequence[Write] = (),
    ) -> None:
        """Move an order from ready to processing, if it and all its authorizations are still good.

        `key` is the thumbprint of the CSR's, which must be no account's.
        `own_end` is the end of the certificate where the order names none; `riding` is written with it or not at all.
        """
        values = {"order": order.id, "account": order.account_id, "new_csr": csr, "key": key} | {
            "now": now,
            "own_end": own_end,
        }
        await self._commit("order-processing", [*riding, self._write("start_processing", values)], audit)

    async def complete_order(self, certificate: CertificateRow, audit: AuditEvent) -> None:
        """Move an order from processing to valid and store its certificate."""
        writes = [
            self._write("complete_order", {"order": certificate.order_id, "certificate": certificate.id}),
            self._write("insert_certificate", certificate_values(certificate)),
        ]
        await self._commit("order-valid", writes, audit)

    async def fail_order(self, order_id: str, error: Mapping[str, Any], audit: AuditEvent) -> None:
        """Move an order from processing to invalid."""
        values = {"order": order_id, "problem": to_json(error)}
        await self._commit("order-invalid", [self._write("fail_order", values)], audit)

    # Authorizations and challenges

    async def authorization(
        self, authorization_id: str, account_id: str
    ) -> tuple[AuthorizationRow, list[ChallengeRow]] | None:
        """An authorization of this account, and its challenges."""
        rows = await self._all("authorization_and_challenges", id=authorization_id, account=account_id)
        return (joined_authorization_of(rows[0]), [challenge_of(row) for row in rows]) if rows else None

    async def authorization_ids(self, order_id: str) -> list[str]:
        """The authorizations of an order, in the order of its identifiers."""
        return [row["authorization_id"] for row in await self._all("authorization_ids", order=order_id)]

    async def reusable_authorizations(
        self, account_id: str, names: Sequence[Identifier], until: int, since: int
    ) -> list[tuple[AuthorizationRow, str]]:
        """An account's valid authorizations of these names, each with its challenge type, the youngest proof first.

        Args:
            account_id: whose.
            names: wildcards as such or not; both kinds of authorization are found either way.
            until: they last longer than this.
            since: they were validated later than this.
        """
        size = next(size for size in REUSABLE_SIZES if size >= len(names))
        padded = [name.base.value for name in names] + [names[0].base.value] * (size - len(names))
        values = {f"value_{number}": value for number, value in enumerate(padded)}
        rows = await self._all(f"reusable_{size}", account=account_id, until=until, since=since, **values)
        return [(authorization_of(row), row["method"]) for row in rows]

    async def authorized_names(self, account_id: str, now: int) -> set[Identifier]:
        """Every name for which the account holds a valid authorization, wildcards written as such."""
        rows = await self._all("authorized_names", account=account_id, now=now)
        return {Identifier(row["type"], ("*." if row["wildcard"] else "") + row["value"]) for row in rows}

    async def challenge(self, challenge_id: str, account_id: str) -> tuple[ChallengeRow, AuthorizationRow] | None:
        """A challenge of this account with its authorization."""
        row = await self._one("challenge", id=challenge_id, account=account_id)
        return None if row is None else (challenge_of(row), joined_authorization_of(row))

    async def proofs(self, order_id: str) -> list[ProofRow]:
        """How each name of an order was validated, in their order."""
        return [proof_of(row) for row in await self._all("proofs", order=order_id)]

    async def processing_challenges(self) -> list[tuple[ChallengeRow, AuthorizationRow]]:
        """Challenges that clients were told to wait for."""
        rows = await self._all("processing_challenges")
        return [(challenge_of(row), joined_authorization_of(row)) for row in rows]

    async def mark_challenge_processing(self, challenge_id: str, audit: AuditEvent) -> None:
        """Remember that an attempt outlives its request, so that it is repeated after a restart."""
        values = {"challenge": challenge_id}
        await self._commit("challenge-processing", [self._write("challenge_processing", values)], audit)

    async def create_authorization(
        self, made: NewAuthorization, now: int, most: int, audit: AuditEvent, riding: Sequence[Write]
    ) -> None:
        """Store an authorization that no order asked for yet, with what else is written or not at all.

        Its own write, the first after `riding`, needs a valid account with fewer than `most` pending such ones.
        """
        authorization, offered = made
        values = authorization_values(authorization) | {"now": now, "most": most}
        new = self._write("insert_authorization_ahead", values, contended=True)
        await self._commit("authorization-created", [*riding, new, *self._new_challenges(offered)], audit)

    async def accept_challenge(
        self,
        challenge: ChallengeRow,
        answers: Sequence[Mapping[str, Any]],
        now: int,
        audit: AuditEvent,
    ) -> None:
        """Record a proof: challenge and authorization become valid, and ready the orders that waited for nothing else.

        `answers` are those of the remote perspectives.
        """
        of = {"authorization": challenge.authorization_id}
        writes = [
            self._write("accept_challenge", {"challenge": challenge.id, "now": now, "answers": _answers(answers)}),
            *self._lock_orders(of),
            self._write("settle_authorization", of | {"outcome": "valid", "now": now}),
            self._write("ready_orders", of | {"now": now}, expect=None),
        ]
        await self._commit("challenge-valid", writes, audit)

    async def reject_challenge(
        self,
        challenge: ChallengeRow,
        answers: Sequence[Mapping[str, Any]],
        error: Mapping[str, Any],
        order_error: Mapping[str, Any],
        audit: AuditEvent,
        riding: Sequence[Write] = (),
    ) -> None:
        """Record a failure: challenge, authorization and every unfinished order it serves become invalid.

        `riding` is what else is written with it.
        """
        of = {"authorization": challenge.authorization_id}
        values = {"challenge": challenge.id, "problem": to_json(error), "answers": _answers(answers)}
        writes = [
            self._write("reject_challenge", values),
            *self._lock_orders(of),
            self._write("settle_authorization", of | {"outcome": "invalid", "now": 0}),
            self._write("end_orders_served", of | {"problem": to_json(order_error)}, expect=None),
            *riding,
        ]
        await self._commit("challenge-invalid", writes, audit)

    async def deactivate_authorization(
        self, authorization_id: str, order_error: Mapping[str, Any], audit: AuditEvent
    ) -> None:
        """Give up an authorization that is pending or valid; what it serves can no longer be fulfilled."""
        of = {"authorization": authorization_id}
        writes = [
            *self._lock_orders(of),
            self._write("deactivate_authorization", of),
            self._write("end_orders_served", of | {"problem": to_json(order_error)}, expect=None),
        ]
        await self._commit("authorization-deactivated", writes, audit)

    # Certificates

    async def certificate(self, certificate_id: str, account_id: str) -> CertificateRow | None:
        """A certificate of this account."""
        row = await self._one("certificate", id=certificate_id, account=account_id)
        return None if row is None else certificate_of(row)

    async def certificate_by_fingerprint(self, fingerprint: str) -> CertificateRow | None:
        """The certificate with exactly these bytes, whoever ordered it, with the names of its order."""
        row = await self._one("certificate_by_fingerprint", fingerprint=fingerprint)
        return None if row is None else certificate_of(row)

    async def mark_revoked(self, certificate_id: str, now: int, audit: AuditEvent) -> None:
        """Record that the CA has revoked a certificate."""
        values = {"certificate": certificate_id, "now": now}
        await self._commit("certificate-revoked", [self._write("mark_revoked", values)], audit)

    # The database's own verbs

    async def _one(self, statement: str, **params: object) -> Row | None:
        return await self._database.fetch_one(self._statements[statement], **params)

    async def _all(self, statement: str, **params: object) -> Sequence[Row]:
        return await self._database.fetch_all(self._statements[statement], **params)

    def _new_authorizations(self, made: Sequence[NewAuthorization]) -> list[Write]:
        writes = []
        for authorization, offered in made:
            writes.append(self._write("insert_authorization", authorization_values(authorization)))
            writes.extend(self._new_challenges(offered))
        return writes

    def _new_challenges(self, offered: Sequence[ChallengeRow]) -> list[Write]:
        return [self._write("insert_challenge", challenge_values(challenge)) for challenge in offered]

    def _lock_orders(self, of: Mapping[str, Any]) -> list[Write]:
        """One unit after the other has the orders of an authorization; where one process writes, they are so anyway."""
        return [] if self._database.shared is None else [self._write("lock_orders", of, expect=None)]

    def _write(
        self, statement: str, params: Mapping[str, Any], expect: int | None = 1, *, contended: bool = False
    ) -> Write:
        return Write(self._statements[statement], params, expect, contended)

    async def _commit(self, label: str, writes: Sequence[Write], audit: AuditEvent) -> None:
        await self._database.commit(Unit(label, writes, [audit]))


def _answers(answers: Sequence[Mapping[str, Any]]) -> str | None:
    return to_json(answers) if answers else None


__all__ = [
    "FIRST_PAGE",
    "AccountRow",
    "AuthorizationRow",
    "CertificateRow",
    "ChallengeRow",
    "NewAuthorization",
    "OrderPlace",
    "OrderRow",
    "ProofRow",
    "Store",
]
