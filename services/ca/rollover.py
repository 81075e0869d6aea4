"""Issuing CAs come and go: prepared, active, retired. Each step is one atomic replacement of the CA's settings file.

What a step needs is made and recorded before it, and what follows from it after it: a running CA follows its settings
(`services.ca.following`), services follow the trust directory. A command that was killed is simply repeated.

    prepare    key, certificate, responder's key | settings | the CA publishes its CRL | trust directory | audit
    activate   settings: this one issues, the former of its family is retired | trust directory | audit
    retire     settings: it issues nothing | trust directory | audit
"""

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from pkicore.algorithms import algorithm_of
from pkicore.clock import Clock
from pkicore.x509.profiles import load_profiles
from services.ca.ceremony import ISSUING_KEYS
from services.ca.errors import CeremonyError
from services.ca.hierarchy import read_certificate, trusted_roots
from services.ca.key_places import KeyPlaces, Wanted
from services.ca.new_issuer import IssuerMaker, NewIssuer, next_name, open_root, roots_of
from services.ca.presence import TRUST_SECONDS, Presence
from services.ca.settings import CaSettings, IssuerSettings, RootSettings, is_remote
from services.ca.settings_text import Members, add_issuer, change_issuers, in_state
from services.ca.stopped import StoppedDeployment
from services.ca.store import CaStore
from services.ca.trust_directory import publish_trust
from services.chassis.database import Database


@dataclass(frozen=True)
class Changed:
    """What a step came to.

    Attributes:
        id: of the issuing CA or root.
        state: in which it is now.
        changed: whether this attempt brought it about; otherwise an earlier one had, and its rest was completed.
        former: the one that issued before, where there was one.
    """

    id: str
    state: str
    changed: bool
    former: str = ""

    def members(self) -> dict[str, object]:
        """For JSON."""
        return {"id": self.id, "state": self.state, "changed": self.changed, "former": self.former or None}


@dataclass(frozen=True)
class Rollover:
    """The steps, for one deployment whose settings nobody else changes meanwhile."""

    deployment: StoppedDeployment
    presence: Presence
    places: KeyPlaces
    pool: Executor

    @property
    def _clock(self) -> Clock:
        return self.deployment.clock

    async def prepare(
        self, family: str, *, algorithm: str | None = None, place: Wanted | None = None, another: bool = False
    ) -> Changed:
        """A new issuing CA of a family below its active root: it is known to all, and issues nothing.

        One of that family that is prepared already is taken, unless `another` is wanted. Algorithm and place of the key
        are those of the active one, where nothing else is said.

        Raises:
            CeremonyError: the family has no active root, or its key cannot be of this algorithm.
            KeyAccessError: the root's key is not at hand.
            PkiError, CaServiceError, ChassisError: a part could not be made; repeat it.
        """
        settings = self.deployment.settings()
        root = active_root(settings, family)
        wanted = algorithm or _algorithm_of(settings, family)
        known = next((item for item in settings.issuers if (item.family, item.state) == (family, "prepared")), None)
        if known is None or another:
            made = await self._make(settings, family, root.id, wanted, place or _place_of(settings, family))
            name, changed = made.name, True
        else:
            _refuse_other(known, root, algorithm, place)
            name, changed = known.id, False
        await self.presence.serves(f"/crl/{name}")
        settings = self._published()
        (item,) = (item for item in settings.issuers if item.id == name)
        await self.deployment.record("issuer.prepared", settings, [_facts(item)])
        return Changed(name, "prepared", changed)

    async def activate(self, name: str) -> Changed:
        """Have it issue from now on; the former one of its family is retired.

        Raises:
            CeremonyError: there is no such issuing CA, or it has ended, or was revoked, or its root is not trusted.
            PkiError, CaServiceError, ChassisError: repeat it.
        """
        settings = self.deployment.settings()
        item = _issuer(settings, name)
        active = [other for other in settings.issuers if (other.family, other.state) == (item.family, "active")]
        former = [other for other in active if other.id != name]
        changed = item.state != "active"
        if changed:
            await self._refuse_unfit(item, settings)
            publish_trust(settings, self.deployment.layout)  # of a preparation that was cut short
            await self.presence.serves(f"/crl/{name}")
            await self.presence.settled(self.deployment.layout.issuers / f"{name}.pem", TRUST_SECONDS)
            details = [{**_facts(item), "former": ", ".join(other.id for other in former)}]
            await self.deployment.record("issuer.activation-begun", settings, details)
            self.deployment.say(f"{name} is fit to issue")
            states: dict[str, Members] = {other.id: in_state("retired") for other in former}
            states[name] = in_state("active")
            self.deployment.write(change_issuers(self.deployment.text(), states))
            self.deployment.say(f"the settings say that {name} issues")
        await self.presence.serves(f"/crl/{item.family}", f"/crl/{name}")
        settings = self._published()
        await self.deployment.record("issuer.activated", settings, [_facts(item)])
        return Changed(name, "active", changed, ", ".join(other.id for other in former))

    async def retire(self, name: str, *, force: bool = False) -> Changed:
        """Have it issue nothing any more; its CRL and its OCSP answers go on.

        Raises:
            CeremonyError: there is no such issuing CA, or profiles need it and nobody said `force`.
            PkiError, CaServiceError, ChassisError: repeat it.
        """
        settings = self.deployment.settings()
        item = _issuer(settings, name)
        changed = item.state != "retired"
        if changed:
            if item.state == "active":
                self._refuse_needed(item, settings, force=force)
            await self.deployment.record("issuer.retirement-begun", settings, [_facts(item)])
            self.deployment.write(change_issuers(self.deployment.text(), {name: in_state("retired")}))
            self.deployment.say(f"the settings say that {name} is retired")
        settings = self._published()
        await self.deployment.record("issuer.retired", settings, [_facts(item)])
        return Changed(name, "retired", changed)

    async def _make(self, settings: CaSettings, family: str, root: str, algorithm: str, wanted: Wanted) -> NewIssuer:
        await open_root(self.deployment.layout, settings, root, family, self.pool)
        name = next_name(f"issuing-{family}", [item.id for item in settings.issuers])
        details = [{"issuer": name, "root": root, "algorithm": algorithm, "place": wanted.text}]
        await self.deployment.record("issuer.preparation-begun", settings, details)
        self.deployment.say(f"{name} is to be prepared below {root}")
        async with self.places.open(wanted, self.pool) as place:
            maker = IssuerMaker(self.deployment.layout, settings, place, self._clock, self.pool)
            made = await maker.make(name, family, root, algorithm)
        self.deployment.say(f"{name} has its key, {made.key.uri}, and its certificate")
        members = {**made.members(self.deployment.layout), "state": "prepared"}
        last = [item.id for item in settings.issuers if item.family == family] or [settings.issuers[-1].id]
        self.deployment.write(add_issuer(self.deployment.text(), last[-1], members))
        self.deployment.say(f"the settings say that {name} is prepared")
        return made

    def _published(self) -> CaSettings:
        settings = self.deployment.settings()
        publish_trust(settings, self.deployment.layout)
        self.deployment.say("the trust directory says the same")
        return settings

    async def _refuse_unfit(self, item: IssuerSettings, settings: CaSettings) -> None:
        certificate = read_certificate(item.certificate)
        if item.root not in {root.id for root in trusted_roots(settings)}:
            raise CeremonyError(f"{item.id} is below {item.root}, which is retired: `ztca ca prepare` makes another")
        if certificate.not_valid_after_utc <= self._clock.now():
            raise CeremonyError(f"{item.id} has ended: `ztca ca prepare --family {item.family}` makes another")
        database = await Database.open(settings.database_url, clock=self._clock)
        try:
            row = await CaStore(database).by_serial(certificate.serial_number)
        finally:
            await database.close()
        if row is not None and row.revoked_at is not None:
            raise CeremonyError(f"{item.id} was revoked: `ztca ca prepare --family {item.family}` makes another")

    def _refuse_needed(self, item: IssuerSettings, settings: CaSettings, *, force: bool) -> None:
        left = {other.family for other in settings.issuers if other.state == "active" and other.id != item.id}
        if not left:
            raise CeremonyError(f"{item.id} is the only issuing CA that is active: activate another first")
        profiles = load_profiles(settings.profiles_file.read_text(encoding="utf-8")).values()
        needing = sorted(
            profile.name
            for profile in profiles
            if not profile.ca
            and any(item.family in wanted and not left & set(wanted) for wanted in profile.families.values())
        )
        if needing and not force:
            raise CeremonyError(
                f"{item.id} is the last one of the family {item.family} that is active, and the profiles "
                f"{', '.join(needing)} need it: `ztca ca prepare --family {item.family}` and `ztca ca activate` "
                "another in its place, or say --force"
            )


def active_root(settings: CaSettings, family: str) -> RootSettings:
    """The root that certifies new issuing CAs of a family.

    Raises:
        CeremonyError: there is none; the sentence says how one is made.
    """
    found = [item for item in roots_of(settings, family) if item.state == "active"]
    if not found:
        prepared = [item.id for item in roots_of(settings, family) if item.state == "prepared"]
        remedy = f"activate-root {prepared[0]}" if prepared else f"prepare-root --family {family}"
        raise CeremonyError(f"the family {family} has no active root: `ztca ca {remedy}`")
    return found[-1]


def sha256(certificate: x509.Certificate) -> str:
    """The fingerprint."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _issuer(settings: CaSettings, name: str) -> IssuerSettings:
    for item in settings.issuers:
        if item.id == name:
            return item
    names = ", ".join(item.id for item in settings.issuers)
    raise CeremonyError(f"there is no issuing CA {name}; there are: {names}")


def _algorithm_of(settings: CaSettings, family: str) -> str:
    """As the active one of the family has; the default where there is none."""
    for item in settings.issuers:
        if (item.family, item.state) == (family, "active"):
            return algorithm_of(read_certificate(item.certificate).public_key()).name
    return ISSUING_KEYS[family]


def _place_of(settings: CaSettings, family: str) -> Wanted:
    """Where the key of the active one of the family is; a file where there is none."""
    active = [item for item in settings.issuers if (item.family, item.state) == (family, "active")]
    return Wanted(at_signer=any(is_remote(item.key) for item in active))


def _refuse_other(known: IssuerSettings, root: RootSettings, algorithm: str | None, place: Wanted | None) -> None:
    is_of = algorithm_of(read_certificate(known.certificate).public_key()).name
    elsewhere = place is not None and place.at_signer != is_remote(known.key)
    if known.root != root.id or (algorithm or is_of) != is_of or elsewhere:
        raise CeremonyError(
            f"{known.id} is prepared already, with {is_of}, at {known.key}, below {known.root}: `ztca ca activate` it, "
            "`ztca ca retire` it, or say --another"
        )


def _facts(item: IssuerSettings) -> Mapping[str, str]:
    certificate = read_certificate(item.certificate)
    return {"issuer": item.id, "root": item.root, "key": item.key, "sha256": sha256(certificate)}
