"""The key policy in its file: read at start, followed from then on, never older than one that was in force."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from pkicore.clock import Clock, unix
from services.chassis.database import AuditEvent
from services.chassis.errors import DatabaseError, DuplicateError
from services.signer_hsm.decisions import Decisions
from services.signer_hsm.errors import KeyPolicyError
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.policy import Policy
from services.signer_hsm.policy.loading import format_of
from services.signer_hsm.store import SeenPolicy, SignerStore

LOOK_SECONDS: Final = 1.0
_MAX_OCTETS: Final = 4 << 20

_log = structlog.get_logger("policy")


class PolicyFile:
    """Follows one file.

    Args:
        path: TOML, or JSON where its name ends in `.json`.
        store: remembers which policies were in force.
        clock: when they came into force.
        metrics: told whether what the file says is in force.
        may_go_back: whether it may be older than one that was in force.
    """

    def __init__(
        self, path: Path, store: SignerStore, clock: Clock, metrics: SignerMetrics, *, may_go_back: bool = False
    ) -> None:
        self._path = path
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._may_go_back = may_go_back
        self._seen: object = None

    async def load(self) -> Policy:
        """The policy in the file, on record as one that is in force.

        Raises:
            KeyPolicyError: it cannot be read, makes no sense, or must not follow the one before it.
            DatabaseError: it is not on record.
        """
        self._seen = stamp_of(self._path)
        policy = await asyncio.to_thread(_read, self._path)  # thousands of rules take a second
        await self._put_in_force(policy)
        self._metrics.policy_file("keys", in_force=True)
        return policy

    async def _put_in_force(self, policy: Policy) -> None:
        newest = await self._store.newest_policy()
        if newest is not None and self._may_go_back and policy.version <= newest.version:
            await self._store.record(_loaded(policy, instead_of=newest.version))
            return
        if newest is not None and _follows(newest, policy):
            return
        seen = SeenPolicy(policy.version, policy.sha256, unix(self._clock.now()))
        try:
            await self._store.policy_seen(seen, _loaded(policy))
        except DuplicateError:  # another process was quicker with the same version: is it the same policy?
            newest = await self._store.newest_policy()
            if newest is not None:
                _follows(newest, policy)

    async def run(self, decisions: Decisions) -> None:
        """Look at the file for ever; what makes no sense is logged, and the policy before it stays in force."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look(decisions)

    async def look(self, decisions: Decisions) -> None:
        """Take the policy if the file has changed since it was last read."""
        if stamp_of(self._path) == self._seen:
            return
        try:
            decisions.policy = await self.load()
        except KeyPolicyError as error:
            self._metrics.policy_file("keys", in_force=False)
            _log.error("key policy not taken", error=str(error), in_force=decisions.policy.version)
        except DatabaseError as error:
            self._metrics.policy_file("keys", in_force=False)
            self._seen = None
            _log.error("key policy not taken yet", error=str(error), in_force=decisions.policy.version)
        else:
            _log.info("key policy in force", version=decisions.policy.version, sha256=decisions.policy.sha256)


def _loaded(policy: Policy, **more: int) -> AuditEvent:
    return AuditEvent("policy.loaded", "signer-hsm", {"version": policy.version, "sha256": policy.sha256, **more})


def _follows(newest: SeenPolicy, policy: Policy) -> bool:
    """Whether the newest policy on record is this very one.

    Raises:
        KeyPolicyError: this one must not follow it.
    """
    if policy.version > newest.version:
        return False
    if policy.version < newest.version:
        raise KeyPolicyError(
            f"the key policy has version {policy.version}, and {newest.version} was in force already: count it up"
        )
    if policy.sha256 != newest.sha256:
        raise KeyPolicyError(f"the key policy was changed and still has version {policy.version}: count it up")
    return True


def stamp_of(path: Path) -> object:
    """What changes when the file is written or replaced; None while it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> Policy:
    return Policy.load(text_of(path, "the key policy", KeyPolicyError), format_of(path))


def text_of(path: Path, what: str, error: Callable[[str], Exception]) -> str:
    """The text in the file at `path`; `what` names it in the `error` that is raised where there is none."""
    if path.exists() and not path.is_file():  # reading a pipe might never end
        raise error(f"{what} {path} is no file")
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_OCTETS + 1)
        if len(content) > _MAX_OCTETS:
            raise error(f"{what} {path} has more than {_MAX_OCTETS} octets")
        return content.decode("utf-8")
    except OSError as cause:
        raise error(f"{what} {path} cannot be read: {cause.strerror}") from cause
    except UnicodeDecodeError as cause:
        raise error(f"{what} {path} is not a text in UTF-8") from cause
