"""Before `ztca up` starts anything: signer-hsm finds CRLs, a staple and an identity that hold now.

signer-hsm starts before the CA and lets the CA in by what lies on its disk. After a long time off that has expired, and
the CA could not renew it, since its keys are behind signer-hsm. So it is renewed here: from the CA's ledger where that
is enough, else with signatures by a signer-hsm that runs for this purpose alone (`services.ca.temporary_signer`).
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import structlog
from cryptography import x509

from pkicore.clock import Clock, unix
from pkicore.errors import KeyUnavailableError
from pkicore.identity import SpiffeId
from pkicore.keys.passphrase import read_passphrase
from pkicore.keys.remote import RemotePublicKey, RemoteSigner
from pkicore.mtls import StapleCache
from pkicore.x509.certificate import load_chain
from services.ca.app import MIGRATIONS
from services.ca.core import Core, build_core, core_rules
from services.ca.deployment import database_url, recorded_settings
from services.ca.errors import CeremonyError
from services.ca.hierarchy import KeyRing, load_hierarchy, read_issuers, trusted_issuers, trusted_roots
from services.ca.identities import Identities
from services.ca.layout import SIGNER, Layout
from services.ca.settings import CaSettings
from services.ca.temporary_signer import SignerState, remove_leftovers, temporary_signer
from services.ca.transport import LedgerLists, ledger_crls
from services.ca.trust_directory import publish_trust
from services.chassis.database import Database
from services.chassis.migrations import migrate
from services.chassis.settings import load_settings

MARGIN: Final = timedelta(minutes=10)  # what ends sooner than this does not last until everything is up
_STATUS_SECONDS: Final = 86_400
_PUBLISH_SECONDS: Final = 5.0

Say = Callable[[str], None]
_log: Final = structlog.get_logger(__name__)


class NobodySigns:
    """Stands for signer-hsm while it does not run."""

    async def public_key(self, key_id: str, version: int | None) -> RemotePublicKey:
        """Not now."""
        self._refuse(key_id, version)

    async def sign(self, *request: object) -> bytes:
        """Not now."""
        self._refuse(*request)

    def _refuse(self, *_request: object) -> NoReturn:
        raise KeyUnavailableError("signer-hsm does not run")


class Unobserved:
    """Hears of renewals and does nothing about them: a command has no metrics."""

    def rotation(self, result: Literal["success", "failure"]) -> None:
        """An attempt has ended."""


async def prepare_cold_start(layout: Layout, environment: Mapping[str, str], clock: Clock, say: Say) -> None:
    """Renew what signer-hsm needs on its disk, if the deployment has signer-hsm; hold the deployment's lock meanwhile.

    Raises:
        PkiError, CaServiceError, ChassisError: it cannot be had; the sentence says why.
    """
    if SIGNER not in layout.services:
        return
    remove_leftovers(layout.root)
    settings = load_settings(CaSettings, layout.settings("ca"))
    publish_trust(settings, layout)
    await migrate(settings.database_url, MIGRATIONS)
    database = await Database.open(settings.database_url, clock=clock)
    try:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            renewal = _Renewal(layout, settings, database, clock, pool)
            try:
                await renewal.run(NobodySigns())
            except KeyUnavailableError:
                say("What signer-hsm needs to start has run out; it is renewed first.")
                caller = SpiffeId.service(settings.trust_domain, "ca")
                state = signer_state(layout, environment)
                async with temporary_signer(layout.root, state, caller, environment=environment, pool=pool) as client:
                    await renewal.run(client)
    finally:
        await database.close()


def signer_state(layout: Layout, environment: Mapping[str, str]) -> SignerState:
    """The keys of a deployment's signer-hsm, under its own key policy.

    Raises:
        CeremonyError: its settings or its key policy cannot be read.
    """
    recorded: dict[str, Any] = recorded_settings(layout, SIGNER)
    policy = Path(recorded.get("keys_policy_file", layout.key_policy))
    try:
        text = policy.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CeremonyError(f"the key policy {policy} cannot be read: {error}") from error
    return SignerState(
        database_url=database_url(layout, SIGNER, environment),
        backends=recorded.get("backends", ()),
        passphrase_file=Path(recorded.get("passphrase_file", layout.passphrase)),
        key_policy=text,
    )


async def open_core(
    settings: CaSettings, database: Database, signer: RemoteSigner, clock: Clock, pool: Executor
) -> Core:
    """The CA as its settings have it, without listeners; nothing is loaded yet.

    Raises:
        PkiError, ChassisError: settings, certificates or keys are not as they should be.
    """
    passphrase = read_passphrase(settings.passphrase_file)
    base_url = settings.status_url or f"http://{settings.host}:{settings.http_port}"
    hierarchy = await load_hierarchy(settings, base_url, KeyRing(lambda _uri: passphrase, pool, signer))
    return build_core(database, hierarchy, core_rules(settings, hierarchy, base_url), clock)


@dataclass(frozen=True)
class _Renewal:
    layout: Layout
    settings: CaSettings
    database: Database
    clock: Clock
    pool: Executor

    async def run(self, signer: RemoteSigner) -> None:
        """Renew what is needed.

        Raises:
            KeyUnavailableError: it takes a signature that this signer does not give.
            PkiError, CaServiceError, ChassisError: something else is wrong.
        """
        core = await open_core(self.settings, self.database, signer, self.clock, self.pool)
        await core.publisher.load()
        await core.log.refresh()
        crls_end = self._crls_end_soon(core)
        superseded = core.hierarchy.is_superseded
        identities = Identities(self.settings, core.store, core.issuance, self.clock, Unobserved(), superseded)
        if crls_end or core.responders.due() or identities.ending(MARGIN):
            for key in core.hierarchy.remote_keys:  # nobody there is found out before an intent is recorded
                await key.confirm()
        if crls_end:
            await core.publisher.publish_outstanding(_PUBLISH_SECONDS)
        await core.responders.ensure()
        await identities.renew_ending(MARGIN)
        await self._lay_out(core)

    def _crls_end_soon(self, core: Core) -> bool:
        limit = unix(self.clock.now() + MARGIN)
        current = core.publisher.current
        return any(name not in current or current[name].next_update <= limit for name in core.hierarchy.cas)

    async def _lay_out(self, core: Core) -> None:
        status = self.layout.state(SIGNER) / "status"
        status.mkdir(parents=True, exist_ok=True, mode=0o700)
        certificates = read_issuers(trusted_issuers(self.settings)) | read_issuers(trusted_roots(self.settings))
        lists = LedgerLists(core.store, core.publisher)
        crls = ledger_crls(certificates, lists, status, self.clock, _STATUS_SECONDS, on_error=_replaced)
        await crls.refresh()
        crls.current()
        leaf, issuer, *_ = load_chain((self.layout.identity(SIGNER) / "cert.pem").read_bytes())
        await StapleCache(core.staple, status, self.clock, on_error=_not_taken).prepare(leaf, issuer)


def _replaced(_issuer: x509.Certificate, _error: Exception) -> None:
    """What lies on disk may have expired: it is replaced, or `current` says what is missing."""


def _not_taken(certificate: x509.Certificate, error: Exception) -> None:
    _log.warning("staple not taken", serial=f"{certificate.serial_number:x}", error=str(error))
