"""What the contract suite needs of a back end's surroundings: tests/support/backend_<kind>.py makes one of these.

Each such module has

    @asynccontextmanager
    async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[BackendWorld]: ...

and raises `WorldMissingError` there when what it needs is not on this machine. `tests/contract/test_signer_backends.py`
finds the modules by their names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from services.signer_hsm.backends import Backend, Facts


class WorldMissingError(Exception):
    """This world cannot run here; the text completes "not run: ...", e.g. "softhsm2 missing (apt-get install ...)"."""


@dataclass(kw_only=True)
class BackendWorld:
    """A back end that works, and how to open it once more.

    Attributes:
        backend: the one that is open now; the suite closes it.
        algorithms: of the keys to try, cheap ones first; each is in `backend.offers`.
        open_again: another back end object over the same keys, as after a restart.
        evidence: facts that the evidence of each key made here must hold, such as {"extractable": False}.
        disables: whether the back end itself refuses a disabled key; else `set_enabled` does nothing or is not offered.
        destroys_at_once: whether a destruction is final at once.
        rsa_schemes: schemes to try with RSA keys.
        shortest_message: octets of a message at least, for keys that take messages.
    """

    backend: Backend
    algorithms: tuple[str, ...]
    open_again: Callable[[], Awaitable[Backend]]
    evidence: Facts = field(default_factory=dict)
    disables: bool = True
    destroys_at_once: bool = True
    rsa_schemes: tuple[str, ...] = ("RS256", "PS256", "RS512", "PS512")
    shortest_message: int = 0

    async def reopen(self) -> Backend:
        """Close the back end and open it again over the same keys."""
        await self.backend.aclose()
        self.backend = await self.open_again()
        return self.backend
