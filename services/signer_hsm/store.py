"""The only SQL of signer-hsm. Rows go in and come out as frozen records; every statement is compiled once, here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson
import sqlalchemy as sa

from pkicore.algorithms import ALGORITHMS
from pkicore.clock import from_unix, unix
from services.chassis.database import AuditEvent, Database, Row, Unit, Write
from services.signer_hsm.catalogue import GONE, Catalogue, Key, KeyVersion, State
from services.signer_hsm.policy import Approval
from services.signer_hsm.schema import approvals, changes, idempotency, key_versions, keys, policies
from services.signer_hsm.wire import DestructionRecord

ClaimState = Literal["pending", "done", "unknown"]
_CHANGES: Final = 1


@dataclass(frozen=True, slots=True)
class Claim:
    """An idempotency key in use: whose, for what, and for which key version."""

    caller: str
    tenant: str
    idempotency_key: str
    request_hash: bytes
    key: str
    version: int
    at: int
    state: ClaimState = "pending"
    answer: bytes | None = None

    @property
    def place(self) -> tuple[str, str, str]:
        """What it is found by."""
        return self.caller, self.tenant, self.idempotency_key


@dataclass(frozen=True, slots=True)
class StoredApproval:
    """An approval, and the act that it is of, for people; its binding alone decides."""

    approval: Approval
    act: str
    tenant: str
    key: str
    version: int | None


@dataclass(frozen=True, slots=True)
class SeenPolicy:
    """A key policy that was in force."""

    version: int
    sha256: str
    at: int


@dataclass(frozen=True, slots=True)
class VersionIntent:
    """A version that is about to be made; `tenant_limit` bounds the tenant's keys when it is the first of its key."""

    key: Key
    number: int
    imported_key: bytes | None
    at: int
    tenant_limit: int


class SignerStore:
    """The database and the catalogue that mirrors it: whoever writes through here reads it there at once."""

    def __init__(self, database: Database) -> None:
        self.catalogue = Catalogue()
        self._database = database
        prepare = database.prepare
        self._count_change = prepare(
            sa.update(changes).where(changes.c.id == _CHANGES).values(counter=changes.c.counter + 1)
        )
        self._counter = prepare(sa.select(changes.c.counter).where(changes.c.id == _CHANGES))
        self._changed_keys = prepare(sa.select(keys).where(keys.c.changed > sa.bindparam("after")))
        self._changed_versions = prepare(
            sa.select(key_versions)
            .join_from(key_versions, keys, keys.c.id == key_versions.c.key)
            .where(keys.c.changed > sa.bindparam("after"))
        )
        self._insert_key = prepare(_insert_key())
        self._redefine_key = prepare(
            _update_key(
                backend=sa.bindparam("to_backend", type_=sa.Text), algorithm=sa.bindparam("to_algorithm", type_=sa.Text)
            ).where(keys.c.current == 0)
        )
        self._touch_key = prepare(_update_key(current=keys.c.current))
        self._set_current = prepare(_update_key(current=sa.bindparam("to_current", type_=sa.BigInteger)))
        self._insert_version = prepare(_insert(key_versions))
        self._complete_version = prepare(
            _update_version("handle", "public_key", "kinds", "evidence", "state").where(
                key_versions.c.state == "creating"
            )
        )
        self._set_state = prepare(
            _update_version("state").where(key_versions.c.state == sa.bindparam("from_state", type_=sa.Text))
        )
        self._set_destruction = prepare(
            _update_version("state", "destruction").where(key_versions.c.state == "destroying")
        )
        self._set_attestation = prepare(_update_version("attestation"))
        self._claim = prepare(_insert(idempotency))
        self._claimed = prepare(sa.select(idempotency).where(*_place()))
        self._settle_claim = prepare(
            sa.update(idempotency)
            .where(*_place(), idempotency.c.state == "pending")
            .values(
                state=sa.bindparam("to_state", type_=sa.Text), answer=sa.bindparam("to_answer", type_=sa.LargeBinary)
            )
        )
        self._free_claim = prepare(sa.delete(idempotency).where(*_place(), idempotency.c.state == "pending"))
        self._forget_claims = prepare(sa.delete(idempotency).where(idempotency.c.at < sa.bindparam("before")))
        self._forget_approvals = prepare(sa.delete(approvals).where(approvals.c.expires_at < sa.bindparam("before")))
        self._insert_approval = prepare(_insert(approvals))
        self._use_approval = prepare(
            sa.update(approvals)
            .where(approvals.c.id == sa.bindparam("of"), approvals.c.consumed_at.is_(None))
            .values(consumed_at=sa.bindparam("now", type_=sa.BigInteger))
        )
        self._approvals = prepare(
            sa.select(approvals)
            .where(
                approvals.c.tenant == sa.bindparam("of_tenant"),
                approvals.c.expires_at > sa.bindparam("now"),
                approvals.c.consumed_at.is_(None),
            )
            .order_by(approvals.c.approved_at, approvals.c.id)
        )
        self._insert_policy = prepare(_insert(policies))
        self._policies = prepare(sa.select(policies).order_by(policies.c.version.desc()).limit(1))

    # the catalogue

    async def refresh(self) -> None:
        """Take what other processes have changed; one small query where nothing has.

        Raises:
            UnavailableError: the database cannot be read.
        """
        row = await self._database.fetch_one(self._counter)
        counter = -1 if row is None else int(row["counter"])
        if counter != self.catalogue.counter:
            await self._reload(counter)

    async def _reload(self, counter: int) -> None:
        after = self.catalogue.counter
        found = await self._database.fetch_all(self._changed_keys, after=after)
        versions: dict[str, dict[int, KeyVersion]] = {}
        for row in await self._database.fetch_all(self._changed_versions, after=after):
            versions.setdefault(row["key"], {})[row["version"]] = _version(row)
        self.catalogue.take([_key(row, versions.get(row["id"], {})) for row in found], counter)

    async def _commit_change(self, unit: Unit) -> None:
        """Commit a unit that changes keys; other processes see it within a second, this one at once."""
        await self._database.commit(Unit(unit.label, [Write(self._count_change, {}, 1), *unit.writes], unit.audit))
        await self.refresh()

    # decisions and signatures

    async def record(self, event: AuditEvent) -> None:
        """Commit a decision.

        Raises:
            DatabaseError: it is not on record, so nothing may be done.
        """
        await self._database.commit(Unit("decision", (), (event,)))

    async def begin_signing(self, claim: Claim, event: AuditEvent) -> None:
        """Commit a decision and take an idempotency key.

        Raises:
            DuplicateError: the idempotency key is in use; nothing was written.
        """
        await self._database.commit(Unit("signing", [self._claiming(claim)], [event]))

    async def finish_signing(self, claim: Claim, answer: bytes) -> None:
        """Keep what was signed under an idempotency key.

        Raises:
            ConflictError: it is not pending any more.
        """
        await self._database.commit(Unit("signed", [self._settling(claim, "done", answer)]))

    async def give_up_signing(self, claim: Claim) -> None:
        """Nobody will ever know what was signed under this idempotency key."""
        await self._database.commit(Unit("signing-unknown", [self._settling(claim, "unknown", None)]))

    async def free(self, claim: Claim) -> None:
        """Nothing was done under this idempotency key."""
        await self._database.commit(Unit("freed", [Write(self._free_claim, _claim_place(claim), 1)]))

    async def claimed(self, place: tuple[str, str, str]) -> Claim | None:
        """What an idempotency key (caller, tenant, key) stands for."""
        names = ("of_caller", "of_tenant", "of_key")
        row = await self._database.fetch_one(self._claimed, **dict(zip(names, place, strict=True)))
        return None if row is None else Claim(**{name: row[name] for name in Claim.__slots__})

    # the life cycle

    async def begin_version(
        self, intent: VersionIntent, claim: Claim, used: Sequence[Approval], event: AuditEvent
    ) -> None:
        """Commit that a version is about to be made.

        Raises:
            DuplicateError: the idempotency key, the key or the version exists; nothing was written.
            ConflictError: the tenant has as many keys as it may, or an approval is gone; nothing was written.
        """
        key = intent.key
        first = Write(self._touch_key, {"of": key.id}, 1)
        if key.versions and not key.current:  # every attempt to make it has failed
            redefined = {"of": key.id, "to_backend": key.backend, "to_algorithm": key.algorithm.name}
            first = Write(self._redefine_key, redefined, 1)
        elif not key.versions:
            params = {
                "id": key.id,
                "tenant": key.tenant,
                "name": key.name,
                "backend": key.backend,
                "algorithm": key.algorithm.name,
                "current": 0,
                "created_at": key.created_at,
                "most": intent.tenant_limit,
            }
            first = Write(self._insert_key, params, 1)
        version = {
            "key": key.id,
            "version": intent.number,
            "state": "creating",
            "handle": None,
            "public_key": None,
            "imported_key": intent.imported_key,
            "kinds": "",
            "evidence": "{}",
            "created_at": intent.at,
            "destruction": None,
            "attestation": None,
        }
        writes = [first, Write(self._insert_version, version, 1), self._claiming(claim), *self._using(used, intent.at)]
        await self._commit_change(Unit("version-intent", writes, [event]))

    async def complete_version(self, key: Key, made: KeyVersion, claim: Claim | None, event: AuditEvent) -> None:
        """The version exists, and is the current one from now on.

        Raises:
            ConflictError: it was completed or given up by somebody else.
        """
        params = {
            "of": key.id,
            "of_version": made.number,
            "handle": made.handle,
            "public_key": made.public_key,
            "kinds": ",".join(sorted(made.kinds)),
            "evidence": _json(made.evidence or {}),
            "state": "enabled",
        }
        current = {"of": key.id, "to_current": max(key.current, made.number)}
        writes = [Write(self._complete_version, params, 1), Write(self._set_current, current, 1)]
        await self._commit_change(Unit("version-made", [*writes, *self._done(claim)], [event]))

    async def fail_version(self, key: Key, number: int, claim: Claim | None, event: AuditEvent) -> None:
        """The version was not made, and its number is not used again.

        Raises:
            ConflictError: it was completed or given up by somebody else.
        """
        writes = [self._moving(key, number, "creating", "failed"), Write(self._touch_key, {"of": key.id}, 1)]
        if claim is not None:
            writes.append(Write(self._free_claim, _claim_place(claim), None))
        await self._commit_change(Unit("version-failed", writes, [event]))

    async def begin_change(
        self, key: Key, version: KeyVersion, to: State, claim: Claim, used: Sequence[Approval], event: AuditEvent
    ) -> None:
        """Commit a change of state that the back end is yet to follow.

        Raises:
            DuplicateError: the idempotency key is in use; nothing was written.
            ConflictError: the version is in another state, or an approval is gone; nothing was written.
        """
        writes = [self._claiming(claim), *self._using(used, claim.at), Write(self._touch_key, {"of": key.id}, 1)]
        if to != version.state:
            writes.append(self._moving(key, version.number, version.state, to))
        await self._commit_change(Unit("change-intent", writes, [event]))

    async def finish_change(
        self, key: Key, version: KeyVersion, to: State, claim: Claim | None, event: AuditEvent
    ) -> None:
        """The back end has followed.

        Raises:
            ConflictError: the version is in another state.
        """
        writes = [Write(self._touch_key, {"of": key.id}, 1), *self._done(claim)]
        if to != version.state:
            writes.append(self._moving(key, version.number, version.state, to))
        await self._commit_change(Unit("changed", writes, [event]))

    async def record_destruction(
        self, key: Key, number: int, destruction: DestructionRecord, claim: Claim | None, event: AuditEvent
    ) -> None:
        """Keep how far the destruction of a version is, with its proof.

        Raises:
            ConflictError: the version is not being destroyed.
        """
        params = {
            "of": key.id,
            "of_version": number,
            "state": "destroyed" if destruction.final else "destroying",
            "destruction": _json({"at": destruction.at, "final": destruction.final, "proof": dict(destruction.proof)}),
        }
        writes = [Write(self._set_destruction, params, 1), Write(self._touch_key, {"of": key.id}, 1)]
        await self._commit_change(Unit("destruction", [*writes, *self._done(claim)], [event]))

    async def record_attestation(
        self, key: Key, number: int, attestation: Mapping[str, Any], event: AuditEvent
    ) -> None:
        """Keep a statement about a version that was verified."""
        params = {"of": key.id, "of_version": number, "attestation": _json(attestation)}
        writes = [Write(self._set_attestation, params, 1), Write(self._touch_key, {"of": key.id}, 1)]
        await self._commit_change(Unit("attestation", writes, [event]))

    async def finish_claim(self, claim: Claim) -> None:
        """What this idempotency key stands for is done."""
        await self._database.commit(Unit("claim-done", self._done(claim)))

    # approvals and policies

    async def approve(self, given: StoredApproval, event: AuditEvent) -> None:
        """Keep an approval."""
        approval = given.approval
        params = {
            "id": approval.id,
            "tenant": given.tenant,
            "key": given.key,
            "act": given.act,
            "version": given.version,
            "binding": approval.binding,
            "approver": approval.approver,
            "approved_at": unix(approval.approved_at),
            "expires_at": unix(approval.expires_at),
            "policy_sha256": approval.policy_sha256,
            "rule": approval.rule,
            "consumed_at": None,
        }
        await self._database.commit(Unit("approval", [Write(self._insert_approval, params, 1)], [event]))

    async def approvals(self, tenant: str, now: int) -> list[StoredApproval]:
        """The approvals of a tenant that are neither expired nor used up, the oldest first."""
        rows = await self._database.fetch_all(self._approvals, of_tenant=tenant, now=now)
        return [_approval(row) for row in rows]

    async def newest_policy(self) -> SeenPolicy | None:
        """The key policy with the highest version that was ever in force."""
        row = await self._database.fetch_one(self._policies)
        return None if row is None else SeenPolicy(row["version"], row["sha256"], row["at"])

    async def policy_seen(self, policy: SeenPolicy, event: AuditEvent) -> None:
        """Keep that a key policy is in force.

        Raises:
            DuplicateError: one with this version was.
        """
        params = {name: getattr(policy, name) for name in SeenPolicy.__slots__}
        await self._database.commit(Unit("policy", [Write(self._insert_policy, params, 1)], [event]))

    async def forget(self, *, claims_before: int, approvals_before: int) -> None:
        """Delete idempotency keys that are old enough, and approvals that have expired."""
        writes = [
            Write(self._forget_claims, {"before": claims_before}, None),
            Write(self._forget_approvals, {"before": approvals_before}, None),
        ]
        await self._database.commit(Unit("clean-up", writes))

    def _claiming(self, claim: Claim) -> Write:
        return Write(self._claim, {name: getattr(claim, name) for name in Claim.__slots__}, 1)

    def _settling(self, claim: Claim, state: ClaimState, answer: bytes | None) -> Write:
        return Write(self._settle_claim, _claim_place(claim) | {"to_state": state, "to_answer": answer}, 1)

    def _done(self, claim: Claim | None) -> list[Write]:
        return [] if claim is None else [self._settling(claim, "done", None)]

    def _moving(self, key: Key, number: int, before: State, after: State) -> Write:
        return Write(self._set_state, {"of": key.id, "of_version": number, "from_state": before, "state": after}, 1)

    def _using(self, used: Sequence[Approval], now: int) -> list[Write]:
        return [Write(self._use_approval, {"of": approval.id, "now": now}, 1) for approval in used]


def _insert(table: sa.Table) -> sa.Insert:
    return sa.insert(table).values({column.name: sa.bindparam(column.name) for column in table.c})


def _present_counter() -> sa.ScalarSelect[int]:
    return sa.select(changes.c.counter).where(changes.c.id == _CHANGES).scalar_subquery()


def _insert_key() -> sa.Insert:
    """Insert a key unless the tenant has `most` already; the change counter's row makes writers wait for each other."""
    alive = (
        sa.select(sa.func.count(sa.distinct(keys.c.id)))
        .join_from(keys, key_versions, key_versions.c.key == keys.c.id)
        .where(
            keys.c.tenant == sa.bindparam("tenant", type_=sa.Text),
            key_versions.c.state.not_in(sorted(GONE)),
        )
        .scalar_subquery()
    )
    columns = [column for column in keys.c if column is not keys.c.changed]
    values = [sa.bindparam(column.name, type_=column.type) for column in columns]
    row = sa.select(*values, _present_counter()).where(alive < sa.bindparam("most", type_=sa.BigInteger))
    return sa.insert(keys).from_select([*columns, keys.c.changed], row)


def _update_key(**values: object) -> sa.Update:
    return sa.update(keys).where(keys.c.id == sa.bindparam("of")).values(changed=_present_counter(), **values)


def _update_version(*names: str) -> sa.Update:
    columns = {name: sa.bindparam(name, type_=key_versions.c[name].type) for name in names}
    return (
        sa.update(key_versions)
        .where(
            key_versions.c.key == sa.bindparam("of", type_=sa.Text),
            key_versions.c.version == sa.bindparam("of_version", type_=sa.BigInteger),
        )
        .values(columns)
    )


def _place() -> tuple[sa.ColumnElement[bool], ...]:
    return (
        idempotency.c.caller == sa.bindparam("of_caller"),
        idempotency.c.tenant == sa.bindparam("of_tenant"),
        idempotency.c.idempotency_key == sa.bindparam("of_key"),
    )


def _claim_place(claim: Claim) -> dict[str, Any]:
    return {"of_caller": claim.caller, "of_tenant": claim.tenant, "of_key": claim.idempotency_key}


def _json(value: Mapping[str, Any]) -> str:
    return orjson.dumps(dict(value), option=orjson.OPT_SORT_KEYS).decode()


def _key(row: Row, versions: Mapping[int, KeyVersion]) -> Key:
    fields = {name: row[name] for name in ("id", "tenant", "name", "backend", "current", "created_at", "changed")}
    return Key(**fields, algorithm=ALGORITHMS[row["algorithm"]], versions=versions)


def _approval(row: Row) -> StoredApproval:
    approval = Approval(
        id=row["id"],
        binding=row["binding"],
        approver=row["approver"],
        approved_at=from_unix(row["approved_at"]),
        expires_at=from_unix(row["expires_at"]),
        policy_sha256=row["policy_sha256"],
        rule=row["rule"],
    )
    return StoredApproval(approval, row["act"], row["tenant"], row["key"], row["version"])


def _version(row: Row) -> KeyVersion:
    destruction, attestation = row["destruction"], row["attestation"]
    return KeyVersion(
        number=row["version"],
        state=row["state"],
        created_at=row["created_at"],
        handle=row["handle"],
        public_key=row["public_key"],
        imported_key=row["imported_key"],
        kinds=frozenset(kind for kind in row["kinds"].split(",") if kind),
        evidence=orjson.loads(row["evidence"]),
        destruction=None if destruction is None else DestructionRecord(**orjson.loads(destruction)),
        attestation=None if attestation is None else orjson.loads(attestation),
    )
