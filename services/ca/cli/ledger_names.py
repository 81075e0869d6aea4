"""Whether the issuing CA or profile that somebody names is one: a name that was mistyped selects nothing, silently."""

from collections.abc import Iterable
from pathlib import Path

from pkicore.x509.profiles import load_profiles
from services.ca.client import CaClient
from services.ca.errors import CeremonyError
from services.ca.layout import Layout
from services.chassis.settings import read_text


async def check_names(ca: CaClient, directory: Path, *, issuer: str | None, profile: str | None) -> None:
    """Each is one that there is, or that has certificates in the ledger, as a profile of before.

    Raises:
        CeremonyError: it is none; the sentence has those that there are.
        CaError: the CA said no, or nothing.
    """
    if issuer is not None and not await _has_certificates(ca, "issuer", issuer):
        _require(issuer, "issuing CA", (one.id for one in (await ca.inventory()).issuers))
    if profile is not None and not await _has_certificates(ca, "profile", profile):
        file = Layout(directory).profiles
        configured = load_profiles(read_text(file)) if file.is_file() else ()  # elsewhere than at the CA there is none
        _require(profile, "profile", [*configured, *(live.profile for live in (await ca.inventory()).certificates)])


async def _has_certificates(ca: CaClient, kind: str, name: str) -> bool:
    return bool((await ca.ledger({kind: name, "limit": 1})).certificates)


def _require(name: str, kind: str, known: Iterable[str]) -> None:
    names = sorted(set(known))
    if name not in names:
        raise CeremonyError(f"there is no {kind} {name[:80]!r}; there are: {', '.join(names)}")
