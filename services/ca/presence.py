"""Whether the processes of a deployment have taken up what a command changed; where none runs, nobody waits."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from pkicore.errors import MalformedError
from services.ca.child import plain_get
from services.ca.errors import CeremonyError
from services.ca.layout import Layout
from services.chassis.cli.endpoints_file import read_endpoints

PATIENCE_SECONDS: Final = 60.0
TRUST_SECONDS: Final = 6.0
"""Services look at the trust directory every two seconds, and fetch a CRL then."""
IDENTITY_SECONDS: Final = 20.0
"""Services look at their identity's files every five seconds, and show a new one once they have its staple."""
_LOOK_SECONDS: Final = 0.2
_ASK_SECONDS: Final = 5.0


class Presence(Protocol):
    """What a command waits for."""

    async def serves(self, path: str, like: str = "") -> None:
        """Return when the CA's status listener has this path, with the content of `like` where that is given.

        Raises:
            CeremonyError: it has not in time; the sentence says where to look.
        """
        ...

    async def settled(self, file: Path, seconds: float) -> None:
        """Return when this file is so old that every service goes by it."""
        ...


class NothingRuns:
    """Of a stopped deployment."""

    async def serves(self, path: str, like: str = "") -> None:
        """At once."""

    async def settled(self, file: Path, seconds: float) -> None:
        """At once."""


@dataclass(frozen=True)
class Processes:
    """Of a deployment that `ztca up` runs."""

    layout: Layout
    patience: float = PATIENCE_SECONDS

    async def serves(self, path: str, like: str = "") -> None:
        """As `Presence` says."""
        deadline = time.monotonic() + self.patience
        while True:
            tag = await self._tag(path)
            if tag is not None and tag == (await self._tag(like) if like else tag):
                return
            if time.monotonic() > deadline:
                raise CeremonyError(
                    f"the settings are changed, and the running CA has not taken that up in {self.patience:g} s: "
                    f"{self.layout.logs / 'ca.log'} says why; repeat the command when that is put right"
                )
            await asyncio.sleep(_LOOK_SECONDS)

    async def settled(self, file: Path, seconds: float) -> None:
        """As `Presence` says."""
        await asyncio.sleep(max(0.0, min(seconds, seconds - _age(file))))

    async def _tag(self, path: str) -> bytes | None:
        """The entity tag; None while there is none."""
        url = urlsplit(str(read_endpoints(self.layout.root)["crl_base"]))
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                answer = await plain_get(f"{url.scheme}://{url.netloc}", path, {"If-None-Match": "*"})
        except (OSError, MalformedError):
            return None
        return dict(answer.headers).get(b"etag")


def _age(file: Path) -> float:
    """Seconds since it was written."""
    return time.time() - file.stat().st_mtime
