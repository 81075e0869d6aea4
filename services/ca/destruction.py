"""The end of sealed key files: of keys that moved to signer-hsm, and of issuing CAs that are retired.

Each file is overwritten, unlinked and synced, and the SHA-256 that it had is in the CA's audit log before and after.
Nothing is destroyed before signer-hsm was seen to sign with the key that is in force, nor what the deployment's key
policy lets nobody destroy without others' approval.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from pkicore.algorithms import known_public_key
from pkicore.clock import from_unix, unix
from pkicore.keys.remote import RemoteKey
from services.ca.equipment import Equipment
from services.ca.errors import CeremonyError
from services.ca.hierarchy import read_certificate
from services.ca.migration import moved_issuers, rolled_issuers
from services.ca.remote_keys import prove
from services.ca.responders import PROFILE
from services.ca.settings import CaSettings, IssuerSettings, is_remote
from services.ca.settings_text import change_issuers, remove_issuer
from services.ca.stopped import StoppedDeployment
from services.ca.store import CaStore
from services.ca.trust_directory import publish_trust
from services.chassis.database import Database

_BLOCK: Final = 64 * 1024
_FILES: Final = ("previous_responder_key", "previous_key")  # the last one is what a later attempt goes by


@dataclass(frozen=True)
class Destruction:
    """`ztca keys destroy-files` of one stopped deployment."""

    deployment: StoppedDeployment

    async def destroy_files(self, *, after: timedelta) -> list[dict[str, str]]:
        """Overwrite and unlink the sealed files of migrated keys, and those of retired issuing CAs.

        Returns:
            For each file, in the order of their end: the issuer, its path, the SHA-256 that the sealed file had, and
            the key in its place.

        Raises:
            CeremonyError: nothing to destroy, it is too early, or the key policy does not let the operator alone.
            KeyAccessError, BadSignatureError: signer-hsm does not sign with that key; the files stay.
        """
        settings = self.deployment.settings()
        rolled = rolled_issuers(settings)
        due = [*moved_issuers(settings), *(new.model_copy(update={"previous_key": old.key}) for old, new in rolled)]
        if not due:
            raise CeremonyError("no issuing key was migrated and still has its file, so there is nothing to destroy")
        equipment = self.deployment.equipment(settings)
        own = self.deployment.own_policy(equipment)
        for name in (*(item.id for item in due), *(old.id for old, _ in rolled)):
            own.require_free_destruction(name)
        await self._refuse_needed([old for old, _ in rolled], settings)
        self._refuse_early(due, after)
        await self._prove(due, equipment)
        if rolled:
            self._drop(rolled)
            settings = self.deployment.settings()
        return [facts for item in moved_issuers(settings) for facts in await self._destroy(item, settings)]

    def _refuse_early(self, due: Sequence[IssuerSettings], after: timedelta) -> None:
        now = unix(self.deployment.clock.now())
        early = [item.id for item in due if item.migrated_at + after.total_seconds() > now]
        if early:
            raise CeremonyError(
                f"{', '.join(early)} was migrated less than {after.days} days ago; to destroy the way back now: --now"
            )

    async def _refuse_needed(self, retired: Sequence[IssuerSettings], settings: CaSettings) -> None:
        """A retired issuing CA is needed for CRL and OCSP as long as anything below it is valid, revoked or not."""
        database = await Database.open(settings.database_url, clock=self.deployment.clock)
        try:
            store, now = CaStore(database), unix(self.deployment.clock.now())
            for item in retired:
                last = await store.last_expiry(item.id, but=PROFILE)
                if last > now:
                    raise CeremonyError(
                        f"{item.id} is retired, but certificates below it are valid until "
                        f"{from_unix(last):%Y-%m-%d %H:%M} UTC, and only its key signs their CRL: destroy it after that"
                    )
        finally:
            await database.close()

    async def _prove(self, due: Sequence[IssuerSettings], equipment: Equipment) -> None:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            async with self.deployment.signer(equipment, pool) as client:
                for item in due:
                    expected = known_public_key(read_certificate(item.certificate).public_key())
                    await prove(RemoteKey(item.key, expected, client, pool))

    def _drop(self, rolled: Sequence[tuple[IssuerSettings, IssuerSettings]]) -> None:
        """First the CA does without them, then their files go: the successor keeps the names of the files for that."""
        text = self.deployment.text()
        for old, new in rolled:
            responder = None if is_remote(old.responder_key) else old.responder_key
            names = {"previous_key": old.key, "previous_responder_key": responder, "replaces": None}
            text = remove_issuer(change_issuers(text, {new.id: names}), old.id)
        self.deployment.write(text)
        publish_trust(self.deployment.settings(), self.deployment.layout)

    async def _destroy(self, item: IssuerSettings, settings: CaSettings) -> list[dict[str, str]]:
        gone = []
        for member in _FILES:
            uri = str(getattr(item, member))
            if not uri:
                continue
            path = Path(uri.removeprefix("file:"))
            facts = {"issuer": item.id, "file": str(path), "sealed_sha256": _digest(path), "key": item.key}
            await self.deployment.record("key.file-destruction-begun", settings, [facts])
            _shred(path)
            self.deployment.write(change_issuers(self.deployment.text(), {item.id: {member: None}}))
            await self.deployment.record("key.file-destroyed", settings, [facts])
            gone.append(facts)
        return gone


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
