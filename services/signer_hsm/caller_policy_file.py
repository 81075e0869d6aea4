"""Who may call which endpoint, in its file: read at start and followed, like the key policy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

import structlog

from services.chassis.errors import PolicyError
from services.chassis.peer import CallerPolicy, Peer
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.policy_file import LOOK_SECONDS, stamp_of, text_of

_log = structlog.get_logger("policy")


class Authorizer(Protocol):
    """Decides whether a peer may call an endpoint: a `CallerPolicy`, or the one in a file that is followed."""

    def authorize(self, peer: Peer | None, service: str, method: str, path: str) -> None:
        """As `CallerPolicy.authorize`."""
        ...


class CallerPolicyFile:
    """The policy in a file.

    Args:
        path: TOML.
        metrics: told whether what the file says is in force.

    Raises:
        PolicyError: it cannot be read, or makes no sense.
    """

    def __init__(self, path: Path, metrics: SignerMetrics) -> None:
        self._path = path
        self._metrics = metrics
        self._seen = self._settled = stamp_of(path)
        self._policy = _read(path)
        metrics.policy_file("callers", in_force=True)

    def authorize(self, peer: Peer | None, service: str, method: str, path: str) -> None:
        """As `CallerPolicy.authorize`, by the policy in force now."""
        self._policy.authorize(peer, service, method, path)

    async def run(self) -> None:
        """Look at the file for ever; what makes no sense is logged, and the policy before it stays in force."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Take the policy if the file has changed, but not since the last look: half a file may make sense too."""
        stamp = stamp_of(self._path)
        settled, self._settled = self._settled, stamp
        if stamp == self._seen or stamp != settled:
            return
        self._seen = stamp
        try:
            self._policy = await asyncio.to_thread(_read, self._path)
        except PolicyError as error:
            self._metrics.policy_file("callers", in_force=False)
            _log.error("caller policy not taken", error=str(error))
        else:
            self._metrics.policy_file("callers", in_force=True)
            _log.info("caller policy in force")


def _read(path: Path) -> CallerPolicy:
    return CallerPolicy.load(text_of(path, "the caller policy", PolicyError))
