"""Whether what stands behind a back end is where its keys are: a token by its serial number, a directory by its id.

A token that was replaced or initialised anew, or a directory that is not mounted, has none of the keys, and yet answers
to its name. There a key is not missing but elsewhere, and what cannot be found is not destroyed. The evidence of each
key version says where it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.signer_hsm.backends import PLACES, Destruction, Fact
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.catalogue import Catalogue, KeyVersion
from services.signer_hsm.errors import BackendError, KeyNotFoundError, UnavailableError


def require_proof(version: KeyVersion, done: Destruction) -> None:
    """Take a destruction that found nothing only from where the key was.

    Raises:
        UnavailableError: it was elsewhere, or nothing says where.
    """
    if done.found:
        return
    was = _place(version.evidence or {})
    if was is None:
        raise UnavailableError("the back end does not find the key, and nothing says that it ever had it")
    if was != _place(done.proof):
        raise UnavailableError(_sentence(was, _place(done.proof)))


async def explained(error: KeyNotFoundError, version: KeyVersion, backend: GuardedBackend) -> BackendError:
    """Why a back end does not find a version that it had made: it may be another token's, or another directory's."""
    was = _place(version.evidence or {})
    health = await backend.health()
    present = _place(health.detail)
    if was is None or was == present:
        return error
    return UnavailableError(_sentence(was, present))


def misplaced(catalogue: Catalogue, backend: str, detail: Mapping[str, Fact]) -> str | None:
    """Why none of the back end's enabled versions can be where it looks for them, as its health tells; None: they can.

    Args:
        catalogue: of all keys.
        backend: its name.
        detail: of its health.
    """
    present, elsewhere = _place(detail), None
    if present is None:
        return None
    for key, version in catalogue.in_state("enabled"):
        place = _place(version.evidence or {}) if key.backend == backend else None
        if place == present:
            return None
        elsewhere = place or elsewhere
    return None if elsewhere is None else _sentence(elsewhere, present)


def _place(facts: Mapping[str, Any]) -> tuple[str, str] | None:
    return next(((name, str(facts[name])) for name in PLACES if name in facts), None)


def _sentence(was: tuple[str, str], present: tuple[str, str] | None) -> str:
    instead = "which is away" if present is None else f"in whose place there is {present[1]}"
    return f"the key is in the {was[0].removesuffix('_serial')} {was[1]}, {instead}"
