"""CAs of others below a root of ours: from their request, and on the terms that an operator grants.

Of the request, the key is taken, whose possession it proves, and nothing else: its name must be the one that the
operator says, and what it says of CA flag, path length, usages and name constraints is not heeded. The certificate is
on record as every other one; a root's CRL revokes it.
"""

import hashlib
import unicodedata
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from cryptography import x509

from pkicore.clock import unix
from pkicore.encoding import canonical_json
from pkicore.errors import ProfileError
from pkicore.x509.csr import UnverifiedCsr, VerifiedCsr
from pkicore.x509.name_constraints import parse_name_constraints
from pkicore.x509.profiles import Profile, load_profiles
from services.ca.errors import CeremonyError
from services.ca.hierarchy import helpful_crosses, read_certificate
from services.ca.ledger.query import LedgerQuery
from services.ca.ledger.store.search import LedgerSearch
from services.ca.new_issuer import open_root, roots_of
from services.ca.rollover import active_root, sha256
from services.ca.roots import RootOffice
from services.ca.settings import CaSettings, RootSettings
from services.ca.stopped import StoppedDeployment
from services.ca.store import CaStore
from services.ca.wire import CertificateRequest, format_serial
from services.chassis.database import Database

PROFILE: Final = "sub-ca"
_KINDS: Final[Mapping[type[x509.GeneralName], str]] = {
    x509.DNSName: "dns",
    x509.IPAddress: "ip",
    x509.UniformResourceIdentifier: "uri",
    x509.RFC822Name: "email",
}


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What an operator grants.

    Attributes:
        name: common name of the CA.
        profile: of its certificate.
        permitted: names that it may certify, as a profile writes them; with `excluded`, in the profile's place.
        excluded: names that it may not.
        path_length: how many CAs may be below it one under the other; the profile's where it is None.
        not_after: an end before the profile's.
    """

    name: str
    profile: str = PROFILE
    permitted: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    path_length: int | None = None
    not_after: datetime | None = None

    def applied(self, profile: Profile) -> Profile:
        """The profile on these terms.

        Raises:
            CeremonyError: it is for no CA of others, or the terms say too little.
        """
        if not profile.ca or profile.name_constraints is None:
            raise CeremonyError(f"profile {profile.name} has no name_constraints: it is for no CA of others")
        constraints = profile.name_constraints
        if self.permitted or self.excluded:
            try:
                constraints = parse_name_constraints(self.permitted, self.excluded)
            except ProfileError as error:
                raise CeremonyError(f"--permit and --exclude: {error}") from error
        length = profile.path_length if self.path_length is None else self.path_length
        return replace(profile, name_constraints=constraints, path_length=length)


@dataclass(frozen=True)
class Subordinate:
    """A CA that has its certificate.

    Attributes:
        root: id of the root above.
        profile: on the terms that were granted.
        chain: its certificate, and cross-certificates that lead on to older roots.
        changed: whether this attempt made it; otherwise an earlier one had.
    """

    root: str
    profile: Profile
    chain: tuple[x509.Certificate, ...]
    changed: bool

    @property
    def certificate(self) -> x509.Certificate:
        """Its certificate."""
        return self.chain[0]

    def members(self) -> dict[str, object]:
        """For JSON, and for the audit log."""
        permitted, excluded = _constraints(self.profile)
        return {
            "root": self.root,
            "serial": format_serial(self.certificate.serial_number),
            "subject": self.certificate.subject.rfc4514_string(),
            "sha256": sha256(self.certificate),
            "not_after": unix(self.certificate.not_valid_after_utc),
            "path_length": self.profile.path_length,
            "permitted": permitted,
            "excluded": excluded,
        }


@dataclass(frozen=True)
class Subordination:
    """Certifies CAs of others, for one deployment whose settings nobody else changes meanwhile."""

    deployment: StoppedDeployment
    pool: Executor

    async def certify(self, csr: bytes, terms: Terms) -> Subordinate:
        """The certificate for a request (PKCS #10, PEM or DER), by the active root of the family that fits its key.

        The same request on the same terms has the same certificate.

        Raises:
            CeremonyError: the request is for another name, for a name of ours, or its certificate is over; there is no
                such profile; the family has no active root.
            KeyAccessError: the root's key is not at hand.
            PkiError, CaServiceError, ChassisError: it could not be issued; repeat it.
        """
        request = UnverifiedCsr.parse(csr).verify(for_ca=True)
        settings = self.deployment.settings()
        profile = terms.applied(_profile(settings, terms.profile))
        self._refuse_name(request, terms.name, settings)
        family, root = _root(profile, request, settings)
        above = await open_root(self.deployment.layout, settings, root.id, family, self.pool)
        wanted = _wanted(request, root.id, profile, terms)
        begun = {"root": root.id, "subject": terms.name, "key_sha256": hashlib.sha256(request.spki).hexdigest()}
        await self.deployment.record("subordinate.begun", settings, [begun])
        database = await Database.open(settings.database_url, clock=self.deployment.clock)
        try:
            await self._refuse_taken(terms.name, request, LedgerSearch(database), settings)
            store = CaStore(database)
            office = RootOffice.of(store, {family: above}, profile, settings.trust_domain, self.deployment.clock)
            certificate, is_new = await office.answer(wanted)
            await self._refuse_over(certificate, store)
        finally:
            await database.close()
        crosses = helpful_crosses(root.id, tuple(map(read_certificate, root.cross)), settings)
        made = Subordinate(root.id, profile, (certificate, *crosses), is_new)
        if is_new:
            details = {name: str(value) for name, value in made.members().items()}
            await self.deployment.record("subordinate.certified", settings, [details])
        return made

    def _refuse_name(self, request: VerifiedCsr, name: str, settings: CaSettings) -> None:
        if request.common_name != name:
            asked = "no common name" if request.common_name is None else f"the common name {request.common_name!r}"
            raise CeremonyError(f"the request has {asked}, and you said --name {name!r}")
        if not request.names.is_empty:
            raise CeremonyError("the request asks for names of hosts, mailboxes or URIs: a CA is named, and has none")
        own = {item.id: item.certificate for item in settings.roots}
        own |= {item.id: item.certificate for item in settings.issuers}
        for known, path in own.items():
            if any(_same(str(part.value), name) for part in read_certificate(path).subject):
                raise CeremonyError(f"{name!r} is the name of our own {known}: a CA of others needs another")

    async def _refuse_taken(self, name: str, request: VerifiedCsr, ledger: LedgerSearch, settings: CaSettings) -> None:
        """What roots have certified before, and is of another key."""
        key, now = hashlib.sha256(request.spki).hexdigest(), unix(self.deployment.clock.now())
        for root in settings.roots:
            async for entry in ledger.entries(LedgerQuery(issuer=root.id), now):
                if entry.key_hash != key and any(_same(name, taken) for taken in entry.names.get("common_name", ())):
                    raise CeremonyError(
                        f"{name!r} is the name of {entry.serial}, which has another key: verifiers take two CAs of one "
                        "name for the same, so give another"
                    )

    async def _refuse_over(self, certificate: x509.Certificate, store: CaStore) -> None:
        row = await store.by_serial(certificate.serial_number)
        over = certificate.not_valid_after_utc <= self.deployment.clock.now()
        if over or row is None or row.revoked_at is not None:
            state = "ended" if over else "was revoked"
            raise CeremonyError(
                f"this request has had its certificate, {format_serial(certificate.serial_number)}, which {state}: "
                "take a new request, with a new key"
            )


def _profile(settings: CaSettings, name: str) -> Profile:
    profiles = load_profiles(settings.profiles_file.read_text(encoding="utf-8"))
    if name not in profiles:
        raise CeremonyError(f"there is no profile {name}: docs/operations/profiles.md has one for CAs of others")
    return profiles[name]


def _root(profile: Profile, request: VerifiedCsr, settings: CaSettings) -> tuple[str, RootSettings]:
    families = profile.issuing_families(request.algorithm)
    active = (family for family in families if any(item.state == "active" for item in roots_of(settings, family)))
    family = next(active, families[0])
    return family, active_root(settings, family)


def _wanted(request: VerifiedCsr, root: str, profile: Profile, terms: Terms) -> CertificateRequest:
    """As the nine steps take it; root and terms are part of what makes two requests the same."""
    not_after = None if terms.not_after is None else unix(terms.not_after)
    asked = hashlib.sha256(request.der).hexdigest()
    granted = canonical_json([asked, root, *_constraints(profile), profile.path_length, not_after])
    token = f"subordinate-{hashlib.sha256(granted).hexdigest()}"
    return CertificateRequest(request.der, profile.name, (), token, not_after, {"subordinate": terms.name})


def _constraints(profile: Profile) -> tuple[list[str], list[str]]:
    """Permitted and excluded names, as a profile writes them."""
    found = profile.name_constraints
    if found is None:
        return [], []
    return _spelled(found.permitted_subtrees), _spelled(found.excluded_subtrees)


def _same(one: str, other: str) -> bool:
    """Whether verifiers take two names for the same (RFC 5280 §7.1)."""
    first, second = (" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in (one, other))
    return first == second


def _spelled(subtrees: list[x509.GeneralName] | None) -> list[str]:
    return [f"{_KINDS[type(name)]}:{name.value}" for name in subtrees or ()]
