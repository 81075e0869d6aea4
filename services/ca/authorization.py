"""Step 2 of issuance: may this caller have this certificate? What is not allowed here by name is refused.

The rules:
1. The profile exists and names the caller's SPIFFE ID among its `callers`; or among its `renewers`, where the request
   names the certificate that it renews, which step 2 of `services.ca.issuance` then looks at.
2. The names of the CSR are exactly the names that the caller vouches for.
3. A URI name is a SPIFFE ID of our trust domain. An operator may vouch for any; a service may have its own, alone.
   Profiles that certify identities of elsewhere (`fulcio = true`) take any URI but a SPIFFE ID.
4. The names fit the profile (types, number), and so does the common name that it makes of them.
5. The key's algorithm is offered by the profile, and an issuing CA of a family that it names for such keys is
   configured; of several families, the first.
6. The profile's certificates are logged only where there is a log; claims are taken by profiles that are for them.
7. The validity is the profile's, cut to the issuer's; a part of it may be asked for, whatever is beyond it is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from datetime import datetime
from typing import Final

from pkicore.clock import Clock, from_unix
from pkicore.errors import BadCsrError, IdentityError, ProfileError
from pkicore.identity import SpiffeId
from pkicore.x509.csr import VerifiedCsr
from pkicore.x509.names import Names
from pkicore.x509.profiles import Profile
from pkicore.x509.tbs import Issuer, common_name_of, validity
from services.ca.errors import NamesError, NoLogError, NotAuthorisedError, UnknownProfileError, ValidityError
from services.ca.wire import CertificateRequest, Identifier, parse_serial

_SEAL: Final = object()
_SHOWN_NAMES: Final = 10


class _Rule:
    """Notes on what is raised within that this rule refuses."""

    NOTE: Final = "rule "

    def __init__(self, number: int) -> None:
        self._note = f"{self.NOTE}{number}"

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is not None:
            error.add_note(self._note)


def rule_of(error: BaseException | None) -> str:
    """The number of the rule that refused, or nothing where it was no rule of this module."""
    while error is not None:
        for note in getattr(error, "__notes__", ()):
            if note.startswith(_Rule.NOTE):
                return str(note.removeprefix(_Rule.NOTE))
        error = error.__cause__
    return ""


@dataclass(frozen=True, kw_only=True)
class IssuanceRequest:
    """A request that was verified and authorised. Only `Authorizer.authorise` can make one.

    `requester` and `account_key` are what the caller says, `grounds` what this CA says: how the names were `validated`,
    its `decision`.
    """

    csr: VerifiedCsr
    caller: SpiffeId
    profile: Profile
    issuer: Issuer
    common_name: str | None
    names: Names
    claims: Mapping[str, str]
    not_before: datetime
    not_after: datetime
    idempotency_key: str
    requester: Mapping[str, str]
    grounds: Mapping[str, str]
    renews: int | None
    account_key: bytes | None
    seal: InitVar[object]

    def __post_init__(self, seal: object) -> None:
        if seal is not _SEAL:
            raise TypeError("an IssuanceRequest comes from Authorizer.authorise and from nowhere else")


class Authorizer:
    """The rules above over a set of profiles and issuers (by family)."""

    def __init__(
        self,
        *,
        trust_domain: str,
        profiles: Mapping[str, Profile],
        issuers: Mapping[str, Issuer],
        clock: Clock,
        has_log: bool = False,
    ) -> None:
        self._has_log = has_log
        self._trust_domain = trust_domain
        self._profiles = profiles
        self._issuers = issuers
        self._clock = clock

    def authorise(
        self, caller: SpiffeId, csr: VerifiedCsr, request: CertificateRequest, below: Issuer | None = None
    ) -> IssuanceRequest:
        """Apply the rules; `below` stands in for the issuer that rule 5 would choose in its family.

        Raises:
            MalformedError: what is to be renewed is no serial.
            UnknownProfileError: no such profile.
            NotAuthorisedError: the caller may not have it.
            NamesError: names that differ, or that are not the caller's to have.
            ProfileError: a key, a name or a claim that the profile does not take.
            NoLogError: the profile wants a log, and there is none.
            ValidityError: a beginning or an end that cannot be given.
        """
        renews = None if request.renews is None else parse_serial(request.renews)
        profile, let_by = self._profile_for(caller, request.profile, renews=renews is not None)
        names = self._names(caller, profile, csr, request.identifiers)
        issuer = self._issuer_for(profile, csr, below)
        with _Rule(4):
            common_name = common_name_of(profile, csr.common_name, names)
        with _Rule(6):
            profile.check_claims(request.extensions)
        not_before, not_after = self._validity(profile, issuer, request)
        return IssuanceRequest(
            csr=csr,
            caller=caller,
            profile=profile,
            issuer=issuer,
            common_name=common_name,
            names=names,
            claims=dict(request.extensions),
            not_before=not_before,
            not_after=not_after,
            idempotency_key=request.idempotency_key,
            requester=dict(request.requester),
            grounds={"validated": _validated(caller, names), "decision": f"profile {profile.name}, {let_by}"},
            renews=renews,
            account_key=request.account_key,
            seal=_SEAL,
        )

    def _profile_for(self, caller: SpiffeId, name: str, *, renews: bool) -> tuple[Profile, str]:
        """The profile, and what of it lets the caller have it."""
        profile = self._profiles.get(name)
        with _Rule(1):
            if profile is None:
                raise UnknownProfileError(
                    f"there is no profile {name!r}; there are {', '.join(sorted(self._profiles))}"
                )
            try:
                let_by = profile.check_caller(caller, self._trust_domain, renews=renews)
            except ProfileError as error:
                raise NotAuthorisedError(str(error)) from error
        with _Rule(6):
            if profile.sct and not self._has_log:
                raise NoLogError(
                    f"certificates of profile {name} are logged, and this CA has no log: "
                    "set ct_log_key and ct_log_public_key"
                )
        return profile, let_by

    def _names(self, caller: SpiffeId, profile: Profile, csr: VerifiedCsr, identifiers: Sequence[Identifier]) -> Names:
        with _Rule(2):
            names, vouched = csr.names, _vouched_names(identifiers)
            if names != vouched:
                raise NamesError(f"the CSR asks for {_spelled(names)}; the request vouches for {_spelled(vouched)}")
        try:
            with _Rule(4):
                profile.check_names(names)
            with _Rule(3):
                identities = [] if profile.fulcio else [SpiffeId.parse(uri) for uri in names.uri]
        except (ProfileError, IdentityError) as error:
            raise NamesError(str(error)) from error
        with _Rule(3):
            self._check_identities(caller, names, identities)
        return names

    def _check_identities(self, caller: SpiffeId, names: Names, identities: Sequence[SpiffeId]) -> None:
        for identity in identities:
            if identity.trust_domain != self._trust_domain:
                raise NamesError(f"{identity} is not of the trust domain {self._trust_domain}")
        if identities and not is_operator(caller) and names != Names(uri=(str(caller),)):
            raise NotAuthorisedError(f"{caller} may have a certificate for its own SPIFFE ID and for nothing beside it")

    def _validity(self, profile: Profile, issuer: Issuer, request: CertificateRequest) -> tuple[datetime, datetime]:
        begin = None if request.not_before is None else from_unix(request.not_before)
        end = None if request.not_after is None else from_unix(request.not_after)
        try:
            with _Rule(7):
                return validity(profile, issuer, self._clock.now(), end, not_before=begin)
        except ProfileError as error:
            raise ValidityError(str(error)) from error

    def _issuer_for(self, profile: Profile, csr: VerifiedCsr, below: Issuer | None) -> Issuer:
        with _Rule(5):
            families = profile.issuing_families(csr.algorithm)
            if below is not None and below.family in families:
                return below
            for family in families:
                if family in self._issuers:
                    return self._issuers[family]
            raise UnknownProfileError(
                f"profile {profile.name} has {csr.algorithm.name} keys certified by the family "
                f"{' or '.join(families)}, of which no issuing CA is active here"
            )


def is_operator(caller: SpiffeId) -> bool:
    """Whether the caller is a person who operates this deployment."""
    return caller.path.startswith("/operator/")


def _validated(caller: SpiffeId, names: Names) -> str:
    """How the names were validated; the caller's word for it, such as ACME challenges, is in the `requester`."""
    return "its own name, by mTLS" if names == Names(uri=(str(caller),)) else f"vouched for by {caller}"


def _vouched_names(identifiers: Sequence[Identifier]) -> Names:
    by_type: dict[str, list[str]] = {"dns": [], "ip": [], "uri": [], "email": []}
    for identifier in identifiers:
        by_type[identifier.type].append(identifier.value)
    try:
        return Names.build(**by_type)
    except BadCsrError as error:
        raise NamesError(f"identifiers: {error}") from error


def _spelled(names: Names) -> str:
    """The names as an error message shows them."""
    spelled = [*names.dns, *map(str, names.ip), *names.uri, *names.email]
    shown = ", ".join(spelled[:_SHOWN_NAMES]) or "no names"
    return shown if len(spelled) <= _SHOWN_NAMES else f"{shown} and {len(spelled) - _SHOWN_NAMES} more"
