"""Roots come and go: prepared, active, superseded, retired. As in `services.ca.rollover`, each step is one replacement.

    prepare    key, self-signed certificate, cross-certificates both ways, CRL | settings: both are trusted
    activate   settings: new issuing CAs are below it; the former one is superseded, and still trusted
    retire     settings: it is trusted no more, nor is what is below it

Who trusts the old root alone believes what is below the new one by the new root's certificate by the old, which goes
with each chain of the new one; who trusts the new root alone believes what is below the old one by the reverse, which
is in the trust directory and in the old root's bundle below /aia.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from pkicore.algorithms import ALGORITHMS
from pkicore.clock import from_unix, unix
from pkicore.encoding import write_atomically
from pkicore.errors import PkiError
from pkicore.keys import SigningKey
from pkicore.keys.file import create_file_key, load_file_key
from pkicore.keys.passphrase import read_passphrase
from pkicore.x509.certificate import load_chain, self_signed_root, to_pem
from pkicore.x509.profiles import load_profiles
from services.ca.ceremony import ROOT_KEYS
from services.ca.errors import CeremonyError
from services.ca.hierarchy import make_root_issuer, read_certificate
from services.ca.issuance import IssuingCa
from services.ca.ledger.store.standing import StandingStore
from services.ca.new_issuer import common_name, next_name, open_root, roots_of, split_name
from services.ca.presence import IDENTITY_SECONDS, Presence
from services.ca.responders import PROFILE
from services.ca.rollover import Changed, sha256
from services.ca.roots import CROSS, ISSUING, RootOffice, cross_profile, sign_root_crl
from services.ca.settings import CaSettings, RootSettings
from services.ca.settings_text import Members, add_root, change_issuers, change_roots
from services.ca.stopped import StoppedDeployment
from services.ca.store import CaStore
from services.ca.trust_directory import publish_trust
from services.chassis.database import Database


@dataclass(frozen=True)
class RootRollover:
    """The steps, for one deployment whose settings nobody else changes meanwhile."""

    deployment: StoppedDeployment
    presence: Presence
    pool: Executor

    async def prepare(self, family: str, *, algorithm: str | None = None) -> Changed:
        """A new root: it is trusted beside the active one, and each has a certificate of its key by the other.

        Raises:
            CeremonyError: a key of this algorithm is no root's.
            KeyAccessError: the active root's key is not at hand.
            PkiError, CaServiceError, ChassisError: a part could not be made; repeat it.
        """
        settings = self.deployment.settings()
        known = next((item for item in roots_of(settings, family) if item.state == "prepared"), None)
        name = next_name(f"root-{family}", [item.id for item in settings.roots]) if known is None else known.id
        if known is None:
            await self._make(settings, family, name, algorithm or ROOT_KEYS[family])
        await self.presence.serves(f"/aia/{name}")
        settings = self._published()
        await self.deployment.record("root.prepared", settings, [_facts(_root(settings, name))])
        return Changed(name, "prepared", known is None)

    async def activate(self, name: str) -> Changed:
        """Have it certify new issuing CAs; the former one of its family is superseded.

        Raises:
            CeremonyError: there is no such root, or it is retired.
            PkiError, CaServiceError, ChassisError: repeat it.
        """
        settings = self.deployment.settings()
        item = _root(settings, name)
        if item.state == "retired":
            raise CeremonyError(f"{name} is retired, and trusted no more: `ztca ca prepare-root` makes another")
        family, _ = split_name(name)
        former = [other for other in settings.roots if split_name(other.id)[0] == family and other.state == "active"]
        former = [other for other in former if other.id != name]
        if item.state != "active":
            await self.deployment.record("root.activation-begun", settings, [_facts(item)])
            states: dict[str, Members] = {other.id: {"state": "superseded"} for other in former}
            self.deployment.write(change_roots(self.deployment.text(), {**states, name: {"state": "active"}}))
            self.deployment.say(f"the settings say that {name} is active")
        settings = self._published()
        await self.deployment.record("root.activated", settings, [_facts(item)])
        return Changed(name, "active", item.state != "active", ", ".join(other.id for other in former))

    async def retire(self, name: str, *, force: bool = False) -> Changed:
        """Trust it no more, nor what is below it. Its CRL stays published.

        Raises:
            CeremonyError: it is active, or something needs it that is not over.
            PkiError, CaServiceError, ChassisError: repeat it.
        """
        settings = self.deployment.settings()
        item = _root(settings, name)
        if item.state != "retired":
            await self._refuse_needed(item, settings, force=force)
            for path in self._identities(settings):
                await self.presence.settled(path, IDENTITY_SECONDS)
            await self.deployment.record("root.retirement-begun", settings, [_facts(item)])
            self.deployment.say(f"nothing needs {name} any more")
            self.deployment.write(self._without(item, settings))
            self.deployment.say(f"the settings say that {name} is retired")
        settings = self._published()
        await self.deployment.record("root.retired", settings, [_facts(_root(settings, name))])
        return Changed(name, "retired", item.state != "retired")

    async def _make(self, settings: CaSettings, family: str, name: str, algorithm: str) -> None:
        layout = self.deployment.layout
        active = next((item for item in roots_of(settings, family) if item.state == "active"), None)
        if active is not None:
            await open_root(layout, settings, active.id, family, self.pool)
        if not layout.offline.is_dir():
            raise CeremonyError(
                f"there is no directory {layout.offline} for the new root's key: say with --offline where"
            )
        details = {"root": name, "algorithm": algorithm, "former": "" if active is None else active.id}
        await self.deployment.record("root.preparation-begun", settings, [details])
        self.deployment.say(f"{name} is to be prepared")
        key = await self._key(name, algorithm, settings)
        self.deployment.say(f"{name} has its key, {key.uri}")
        certificate = await self._certificate(settings, family, name, key)
        self.deployment.say(f"{name} has its certificate, SHA-256 {sha256(certificate)}")
        crosses = {} if active is None else await self._cross(settings, family, active, name, certificate, key)
        await self._first_crl(settings, name, certificate, key)
        members = {"id": name, "certificate": layout.own_certificate(name), "state": "prepared"}
        text = add_root(self.deployment.text(), settings.roots[-1].id, members)
        self.deployment.write(change_roots(text, crosses))
        self.deployment.say(f"the settings say that {name} is prepared")

    async def _key(self, name: str, algorithm: str, settings: CaSettings) -> SigningKey:
        path, passphrase = self.deployment.layout.root_key_of(name), read_passphrase(settings.passphrase_file)
        if not path.exists():
            await asyncio.to_thread(create_file_key, path, ALGORITHMS[algorithm], passphrase)
        key = await load_file_key(path, passphrase, self.pool)
        if key.algorithm.name != algorithm:
            raise CeremonyError(f"{path} is there already, and is no {algorithm} key: a root key is never overwritten")
        return key

    async def _certificate(self, settings: CaSettings, family: str, name: str, key: SigningKey) -> x509.Certificate:
        path = self.deployment.layout.own_certificate(name)
        if path.exists() and (kept := read_certificate(path)).public_key() == key.public_key:
            return kept
        profile = load_profiles(settings.profiles_file.read_text(encoding="utf-8"))["root"]
        subject = common_name(settings, "root", name, family)
        certificate = await self_signed_root(profile, key, common_name=subject, now=self.deployment.clock.now())
        path.parent.mkdir(exist_ok=True, mode=0o700)
        write_atomically(path, to_pem([certificate]), 0o644)
        return certificate

    async def _cross(
        self,
        settings: CaSettings,
        family: str,
        active: RootSettings,
        name: str,
        certificate: x509.Certificate,
        key: SigningKey,
    ) -> Mapping[str, Members]:
        """Both cross-certificates; what is to be said of them in the settings."""
        base_url = settings.status_url or f"http://{settings.host}:{settings.http_port}"
        old = await open_root(self.deployment.layout, settings, active.id, family, self.pool)
        new = IssuingCa.of(make_root_issuer(name, family, certificate, base_url), key)
        # Only the key of the other one is asked to sign; the status of both is at the roots' own URLs.
        by_old = await self._certified(settings, old, new)
        by_new = await self._certified(settings, new, old)
        return {name: {"cross": [str(by_old)]}, active.id: {"cross": [*map(str, active.cross), str(by_new)]}}

    async def _certified(self, settings: CaSettings, above: IssuingCa, below: IssuingCa) -> Path:
        """The certificate of one root's key by another."""
        directory = self.deployment.layout.own_certificate(below.issuer.id).parent
        path = directory / f"{below.issuer.id}-by-{above.issuer.id}.pem"
        kept = _kept(path)
        if kept is None or kept.public_key() != below.key.public_key or kept.issuer != above.issuer.certificate.subject:
            profile = cross_profile(load_profiles(settings.profiles_file.read_text(encoding="utf-8")))
            database = await Database.open(settings.database_url, clock=self.deployment.clock)
            try:
                office = RootOffice.of(
                    CaStore(database),
                    {above.issuer.family: above},
                    profile,
                    settings.trust_domain,
                    self.deployment.clock,
                )
                subject = below.issuer.certificate.subject.rfc4514_string().removeprefix("CN=")
                write_atomically(path, to_pem([await office.certify(below.key, subject)]), 0o644)
            finally:
                await database.close()
        self.deployment.say(f"{below.issuer.id} is certified by {above.issuer.id}")
        return path

    async def _first_crl(self, settings: CaSettings, name: str, certificate: x509.Certificate, key: SigningKey) -> None:
        database = await Database.open(settings.database_url, clock=self.deployment.clock)
        try:
            store = CaStore(database)
            before = await store.crl(name)
            if before is None:
                await store.store_crl(*await sign_root_crl(name, certificate, key, None, [], self.deployment.clock))
        finally:
            await database.close()
        self.deployment.say(f"{name} has its first CRL")

    async def _refuse_needed(self, item: RootSettings, settings: CaSettings, *, force: bool) -> None:
        if item.state == "active":
            raise CeremonyError(
                f"{item.id} is active: `ztca ca prepare-root` and `ztca ca activate-root` another first"
            )
        below = [issuer for issuer in settings.issuers if issuer.root == item.id]
        in_use = [issuer.id for issuer in below if issuer.state != "retired"]
        if in_use:
            raise CeremonyError(
                f"{', '.join(in_use)} is below {item.id} and not retired: `ztca ca prepare --family "
                f"{below[0].family}` and `ztca ca activate` another in its place"
            )
        names = {read_certificate(issuer.certificate).subject for issuer in below}
        for path in self._identities(settings):
            if load_chain(path.read_bytes())[0].issuer in names:
                raise CeremonyError(
                    f"{path} is below {item.id}, and would be trusted no more: the services renew theirs within a "
                    "minute while `ztca up` runs, operators' are renewed by the CA"
                )
        if not force:
            await self._refuse_in_force(item, [issuer.id for issuer in below], settings)

    async def _refuse_in_force(self, item: RootSettings, below: Sequence[str], settings: CaSettings) -> None:
        now = unix(self.deployment.clock.now())
        database = await Database.open(settings.database_url, clock=self.deployment.clock)
        try:
            found = await StandingStore(database).below((item.id, *below), now)
        finally:
            await database.close()
        found = [one for one in found if one.profile not in {ISSUING, CROSS, PROFILE}]
        if not found:
            return
        hanging = ", ".join(
            f"{one.count} {one.profile} of {one.issuer} until {_minute(one.last)}"
            for one in sorted(found, key=lambda one: -one.last)
        )
        raise CeremonyError(
            f"certificates below {item.id} are valid until {_minute(max(one.last for one in found))} UTC, and would be "
            f"trusted no more, nor would what was signed with them: {hanging}. Wait: superseded, {item.id} "
            "certifies nothing more. Or have them renewed and revoke them, or say --force"
        )

    def _identities(self, settings: CaSettings) -> Iterator[Path]:
        """What services and operators show."""
        yield settings.tls_certificate
        yield from (item.directory / "cert.pem" for item in settings.identities)
        yield from self.deployment.layout.root.glob("*/tls/*/cert.pem")

    def _without(self, item: RootSettings, settings: CaSettings) -> str:
        """The settings with this root retired; certificates that they had in the trust directory are kept elsewhere."""
        layout = self.deployment.layout
        moved = {item.id: item.certificate} | {
            issuer.id: issuer.certificate for issuer in settings.issuers if issuer.root == item.id
        }
        paths = {name: layout.own_certificate(name) for name in moved}
        for name, path in paths.items():
            path.parent.mkdir(exist_ok=True, mode=0o700)
            write_atomically(path, moved[name].read_bytes(), 0o644)
        changes: dict[str, Members] = {name: {"certificate": str(path)} for name, path in paths.items()}
        root = {item.id: {**changes.pop(item.id), "state": "retired"}}
        return change_roots(change_issuers(self.deployment.text(), changes), root)

    def _published(self) -> CaSettings:
        settings = self.deployment.settings()
        publish_trust(settings, self.deployment.layout)
        self.deployment.say("the trust directory says the same")
        return settings


def _minute(at: int) -> str:
    return f"{from_unix(at):%Y-%m-%d %H:%M}"


def _root(settings: CaSettings, name: str) -> RootSettings:
    for item in settings.roots:
        if item.id == name:
            return item
    raise CeremonyError(f"there is no root {name}; there are: {', '.join(item.id for item in settings.roots)}")


def _kept(path: Path) -> x509.Certificate | None:
    try:
        return read_certificate(path)
    except PkiError:
        return None


def _facts(item: RootSettings) -> Mapping[str, str]:
    return {"root": item.id, "sha256": sha256(read_certificate(item.certificate))}
