"""Patience with an eventually consistent API: what was just made or enabled may not be so everywhere yet.

Source: AWS KMS Developer Guide, "AWS KMS eventual consistency": most changes are everywhere within seconds, some take
minutes. "Using tags to control access": it may take minutes until policies that go by tags know a new key.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final, TypeVar

from services.signer_hsm.errors import BackendError

REMEMBERED_SECONDS: Final = 60.0
FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 0.5

T = TypeVar("T")


class Settling:
    """Knows which keys changed lately, and repeats calls that fail as they do before a change is everywhere."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience = patience_seconds
        self._changes: dict[str, tuple[float, tuple[type[BackendError], ...]]] = {}

    def begin(self, arn: str, *failures: type[BackendError]) -> None:
        """From now on, for a while, these failures may pass by itself."""
        present = monotonic()
        self._changes = {key: change for key, change in self._changes.items() if change[0] > present}
        self._changes[arn] = (present + REMEMBERED_SECONDS, failures)

    def end(self, arn: str) -> None:
        """The key changed again; nothing passes by itself."""
        self._changes.pop(arn, None)

    def is_settling(self, arn: str) -> bool:
        """Whether it changed lately."""
        return arn in self._changes and self._changes[arn][0] > monotonic()

    async def call(self, arn: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` returns, repeated while it fails as expected and patience lasts."""
        until = monotonic() + self._patience
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await attempt()
            except BackendError as error:
                if not self._may_pass(arn, error) or monotonic() + pause > until:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _may_pass(self, arn: str, error: BackendError) -> bool:
        return self.is_settling(arn) and isinstance(error, self._changes[arn][1])
