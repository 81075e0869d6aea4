"""Moving the issuing CAs' keys from sealed files into a back end of signer-hsm, and back again.

Everything happens while the deployment is stopped, under its lock. A migration, step by step:

1 unseal the files; each must be the key of its certificate
2 rehearse: import under another name, sign, verify, compare, destroy
3 import for real (or find what an earlier attempt imported), sign, verify, compare
4 record the intent in the CA's audit log
5 give the deployment a signer-hsm, if it has none: identity, audit key, policies; its settings file comes last
6 switch: one atomic replacement of the CA's settings, in which the old key stays as `previous_key`
7 record what was done

Before 6 the CA runs on its files, after 6 on signer-hsm, whenever the process dies. The files stay sealed where they
are, so `roll_back` is one replacement as well, until `services.ca.destruction` ends them.

The deployment's key policy binds all of this (`services.ca.own_policy`): signer-hsm decides under it, and takes the
approvals that it has on record. Where it lets nobody rehearse alone, step 2 is left out: step 3 proves the key as well.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import PrivateKey, PublicKey, algorithm_of, known_public_key
from pkicore.clock import unix
from pkicore.errors import KeyNotFoundError
from pkicore.keys import SigningKey
from pkicore.keys.envelope import unseal
from pkicore.keys.passphrase import read_passphrase
from pkicore.keys.remote import REMOTE_SCHEME
from services.ca.equipment import Equipment
from services.ca.errors import CeremonyError
from services.ca.hierarchy import read_certificate
from services.ca.own_policy import OwnPolicy
from services.ca.remote_keys import RemoteKeyMaker, prove, rehearse
from services.ca.rolling import Rolled, Rolling, successor_id, successor_of
from services.ca.settings import CaSettings, IssuerSettings, is_remote
from services.ca.settings_text import Members, change_issuers, in_state
from services.ca.signer_settings import TENANT, backend_names
from services.ca.stopped import StoppedDeployment
from services.ca.trust_directory import publish_trust
from services.signer_hsm.client import NotOfferedError

KEPT_DAYS: Final = 30


@dataclass(frozen=True)
class Migrated:
    """One issuing CA's key: where it was, where it is, and the SHA-256 of its SubjectPublicKeyInfo."""

    issuer: str
    before: str
    after: str
    public_key_sha256: str

    def members(self) -> dict[str, str]:
        """For JSON and for the audit log."""
        return {
            "issuer": self.issuer,
            "from": self.before,
            "to": self.after,
            "public_key_sha256": self.public_key_sha256,
        }


@dataclass(frozen=True)
class _Plan:
    issuer: IssuerSettings
    private_key: PrivateKey
    public_key: PublicKey

    @property
    def algorithm(self) -> str:
        return algorithm_of(self.public_key).name


@dataclass(frozen=True)
class Migration:
    """Moving the issuing CAs' keys of one stopped deployment."""

    deployment: StoppedDeployment

    async def migrate(
        self, backend: str, *, rehearse_only: bool, backends: Sequence[Mapping[str, Any]] = (), only: Sequence[str] = ()
    ) -> list[Migrated]:
        """Move every issuing key that lies in a file.

        Args:
            backend: the name of the back end.
            rehearse_only: stop after step 2; nothing is different afterwards.
            backends: those of the signer-hsm that the deployment is given, where it has none.
            only: the issuers whose keys are meant; all, where none is named.

        Raises:
            CeremonyError: there is nothing to move, no such back end, or it takes no keys in.
            PkiError, CaServiceError, ChassisError: a step failed; the deployment is what it was.
        """
        settings = self.deployment.settings()
        plans = [_plan(item, settings) for item in _in_files(settings, only)]
        equipment = self._equipment(settings, backend, backends)
        own = self._own(equipment, "import", [plan.issuer.id for plan in plans], rehearse_only=rehearse_only)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            async with self.deployment.signer(equipment, pool) as client:
                maker = RemoteKeyMaker(client, [backend], pool)
                if own.can_rehearse("import"):
                    for plan in plans:
                        await self._rehearse(plan, maker, own)
                if rehearse_only:
                    return [_migrated(plan, plan.issuer.key) for plan in plans]
                moved = [_migrated(plan, await self._import(plan, maker, own)) for plan in plans]
            await self.deployment.record("key.migration-begun", settings, [item.members() for item in moved])
            await equipment.complete(frozenset(maker.kinds), pool)
        self._switch(moved, equipment)
        await self.deployment.record("key.migrated", settings, [item.members() for item in moved])
        return moved

    async def roll(
        self, backend: str, *, rehearse_only: bool, backends: Sequence[Mapping[str, Any]] = (), only: Sequence[str] = ()
    ) -> list[Rolled]:
        """Give every issuing CA whose key lies in a file a successor, with a key in the back end; retire the old ones.

        The arguments are those of `migrate`. The roots' keys are opened, where `layout` says they are.

        Raises:
            CeremonyError: there is nothing to move, no such back end, or it makes no such keys.
            PkiError, CaServiceError, ChassisError: a step failed; the deployment issues as it did.
        """
        settings, say = self.deployment.settings(), self.deployment.say
        due = _in_files(settings, only)
        equipment = self._equipment(settings, backend, backends)
        names = [successor_id(item, settings) for item in due]
        own = self._own(equipment, "create", names, rehearse_only=rehearse_only)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            async with self.deployment.signer(equipment, pool) as client:
                maker = RemoteKeyMaker(client, [backend], pool)
                rolling = Rolling(self.deployment.layout, settings, maker, self.deployment.clock, pool)
                for item, name in zip(due, names, strict=True):
                    await rolling.open_root(item)
                    if own.can_rehearse("create"):
                        own.require_signing(name, await rolling.rehearse(item))
                        say(f"rehearsal of {item.id}: rolls to a new key; made one, signed, verified, destroyed")
                if rehearse_only:
                    return []
                rolled = [await rolling.succeed(item) for item in due]
            for each in rolled:
                own.require_signing(each.successor, each.payload_kind)
                say(f"{each.issuer} is followed by {each.successor}, {each.key}")
            await self.deployment.record("key.roll-begun", settings, [item.members() for item in rolled])
            await equipment.complete(frozenset(maker.kinds), pool)
        text = rolling.in_ca_settings(self.deployment.text(), rolled, unix(self.deployment.clock.now()))
        self.deployment.write(equipment.in_ca_settings(text))
        publish_trust(self.deployment.settings(), self.deployment.layout)
        await self.deployment.record("key.rolled", settings, [item.members() for item in rolled])
        return rolled

    async def roll_back(self) -> list[Migrated]:
        """Put the files in force again.

        Raises:
            CeremonyError: no issuer has a file to go back to.
            KeyAccessError: a file is missing, or not the key of its certificate; nothing is changed then.
        """
        settings = self.deployment.settings()
        due, rolled = moved_issuers(settings), rolled_issuers(settings)
        if not due and not rolled:
            raise CeremonyError("no issuing key was migrated and still has its file, so there is nothing to go back to")
        back = []
        for item in due:
            plan = _plan(item.model_copy(update={"key": item.previous_key}), settings)
            back.append(replace(_migrated(plan, item.previous_key), before=item.key))
        changes: dict[str, Members] = {
            item.issuer: {"key": item.after, "previous_key": None, "migrated_at": None} for item in back
        }
        for old, new in rolled:
            back.append(replace(_migrated(_plan(old, settings), old.key), before=new.key))
            changes |= {old.id: in_state("active"), new.id: in_state("retired")}
        self.deployment.write(change_issuers(self.deployment.text(), changes))
        await self.deployment.record("key.rolled-back", settings, [item.members() for item in back])
        return back

    def _own(self, equipment: Equipment, act: str, names: Sequence[str], *, rehearse_only: bool) -> OwnPolicy:
        """The deployment's key policy, which lets the operator do this; others' approvals are signer-hsm's to count.

        Raises:
            CeremonyError: it does not, or not with keys that a rehearsal makes and destroys.
        """
        own = self.deployment.own_policy(equipment)
        for name in names:
            own.require(act, name)
        if own.can_rehearse(act):
            return own
        said = (
            f"no rehearsal: {own.path} does not let {own.operator} {act} a key and destroy it without others' approval"
        )
        if rehearse_only:
            raise CeremonyError(
                f"{said}; without --rehearse an approved key is taken, proven, and only then switched to"
            )
        self.deployment.say(said)
        return own

    async def _rehearse(self, plan: _Plan, maker: RemoteKeyMaker, own: OwnPolicy) -> None:
        try:
            kind = await rehearse(maker, plan.algorithm, plan.private_key, plan.public_key)
        except NotOfferedError as error:
            raise CeremonyError(f"the key of {plan.issuer.id} cannot be moved: {error}") from error
        own.require_signing(plan.issuer.id, kind)
        self.deployment.say(f"rehearsal of {plan.issuer.id}: imported, signed, verified, destroyed")

    async def _import(self, plan: _Plan, maker: RemoteKeyMaker, own: OwnPolicy) -> str:
        """The URI of the key in the back end; one that an interrupted or rolled back migration brought in is taken."""
        name = plan.issuer.id
        try:
            key = await maker.open(f"{REMOTE_SCHEME}:{TENANT}.{name}")
        except KeyNotFoundError:
            key = await maker.make(name, plan.algorithm, plan.private_key)
        _same(plan, key)
        await prove(key)
        own.require_signing(name, key.payload_kind)
        self.deployment.say(f"{name} is {key.uri}")
        return key.uri

    def _switch(self, moved: Sequence[Migrated], equipment: Equipment) -> None:
        now = unix(self.deployment.clock.now())
        changes: dict[str, Members] = {
            item.issuer: {"key": item.after, "previous_key": item.before, "migrated_at": now} for item in moved
        }
        self.deployment.write(equipment.in_ca_settings(change_issuers(self.deployment.text(), changes)))

    def _equipment(self, settings: CaSettings, backend: str, backends: Sequence[Mapping[str, Any]]) -> Equipment:
        equipment = self.deployment.equipment(settings, backends)
        names = backend_names(equipment.backends)
        if backend not in names:
            more = ", or name a file that has it with --signer-backends" if equipment.is_new and not backends else ""
            raise CeremonyError(f"there is no back end {backend}; there are: {', '.join(names)}{more}")
        return equipment


def _in_files(settings: CaSettings, only: Sequence[str]) -> list[IssuerSettings]:
    due = [item for item in settings.issuers if not is_remote(item.key) and item.state == "active"]
    unknown = sorted(set(only) - {item.id for item in due})
    if unknown:
        names = ", ".join(item.id for item in due) or "none"
        raise CeremonyError(f"{unknown[0]} is no issuing CA whose key is a file; there are: {names}")
    if not due:
        raise CeremonyError("every issuing key is in signer-hsm already; there is nothing to migrate")
    return [item for item in due if not only or item.id in only]


def moved_issuers(settings: CaSettings) -> list[IssuerSettings]:
    """Each issuing CA whose key is in signer-hsm, and whose file is still there."""
    return [item for item in settings.issuers if is_remote(item.key) and item.previous_key.startswith("file:")]


def rolled_issuers(settings: CaSettings) -> list[tuple[IssuerSettings, IssuerSettings]]:
    """Each retired issuing CA whose key is a file, with the successor that is in force."""
    pairs = [(item, successor_of(item, settings)) for item in settings.issuers if item.retired]
    return [(old, new) for old, new in pairs if new is not None and not new.retired and not is_remote(old.key)]


def _plan(item: IssuerSettings, settings: CaSettings) -> _Plan:
    path = Path(item.key.removeprefix("file:"))
    try:
        sealed = path.read_bytes()
    except OSError as error:
        raise KeyNotFoundError(f"the key file {path} of {item.id} cannot be read: {error.strerror}") from error
    private_key = unseal(sealed, read_passphrase(settings.passphrase_file))
    public_key = known_public_key(read_certificate(item.certificate).public_key())
    if private_key.public_key() != public_key:
        raise KeyNotFoundError(f"{path} is not the key of {item.certificate}")
    return _Plan(item, private_key, public_key)


def _migrated(plan: _Plan, uri: str) -> Migrated:
    spki = plan.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Migrated(plan.issuer.id, plan.issuer.key, uri, hashlib.sha256(spki).hexdigest())


def _same(plan: _Plan, key: SigningKey) -> None:
    if key.public_key != plan.public_key:
        raise KeyNotFoundError(f"{key.uri} is another key than that of {plan.issuer.certificate}")
