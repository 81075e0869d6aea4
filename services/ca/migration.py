"""Moving the issuing CAs' keys from sealed files into a back end of signer-hsm, back again, and ending the files.

Everything happens while the deployment is stopped, under its lock. A migration, step by step:

1 unseal the files; each must be the key of its certificate
2 rehearse: import under another name, sign, verify, compare, destroy
3 import for real (or find what an earlier attempt imported), sign, verify, compare
4 record the intent in the CA's audit log
5 give the deployment a signer-hsm, if it has none: identity, audit key, policies; its settings file comes last
6 switch: one atomic replacement of the CA's settings, in which the old key stays as `previous_key`
7 record what was done

Before 6 the CA runs on its files, after 6 on signer-hsm, whenever the process dies. The files stay sealed where they
are, so `roll_back` is one replacement as well, until `destroy_files` ends them.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import PrivateKey, PublicKey, algorithm_of, known_public_key
from pkicore.clock import Clock, from_unix, unix
from pkicore.encoding import write_atomically
from pkicore.errors import KeyNotFoundError
from pkicore.identity import SpiffeId
from pkicore.keys import SigningKey
from pkicore.keys.envelope import unseal
from pkicore.keys.passphrase import read_passphrase
from pkicore.keys.remote import REMOTE_SCHEME, RemoteKey
from services.ca.cold_start import Say
from services.ca.equipment import Equipment
from services.ca.errors import CeremonyError
from services.ca.hierarchy import publish_issuers, read_certificate
from services.ca.layout import Layout
from services.ca.remote_keys import RemoteKeyMaker, prove, rehearse
from services.ca.responders import PROFILE
from services.ca.rolling import Rolled, Rolling, successor_of
from services.ca.settings import CaSettings, IssuerSettings, is_remote
from services.ca.settings_text import Members, change_issuers, remove_issuer
from services.ca.signer_settings import TENANT, backend_names, ceremony_key_policy
from services.ca.store import CaStore
from services.ca.temporary_signer import SignerState, remove_leftovers, temporary_signer
from services.chassis.database import AuditEvent, Database, Unit
from services.chassis.settings import load_settings
from services.signer_hsm.client import NotOfferedError, SignerClient

KEPT_DAYS: Final = 30
_ACTOR: Final = "operator"
_BLOCK: Final = 64 * 1024


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
    """The keys commands of one stopped deployment; hold its lock.

    Attributes:
        layout: the deployment.
        environment: of the signer-hsm that runs meanwhile.
        clock: the time.
        say: prints a line for a person.
    """

    layout: Layout
    environment: Mapping[str, str]
    clock: Clock
    say: Say

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
        settings = self._settings()
        plans = [_plan(item, settings) for item in _in_files(settings, only)]
        equipment = self._equipment(settings, backend, backends)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            async with self._signer(equipment.state(self.environment), settings, pool) as client:
                maker = RemoteKeyMaker(client, [backend], pool)
                for plan in plans:
                    await self._rehearse(plan, maker)
                if rehearse_only:
                    return [_migrated(plan, plan.issuer.key) for plan in plans]
                moved = [_migrated(plan, (await self._import(plan, maker)).uri) for plan in plans]
            await self._record("key.migration-begun", settings, [item.members() for item in moved])
            await equipment.complete(frozenset(maker.kinds), pool)
        self._switch(moved, equipment)
        await self._record("key.migrated", settings, [item.members() for item in moved])
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
        settings = self._settings()
        due = _in_files(settings, only)
        equipment = self._equipment(settings, backend, backends)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            async with self._signer(equipment.state(self.environment), settings, pool) as client:
                maker = RemoteKeyMaker(client, [backend], pool)
                rolling = Rolling(self.layout, settings, maker, self.clock, pool)
                for item in due:
                    await rolling.rehearse(item)
                    self.say(f"rehearsal of {item.id}: rolls to a new key; made one, signed, verified, destroyed")
                if rehearse_only:
                    return []
                rolled = [await rolling.succeed(item) for item in due]
            for each in rolled:
                self.say(f"{each.issuer} is followed by {each.successor}, {each.key}")
            await self._record("key.roll-begun", settings, [item.members() for item in rolled])
            await equipment.complete(frozenset(maker.kinds), pool)
        text = rolling.in_ca_settings(self._text(), rolled, unix(self.clock.now()))
        self._write(equipment.in_ca_settings(text))
        publish_issuers(self._settings(), self.layout.issuers)
        await self._record("key.rolled", settings, [item.members() for item in rolled])
        return rolled

    async def roll_back(self) -> list[Migrated]:
        """Put the files in force again.

        Raises:
            CeremonyError: no issuer has a file to go back to.
            KeyAccessError: a file is missing, or not the key of its certificate; nothing is changed then.
        """
        settings = self._settings()
        due, rolled = _moved(settings), _rolled(settings)
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
            changes |= {old.id: {"retired": None}, new.id: {"retired": True}}
        self._write(change_issuers(self._text(), changes))
        await self._record("key.rolled-back", settings, [item.members() for item in back])
        return back

    async def destroy_files(self, *, after: timedelta) -> list[dict[str, str]]:
        """Overwrite and unlink the sealed files of migrated keys, once signer-hsm was seen to sign with them.

        Returns:
            For each file: the issuer, its path, and the SHA-256 that the sealed file had.

        Raises:
            CeremonyError: nothing to destroy, or it is too early.
            KeyAccessError, BadSignatureError: signer-hsm does not sign with that key; the files stay.
        """
        settings = self._settings()
        rolled = _rolled(settings)
        due = [*_moved(settings), *(new.model_copy(update={"previous_key": old.key}) for old, new in rolled)]
        if not due:
            raise CeremonyError("no issuing key was migrated and still has its file, so there is nothing to destroy")
        await self._refuse_needed([old for old, _ in rolled], settings)
        early = [item.id for item in due if item.migrated_at + after.total_seconds() > unix(self.clock.now())]
        if early:
            raise CeremonyError(
                f"{', '.join(early)} was migrated less than {after.days} days ago; to destroy the way back now: --now"
            )
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            equipment = Equipment.of(self.layout, settings, (), self.clock)
            async with self._signer(equipment.state(self.environment), settings, pool) as client:
                for item in due:
                    expected = known_public_key(read_certificate(item.certificate).public_key())
                    await prove(RemoteKey(item.key, expected, client, pool))
        if rolled:
            self._drop(rolled)
        return [await self._destroy(item, settings) for item in due]

    async def _rehearse(self, plan: _Plan, maker: RemoteKeyMaker) -> None:
        try:
            await rehearse(maker, plan.algorithm, plan.private_key, plan.public_key)
        except NotOfferedError as error:
            raise CeremonyError(f"the key of {plan.issuer.id} cannot be moved: {error}") from error
        self.say(f"rehearsal of {plan.issuer.id}: imported, signed, verified, destroyed")

    async def _import(self, plan: _Plan, maker: RemoteKeyMaker) -> SigningKey:
        """The key in the back end; one that an interrupted or rolled back migration brought in is taken."""
        name = plan.issuer.id
        try:
            key = await maker.open(f"{REMOTE_SCHEME}:{TENANT}.{name}")
        except KeyNotFoundError:
            key = await maker.make(name, plan.algorithm, plan.private_key)
        _same(plan, key)
        await prove(key)
        self.say(f"{name} is {key.uri}")
        return key

    def _switch(self, moved: Sequence[Migrated], equipment: Equipment) -> None:
        now = unix(self.clock.now())
        changes: dict[str, Members] = {
            item.issuer: {"key": item.after, "previous_key": item.before, "migrated_at": now} for item in moved
        }
        self._write(equipment.in_ca_settings(change_issuers(self._text(), changes)))

    async def _refuse_needed(self, retired: Sequence[IssuerSettings], settings: CaSettings) -> None:
        """A retired issuing CA is needed for CRL and OCSP as long as anything below it is valid, revoked or not."""
        database = await Database.open(settings.database_url, clock=self.clock)
        try:
            store, now = CaStore(database), unix(self.clock.now())
            for item in retired:
                last = await store.last_expiry(item.id, but=PROFILE)
                if last > now:
                    raise CeremonyError(
                        f"{item.id} is retired, but certificates below it are valid until "
                        f"{from_unix(last):%Y-%m-%d %H:%M} UTC, and only its key signs their CRL: destroy it after that"
                    )
        finally:
            await database.close()

    def _drop(self, rolled: Sequence[tuple[IssuerSettings, IssuerSettings]]) -> None:
        """First the CA does without them, then their files go: the successor keeps the name of the file for that."""
        text = self._text()
        for old, new in rolled:
            text = change_issuers(text, {new.id: {"previous_key": old.key, "replaces": None}})
            text = remove_issuer(text, old.id)
        self._write(text)
        publish_issuers(self._settings(), self.layout.issuers)

    async def _destroy(self, item: IssuerSettings, settings: CaSettings) -> dict[str, str]:
        path = Path(item.previous_key.removeprefix("file:"))
        facts = {"issuer": item.id, "file": str(path), "sealed_sha256": _digest(path), "key": item.key}
        await self._record("key.file-destruction-begun", settings, [facts])
        _shred(path)
        self._write(change_issuers(self._text(), {item.id: {"previous_key": None}}))
        await self._record("key.file-destroyed", settings, [facts])
        return facts

    def _equipment(self, settings: CaSettings, backend: str, backends: Sequence[Mapping[str, Any]]) -> Equipment:
        equipment = Equipment.of(self.layout, settings, backends, self.clock)
        names = backend_names(equipment.backends)
        if backend not in names:
            raise CeremonyError(f"there is no back end {backend}; there are: {', '.join(names)}")
        return equipment

    def _settings(self) -> CaSettings:
        remove_leftovers(self.layout.root)
        return load_settings(CaSettings, self.layout.settings("ca"))

    def _text(self) -> str:
        return self.layout.settings("ca").read_text(encoding="utf-8")

    def _write(self, text: str) -> None:
        write_atomically(self.layout.settings("ca"), text.encode(), 0o600)

    def _signer(
        self, state: SignerState, settings: CaSettings, pool: Executor
    ) -> AbstractAsyncContextManager[SignerClient]:
        caller = SpiffeId(settings.trust_domain, "/operator/migration")
        policy = ceremony_key_policy(caller, backend_names(state.backends))
        return temporary_signer(
            self.layout.root,
            replace(state, key_policy=policy),
            caller,
            environment=self.environment,
            pool=pool,
        )

    async def _record(self, event: str, settings: CaSettings, details: Sequence[Mapping[str, str]]) -> None:
        database = await Database.open(settings.database_url, clock=self.clock)
        try:
            await database.commit(Unit("keys", [], [AuditEvent(event, _ACTOR, dict(item)) for item in details]))
        finally:
            await database.close()


def _in_files(settings: CaSettings, only: Sequence[str]) -> list[IssuerSettings]:
    due = [item for item in settings.issuers if not is_remote(item.key) and not item.retired]
    unknown = sorted(set(only) - {item.id for item in due})
    if unknown:
        names = ", ".join(item.id for item in due) or "none"
        raise CeremonyError(f"{unknown[0]} is no issuing CA whose key is a file; there are: {names}")
    if not due:
        raise CeremonyError("every issuing key is in signer-hsm already; there is nothing to migrate")
    return [item for item in due if not only or item.id in only]


def _moved(settings: CaSettings) -> list[IssuerSettings]:
    return [item for item in settings.issuers if is_remote(item.key) and item.previous_key.startswith("file:")]


def _rolled(settings: CaSettings) -> list[tuple[IssuerSettings, IssuerSettings]]:
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


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "gone before"


def _shred(path: Path) -> None:
    """Overwrite in place, make that durable, unlink, make that durable. Copies elsewhere are the operator's."""
    if not path.exists():
        return
    size = path.stat().st_size
    with path.open("r+b") as file:
        for offset in range(0, size, _BLOCK):
            file.write(os.urandom(min(_BLOCK, size - offset)))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    with _opened(path.parent) as directory:
        os.fsync(directory)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
