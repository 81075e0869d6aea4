"""The only SQL of the service. Rows go in and come out as frozen records; every statement is compiled once, here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from pkicore.clock import Clock, unix
from services.chassis.database import AuditEvent, Database, Unit, Write
from services.chassis.errors import ConflictError, DuplicateError
from services.signing.callers import ApiKeyRecord
from services.signing.store.rows import (
    INLINE_OCTETS,
    Artefact,
    Claim,
    NewSignature,
    StoredPolicies,
    StoredSignature,
    read_api_key,
    read_artefact,
    read_claim,
    read_policies,
    read_signature,
)
from services.signing.store.statements import (
    CallerStatements,
    PolicyStatements,
    SignatureStatements,
)

__all__ = [
    "INLINE_OCTETS",
    "MAX_PAGE",
    "Artefact",
    "Claim",
    "NewSignature",
    "Numbers",
    "SigningStore",
    "StoredPolicies",
    "StoredSignature",
]

MAX_PAGE: Final = 100
_MAX_API_KEYS: Final = 1000
_AFTER_ALL: Final = "~"  # greater than every id
_SERVICE: Final = "signing"
_RECORDED: Final = "recorded-log-entries"


class SigningStore:
    """The database; what else the service keeps is in files that rows name (`services.signing.objects`)."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._signatures = SignatureStatements(database.prepare)
        self._callers = CallerStatements(database.prepare)
        self._policies = PolicyStatements(database.prepare)

    # decisions and signatures

    async def record(self, event: AuditEvent) -> None:
        """Commit an audit event by itself: a decision, before anything is signed.

        Raises:
            DatabaseError: it is not on record, so nothing may be done.
        """
        await self._database.commit(Unit("decision", (), (event,)))

    async def keep(
        self, new: NewSignature, event: AuditEvent, claim: Claim | None = None, told: Sequence[Write] = ()
    ) -> None:
        """Commit all of a signature: record, index, artefacts, idempotency key, audit event, and what is told of it.

        Args:
            new: the signature.
            event: what the audit log keeps.
            claim: the idempotency key that it was made under.
            told: what puts the event in the outbox (`OutboxStore.announcing`).

        Raises:
            DuplicateError: the idempotency key was used meanwhile; nothing was written.
            DatabaseError: nothing was written.
        """
        writes = [Write(self._signatures.insert, _members(new.signature), 1)]
        tenant, signature = new.signature.tenant, new.signature.id
        for what in new.found_by:
            found = {"tenant": tenant, "what": what, "signature": signature}
            writes.append(Write(self._signatures.insert_found_by, found, 1))
        for artefact in new.artefacts:
            row = _members(artefact) | {"signature": signature}
            writes.append(Write(self._signatures.insert_artefact, row, 1))
        if claim is not None:
            writes.append(Write(self._signatures.insert_claim, _members(claim), 1))
        if new.log_entries:
            writes.append(Write(self._policies.add, {"of": _RECORDED, "more": new.log_entries}, 1))
        await self._database.commit(Unit("signature", [*writes, *told], (event,)))

    async def signature(self, tenant: str, signature: str) -> StoredSignature | None:
        """A signature of the tenant; None where there is none, another tenant's too."""
        row = await self._database.fetch_one(self._signatures.find, of_tenant=tenant, of=signature)
        return None if row is None else read_signature(row)

    async def artefact(self, tenant: str, signature: str, name: str) -> Artefact | None:
        """What is served under a name below a signature of the tenant."""
        params = {"of_tenant": tenant, "of": signature, "of_name": name}
        row = await self._database.fetch_one(self._signatures.artefact, **params)
        return None if row is None else read_artefact(row)

    async def artefacts(self, signature: str) -> list[Artefact]:
        """All that is served below a signature, by name."""
        return [read_artefact(row) for row in await self._database.fetch_all(self._signatures.artefacts, of=signature)]

    async def page(
        self, tenant: str, found_by: Sequence[str] = (), *, after: str | None = None, most: int = MAX_PAGE
    ) -> list[StoredSignature]:
        """Signatures of a tenant, the newest first, at most `most`.

        Args:
            tenant: whose.
            found_by: up to two digests or predicate types that they all have.
            after: the id that the page before ended with.
            most: how many.
        """
        params: dict[str, Any] = {"of_tenant": tenant, "before": after or _AFTER_ALL, "most": most}
        params |= dict(zip(("what", "what_else"), found_by, strict=False))
        statements = self._signatures
        statement = (statements.page, statements.page_found_by, statements.page_found_by_both)[len(found_by)]
        return [read_signature(row) for row in await self._database.fetch_all(statement, **params)]

    async def claimed(self, tenant: str, caller: str, idempotency_key: str) -> Claim | None:
        """What an idempotency key of a caller stands for."""
        params = {"of_tenant": tenant, "of_caller": caller, "of_key": idempotency_key}
        row = await self._database.fetch_one(self._signatures.claim, **params)
        return None if row is None else read_claim(row)

    async def octets_since(self, tenant: str, first_id: str) -> int:
        """Octets of the artefacts of a tenant's signatures from that id on."""
        row = await self._database.fetch_one(self._signatures.octets_since, of_tenant=tenant, since=first_id)
        return 0 if row is None else int(row["octets"])

    async def object_is_used(self, sha256: str) -> bool:
        """Whether any artefact is the file of that name."""
        return await self._database.fetch_one(self._signatures.object_used, of=sha256) is not None

    async def forget_claims(self, before: int) -> None:
        """Delete idempotency keys from before that moment."""
        forget = Write(self._signatures.forget_claims, {"before": before}, None)
        await self._database.commit(Unit("clean-up", [forget]))

    async def probe(self) -> None:
        """Write what leaves nothing behind, durably: to see whether that can be done.

        Raises:
            DatabaseError: it cannot.
        """
        claim = Claim("", "", "probe", b"", "", 0)  # a row that comes and goes: SQLite does not write a value again
        taken = Write(self._signatures.insert_claim, _members(claim), 1)
        await self._database.commit(Unit("probe", [taken, Write(self._signatures.forget_claims, {"before": 1}, 1)]))

    # API keys (`services.signing.callers.ApiKeyStore`)

    async def add_api_key(self, key: ApiKeyRecord, event: AuditEvent) -> None:
        """Keep a new API key.

        Raises:
            ConflictError: the API key that it was made with is revoked meanwhile, or ends before; nothing was written.
        """
        params = _members(key) | {"scopes": orjson.dumps(key.scopes.members()).decode()}
        writes = [Write(self._callers.insert, params, 1)]
        if key.made_by is not None:
            # Whoever revokes one of the makers does it before, and is seen, or waits, and sees the new key.
            maker = {"of_tenant": key.tenant, "of": key.made_by, "ends": key.expires_at}
            held = Write(self._callers.hold_makers, {"of": key.made_by}, None)
            writes = [held, Write(self._callers.hold_maker, maker, 1), *writes]
        await self._database.commit(Unit("api-key", writes, [event]))

    async def find_api_key(self, key_id: str) -> ApiKeyRecord | None:
        """The record of that very id, revoked and expired ones too."""
        row = await self._database.fetch_one(self._callers.find, of=key_id)
        return None if row is None else read_api_key(row)

    async def api_keys(self, tenant: str) -> list[ApiKeyRecord]:
        """The API keys of a tenant, the newest first."""
        rows = await self._database.fetch_all(self._callers.of_tenant, of_tenant=tenant, most=_MAX_API_KEYS)
        return [read_api_key(row) for row in rows]

    async def revoke_api_key(self, tenant: str, key_id: str, event: AuditEvent) -> None:
        """Revoke a tenant's API key, and all that were made with it.

        Raises:
            ConflictError: the tenant has none of that id, or it is revoked; nothing was written.
        """
        params = {"of_tenant": tenant, "of": key_id, "now": unix(self._clock.now())}
        made_with_it = {"of": key_id, "now": params["now"]}
        writes = [
            Write(self._callers.revoke, params, 1),
            Write(self._callers.revoke_made_by, made_with_it, None),
        ]
        await self._database.commit(Unit("api-key-revoked", writes, [event]))

    async def api_key_used(self, key_id: str, at: int) -> None:
        """Keep that a key was used in the hour that begins at `at`."""
        used = Write(self._callers.used, {"of": key_id, "used_at": at}, None)
        await self._database.commit(Unit("api-key-used", [used]))

    # policies (`services.signing.policy.PolicyArchive`) and counters

    async def policy_in_force(self, sha256: str, files: Mapping[str, str]) -> int:
        """Put on record that a set of policies is in force; answers its version."""
        while True:
            newest = await self.newest_policies()
            if newest is not None and newest.sha256 == sha256:
                return newest.version
            version = 1 if newest is None else newest.version + 1
            at = unix(self._clock.now())
            row = {"version": version, "sha256": sha256, "files": orjson.dumps(dict(files)).decode(), "at": at}
            event = AuditEvent("policy.in-force", _SERVICE, {"version": version, "sha256": sha256})
            try:
                await self._database.commit(Unit("policy", [Write(self._policies.insert, row, 1)], [event]))
            except DuplicateError:  # another process was quicker with this version
                continue
            return version

    async def newest_policies(self) -> StoredPolicies | None:
        """The set that came into force last."""
        row = await self._database.fetch_one(self._policies.newest)
        return None if row is None else read_policies(row)

    async def policies(self, sha256: str) -> StoredPolicies | None:
        """The set with that hash, as it was in force last."""
        row = await self._database.fetch_one(self._policies.by_hash, of=sha256)
        return None if row is None else read_policies(row)

    async def recorded_log_entries(self) -> int:
        """How many entries of the transparency log belong to records that were kept, deleted ones too."""
        row = await self._database.fetch_one(self._policies.counter, of=_RECORDED)
        return 0 if row is None else int(row["value"])

    async def take_numbers(self, counter: str, count: int) -> range:
        """Numbers that nobody ever had or will have of this counter, from 1 on; some may be left unused at a crash."""
        while True:
            row = await self._database.fetch_one(self._policies.counter, of=counter)
            found = 1 if row is None else int(row["value"])
            if row is None:
                write = Write(self._policies.insert_counter, {"name": counter, "value": found + count}, 1)
            else:
                params = {"of": counter, "found": found, "to_value": found + count}
                write = Write(self._policies.advance, params, 1)
            try:
                await self._database.commit(Unit("numbers", [write]))
            except (ConflictError, DuplicateError):  # another process took some meanwhile
                continue
            return range(found, found + count)


class Numbers:
    """Numbers of one counter; a `services.signing.timestamps.SerialStore`."""

    def __init__(self, store: SigningStore, counter: str) -> None:
        self._store = store
        self._counter = counter

    async def reserve(self, count: int) -> int:
        """The first of so many numbers in a row that are the caller's alone."""
        return (await self._store.take_numbers(self._counter, count)).start


def _members(record: Any) -> dict[str, Any]:  # noqa: ANN401 -- any of the frozen records
    return {name: getattr(record, name) for name in record.__slots__}
