"""Changes of an account after it was made; each names the state that it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import bindparam, update

from services.acme.schema import accounts
from services.acme.store.rows import to_json
from services.chassis.database import AuditEvent, Database, Unit, Write

_VALID: Final = update(accounts).where(accounts.c.id == bindparam("account"), accounts.c.status == "valid")
_STATEMENTS: Final[Mapping[str, Any]] = {
    "contacts": _VALID.values(contacts=bindparam("new_contacts")),
    "terms": _VALID.values(terms=bindparam("agreed"), terms_agreed_at=bindparam("at")),
    "key": _VALID.where(accounts.c.thumbprint == bindparam("old")).values(
        thumbprint=bindparam("new"), jwk=bindparam("new_jwk")
    ),
}


class AccountChanges:
    """Contacts, agreement and key of valid accounts.

    All methods raise ConflictError when the account is not valid any more, or has changed meanwhile.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._statements = {name: database.prepare(statement) for name, statement in _STATEMENTS.items()}

    async def update(
        self, account_id: str, contacts: Sequence[str] | None, terms: tuple[str, int] | None, audit: AuditEvent
    ) -> None:
        """Replace the contacts, record the terms agreed to (URL and time), or both; None leaves them."""
        writes = []
        if contacts is not None:
            writes.append(self._write("contacts", account=account_id, new_contacts=to_json(contacts)))
        if terms is not None:
            writes.append(self._write("terms", account=account_id, agreed=terms[0], at=terms[1]))
        await self._database.commit(Unit("account-updated", writes, [audit]))

    async def change_key(self, account_id: str, old: str, new: str, jwk: Mapping[str, Any], audit: AuditEvent) -> None:
        """Replace the key with this thumbprint by another; DuplicateError when an account has that one."""
        write = self._write("key", account=account_id, old=old, new=new, new_jwk=to_json(jwk))
        await self._database.commit(Unit("account-key-changed", [write], [audit]))

    def _write(self, statement: str, **params: object) -> Write:
        return Write(self._statements[statement], params, 1)
