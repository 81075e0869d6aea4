"""Profiles that orders may name (draft-ietf-acme-profiles): which certificate of the CA, for whom, proven how."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pkicore.algorithms import Algorithm
from services.acme.challenges import offered
from services.acme.errors import AcmeError, Subproblem, refusal
from services.acme.identifiers import Identifier
from services.acme.store import AccountRow

DEFAULT: Final = "server"
_BACKDATE: Final = 3600  # seconds by which the CA's profiles begin before their making
# What the CA's own profiles give at most; that of others only the CA knows, and says at finalize.
_GIVEN_SECONDS: Final = MappingProxyType({"server": 90 * 86400, "short-lived": 6 * 86400})


@dataclass(frozen=True)
class Profile:
    """What an order under this name can be for.

    Attributes:
        name: as clients write it.
        description: one sentence or a URL, for the directory.
        ca_profile: the profile of the CA, which decides issuer and contents.
        keys: algorithm names of `pkicore.algorithms`; empty: those that the CA's profile takes.
        validity_seconds: length of the certificates; None: the CA's profile decides.
        accounts: ids of the accounts that may use it.
        external_accounts: likewise, of the external account keys; both empty: everybody.
        challenges: the types that prove control; empty: those of the deployment.
        identifiers: the identifier types that it takes.
        wildcards: whether it takes wildcards.
        max_names: how many names its certificates have at most, by the CA's profile.
    """

    name: str
    description: str
    ca_profile: str
    keys: tuple[str, ...] = ()
    validity_seconds: int | None = None
    accounts: tuple[str, ...] = ()
    external_accounts: tuple[str, ...] = ()
    challenges: tuple[str, ...] = ()
    identifiers: tuple[str, ...] = ("dns", "ip")
    wildcards: bool = True
    max_names: int = 100

    def is_for(self, account: AccountRow) -> bool:
        """Whether the account may use it."""
        if not self.accounts and not self.external_accounts:
            return True
        return account.id in self.accounts or account.eab_kid in self.external_accounts

    def latest_end(self, now: int) -> int | None:
        """The last second of a certificate made now; None where only the CA knows."""
        seconds = self.validity_seconds or _GIVEN_SECONDS.get(self.ca_profile)
        return None if seconds is None else now - _BACKDATE + seconds - 1

    def own_end(self, now: int) -> int | None:
        """The end that the CA is asked for where the client asked for none; None where the CA's profile decides."""
        return None if self.validity_seconds is None else self.latest_end(now)

    def check_key(self, algorithm: Algorithm) -> None:
        """Refuse a key that certificates of this profile do not have.

        Raises:
            AcmeError: badCSR, with those that they have.
        """
        if self.keys and algorithm.name not in self.keys:
            allowed = ", ".join(self.keys)
            raise AcmeError("badCSR", f"the profile {self.name} takes keys of {allowed}, not {algorithm.name}")


class Profiles:
    """The profiles of this server.

    Args:
        profiles: by name, `DEFAULT` among them or named by `default`.
        challenges: the types that the deployment offers.
        default: the profile of orders that name none.
    """

    def __init__(self, profiles: Mapping[str, Profile], challenges: Collection[str], default: str = DEFAULT) -> None:
        if default not in profiles:
            raise ValueError(f"default_profile must be one of {', '.join(profiles)}")
        self._profiles = dict(profiles)
        self._challenges = tuple(challenges)
        self._default = default

    def chosen(self, name: object, account: AccountRow) -> Profile:
        """The profile that an order names; the default one where it names none.

        Raises:
            AcmeError: invalidProfile.
        """
        wanted = self._default if name is None else name
        profile = self._profiles.get(wanted) if isinstance(wanted, str) else None
        if profile is None or not profile.is_for(account):
            there_are = ", ".join(each.name for each in self._profiles.values() if each.is_for(account))
            raise AcmeError("invalidProfile", f"this account can choose between the profiles {there_are or '(none)'}")
        return profile

    def of_order(self, name: str) -> Profile:
        """The profile of an order that was accepted.

        Raises:
            AcmeError: invalidProfile: it is offered no longer.
        """
        profile = self._profiles.get(name)
        if profile is None:
            raise AcmeError("invalidProfile", f"the profile {name} is not offered any more; order again")
        return profile

    def methods(self, profile: Profile | None, name: Identifier) -> tuple[str, ...]:
        """The challenge types by which a profile has control of a name proven; None: any profile."""
        allowed = self._challenges
        if profile is not None and profile.challenges:
            allowed = tuple(kind for kind in allowed if kind in profile.challenges)
        return offered(name.base, wildcard=name.is_wildcard, allowed=allowed)

    def check_names(self, profile: Profile, names: Sequence[Identifier], *, named: bool) -> None:
        """Refuse names that no certificate of the profile has.

        Raises:
            AcmeError: invalidProfile where the order `named` it; else malformed (too many), unsupportedIdentifier,
                rejectedIdentifier or compound.
        """
        if len(names) > profile.max_names:
            most = f"an order of the profile {profile.name} has at most {profile.max_names} names"
            raise misfit(AcmeError("malformed", most), named=named)
        refused = [problem for name in names if (problem := self._refused(profile, name))]
        if refused:
            raise misfit(refusal(refused), named=named)

    def _refused(self, profile: Profile, name: Identifier) -> Subproblem | None:
        if name.type not in profile.identifiers:
            return Subproblem("unsupportedIdentifier", f"the profile {profile.name} has no {name.type} names", name)
        if name.is_wildcard and not profile.wildcards:
            return Subproblem("rejectedIdentifier", f"the profile {profile.name} has no wildcards", name)
        if not self.methods(profile, name):
            return Subproblem(
                "rejectedIdentifier", f"no challenge of the profile {profile.name} proves this name", name
            )
        return None


def misfit(error: AcmeError, *, named: bool) -> AcmeError:
    """What is told of an order that its profile does not fit: invalidProfile where the order `named` it (§4)."""
    return AcmeError("invalidProfile", error.detail, subproblems=error.subproblems) if named else error


BUILT_IN: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        "server": Profile("server", "TLS servers: 90 days, revocable", "server"),
        "short-lived": Profile(
            "short-lived", "TLS servers: six days, neither CRL nor OCSP", "short-lived", max_names=25
        ),
    }
)
"""What there is where the settings say nothing else."""
