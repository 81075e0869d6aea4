"""The only SQL of signer-hsm. Rows go in and come out as frozen records; every statement is compiled once, here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pkicore.clock import unix
from services.chassis.database import AuditEvent, Database, Unit, Write
from services.signer_hsm.catalogue import Catalogue, Key, KeyVersion, State
from services.signer_hsm.policy import Approval
from services.signer_hsm.store.rows import (
    Claim,
    ClaimState,
    SeenPolicy,
    StoredApproval,
    VersionIntent,
    read_approval,
    read_key,
    read_version,
    to_json,
)
from services.signer_hsm.store.statements import ClaimStatements, KeyStatements, PolicyStatements
from services.signer_hsm.store.writes import Writes
from services.signer_hsm.wire import DestructionRecord

__all__ = ["Claim", "ClaimState", "SeenPolicy", "SignerStore", "StoredApproval", "VersionIntent"]


class SignerStore:
    """The database and the catalogue that mirrors it: whoever writes through here reads it there at once."""

    def __init__(self, database: Database) -> None:
        self.catalogue = Catalogue()
        self.writes = Writes(database)
        self._database = database
        self._keys = KeyStatements(database.prepare)
        self._claims = ClaimStatements(database.prepare)
        self._rules = PolicyStatements(database.prepare)

    # the catalogue

    async def refresh(self) -> None:
        """Take what other processes have changed; one small query where nothing has.

        Raises:
            UnavailableError: the database cannot be read.
        """
        row = await self._database.fetch_one(self._keys.counter)
        counter = -1 if row is None else int(row["counter"])
        if counter != self.catalogue.counter:
            await self._reload(counter)

    async def _reload(self, counter: int) -> None:
        after = self.catalogue.counter
        found = await self._database.fetch_all(self._keys.changed_keys, after=after)
        versions: dict[str, dict[int, KeyVersion]] = {}
        for row in await self._database.fetch_all(self._keys.changed_versions, after=after):
            versions.setdefault(row["key"], {})[row["version"]] = read_version(row)
        self.catalogue.take([read_key(row, versions.get(row["id"], {})) for row in found], counter)

    async def _commit_change(self, unit: Unit) -> None:
        """Commit a unit that changes keys; other processes see it within a second, this one at once."""
        await self.writes.commit(Unit(unit.label, [Write(self._keys.count_change, {}, 1), *unit.writes], unit.audit))
        await self.refresh()

    # decisions and signatures

    async def record(self, event: AuditEvent) -> None:
        """Commit a decision.

        Raises:
            DatabaseError: it is not on record, so nothing may be done.
        """
        await self.writes.commit(Unit("decision", (), (event,)))

    async def begin_signing(self, claim: Claim, event: AuditEvent) -> None:
        """Commit a decision and take an idempotency key.

        Raises:
            DuplicateError: the idempotency key is in use; nothing was written.
        """
        await self.writes.commit(Unit("signing", [self._claiming(claim)], [event]))

    async def finish_signing(self, claim: Claim, answer: bytes) -> None:
        """Keep what was signed under an idempotency key.

        Raises:
            ConflictError: it is not pending any more.
        """
        await self.writes.commit(Unit("signed", [self._settling(claim, "done", answer)]))

    async def give_up_signing(self, claim: Claim) -> None:
        """Nobody will ever know what was signed under this idempotency key."""
        await self.writes.commit(Unit("signing-unknown", [self._settling(claim, "unknown", None)]))

    async def free(self, claim: Claim) -> None:
        """Nothing was done under this idempotency key."""
        await self.writes.commit(Unit("freed", [Write(self._claims.free, _claim_place(claim), 1)]))

    async def claimed(self, place: tuple[str, str, str]) -> Claim | None:
        """What an idempotency key (caller, tenant, key) stands for."""
        names = ("of_caller", "of_tenant", "of_key")
        row = await self._database.fetch_one(self._claims.find, **dict(zip(names, place, strict=True)))
        return None if row is None else Claim(**{name: row[name] for name in Claim.__slots__})

    # the life cycle

    async def begin_version(
        self, intent: VersionIntent, claim: Claim, used: Sequence[Approval], event: AuditEvent
    ) -> None:
        """Commit that a version is about to be made.

        Raises:
            DuplicateError: the idempotency key, the key or the version exists; nothing was written.
            ConflictError: the tenant has as many keys as it may, or the key as many versions, or an approval is gone;
                nothing was written.
        """
        key = intent.key
        first = Write(self._keys.touch_key, {"of": key.id}, 1)
        if key.versions and not key.current:  # every attempt to make it has failed
            redefined = {"of": key.id, "to_backend": key.backend, "to_algorithm": key.algorithm.name}
            first = Write(self._keys.redefine_key, redefined, 1)
        elif not key.versions:
            params = {
                "id": key.id,
                "tenant": key.tenant,
                "name": key.name,
                "backend": key.backend,
                "algorithm": key.algorithm.name,
                "current": 0,
                "created_at": key.created_at,
                "most": intent.max_keys,
            }
            first = Write(self._keys.insert_key, params, 1)
        version = {
            "key": key.id,
            "version": intent.number,
            "state": "creating",
            "handle": None,
            "public_key": None,
            "imported_key": intent.imported_key,
            "kinds": "",
            "schemes": "",
            "evidence": "{}",
            "created_at": intent.at,
            "destruction": None,
            "attestation": None,
            "most": intent.max_versions,
        }
        writes = [
            first,
            Write(self._keys.insert_version, version, 1),
            self._claiming(claim),
            *self._using(used, intent.at),
        ]
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
            "schemes": ",".join(made.schemes),
            "evidence": to_json(made.evidence or {}),
            "state": "enabled",
        }
        current = {"of": key.id, "to_current": max(key.current, made.number)}
        writes = [Write(self._keys.complete_version, params, 1), Write(self._keys.set_current, current, 1)]
        await self._commit_change(Unit("version-made", [*writes, *self._done(claim)], [event]))

    async def fail_version(self, key: Key, number: int, claim: Claim | None, event: AuditEvent) -> None:
        """The version was not made, and its number is not used again.

        Raises:
            ConflictError: it was completed or given up by somebody else.
        """
        writes = [self._moving(key, number, "creating", "failed"), Write(self._keys.touch_key, {"of": key.id}, 1)]
        if claim is not None:
            writes.append(Write(self._claims.free, _claim_place(claim), None))
        await self._commit_change(Unit("version-failed", writes, [event]))

    async def begin_change(
        self, key: Key, version: KeyVersion, to: State, claim: Claim, used: Sequence[Approval], event: AuditEvent
    ) -> None:
        """Commit a change of state that the back end is yet to follow.

        Raises:
            DuplicateError: the idempotency key is in use; nothing was written.
            ConflictError: the version is in another state, or an approval is gone; nothing was written.
        """
        writes = [self._claiming(claim), *self._using(used, claim.at), Write(self._keys.touch_key, {"of": key.id}, 1)]
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
        writes = [Write(self._keys.touch_key, {"of": key.id}, 1), *self._done(claim)]
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
            "destruction": to_json(
                {"at": destruction.at, "final": destruction.final, "proof": dict(destruction.proof)}
            ),
        }
        writes = [Write(self._keys.set_destruction, params, 1), Write(self._keys.touch_key, {"of": key.id}, 1)]
        await self._commit_change(Unit("destruction", [*writes, *self._done(claim)], [event]))

    async def record_attestation(
        self, key: Key, number: int, attestation: Mapping[str, Any], event: AuditEvent
    ) -> None:
        """Keep a statement about a version that was verified."""
        params = {"of": key.id, "of_version": number, "attestation": to_json(attestation)}
        writes = [Write(self._keys.set_attestation, params, 1), Write(self._keys.touch_key, {"of": key.id}, 1)]
        await self._commit_change(Unit("attestation", writes, [event]))

    async def finish_claim(self, claim: Claim) -> None:
        """What this idempotency key stands for is done."""
        await self.writes.commit(Unit("claim-done", self._done(claim)))

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
        await self.writes.commit(Unit("approval", [Write(self._rules.insert_approval, params, 1)], [event]))

    async def approvals(self, tenant: str, now: int) -> list[StoredApproval]:
        """The approvals of a tenant that are neither expired nor used up, the oldest first."""
        rows = await self._database.fetch_all(self._rules.approvals, of_tenant=tenant, now=now)
        return [read_approval(row) for row in rows]

    async def newest_policy(self) -> SeenPolicy | None:
        """The key policy with the highest version that was ever in force."""
        row = await self._database.fetch_one(self._rules.newest_policy)
        return None if row is None else SeenPolicy(row["version"], row["sha256"], row["at"])

    async def policy_seen(self, policy: SeenPolicy, event: AuditEvent) -> None:
        """Keep that a key policy is in force.

        Raises:
            DuplicateError: one with this version was.
        """
        params = {name: getattr(policy, name) for name in SeenPolicy.__slots__}
        await self.writes.commit(Unit("policy", [Write(self._rules.insert_policy, params, 1)], [event]))

    async def forget(self, *, claims_before: int, approvals_before: int) -> None:
        """Delete idempotency keys that are old enough, and approvals that have expired."""
        writes = [
            Write(self._claims.forget, {"before": claims_before}, None),
            Write(self._rules.forget_approvals, {"before": approvals_before}, None),
        ]
        await self.writes.commit(Unit("clean-up", writes))

    async def probe(self) -> None:
        """Write what leaves nothing behind, durably: to see whether that can be done.

        Raises:
            DatabaseError: it cannot.
        """
        claim = Claim("", "", "probe", b"", "", 0, 0)  # a row that comes and goes: SQLite does not write a value again
        freed = Write(self._claims.free, _claim_place(claim), 1)
        await self.writes.commit(Unit("probe", [self._claiming(claim), freed]))

    def _claiming(self, claim: Claim) -> Write:
        return Write(self._claims.take, {name: getattr(claim, name) for name in Claim.__slots__}, 1)

    def _settling(self, claim: Claim, state: ClaimState, answer: bytes | None) -> Write:
        return Write(self._claims.settle, _claim_place(claim) | {"to_state": state, "to_answer": answer}, 1)

    def _done(self, claim: Claim | None) -> list[Write]:
        return [] if claim is None else [self._settling(claim, "done", None)]

    def _moving(self, key: Key, number: int, before: State, after: State) -> Write:
        return Write(
            self._keys.set_state, {"of": key.id, "of_version": number, "from_state": before, "state": after}, 1
        )

    def _using(self, used: Sequence[Approval], now: int) -> list[Write]:
        return [Write(self._rules.use_approval, {"of": approval.id, "now": now}, 1) for approval in used]


def _claim_place(claim: Claim) -> dict[str, Any]:
    return {"of_caller": claim.caller, "of_tenant": claim.tenant, "of_key": claim.idempotency_key}
