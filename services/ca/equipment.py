"""Giving a deployment the signer-hsm that its ceremony did not give it: identity, audit key, policies, settings."""

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from pkicore.clock import Clock
from pkicore.encoding import write_atomically
from pkicore.identity import SpiffeId
from pkicore.keys.passphrase import read_passphrase
from services.ca.cold_start import NobodySigns, open_core, signer_state
from services.ca.credentials import begin_checkpoints, issue_identity, write_audit_key
from services.ca.deployment import Deployment, choose_ports, recorded_settings, signer_files
from services.ca.layout import SIGNER, Layout
from services.ca.settings import CaSettings
from services.ca.settings_text import set_top_level
from services.ca.signer_settings import file_backend, signer_callers
from services.ca.temporary_signer import SignerState
from services.ca.toml_text import table
from services.chassis.database import Database

_OTHERS: Final = ("ca", "ca_http", "ca_ops", "acme", "acme_admin", "acme_ops")
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True)
class Equipment:
    """What a deployment has of signer-hsm, or is going to have.

    Attributes:
        backends: its back ends.
        is_new: whether the deployment has no signer-hsm yet.
        environment: where its ports may stand; 0 is any free one, as for `ztca init`.
    """

    layout: Layout
    settings: CaSettings
    backends: Sequence[Mapping[str, Any]]
    is_new: bool
    clock: Clock
    environment: Mapping[str, str] = field(default_factory=lambda: _NOTHING)

    @classmethod
    def of(
        cls,
        layout: Layout,
        settings: CaSettings,
        backends: Sequence[Mapping[str, Any]],
        clock: Clock,
        environment: Mapping[str, str] = _NOTHING,
    ) -> "Equipment":
        """As the deployment's settings have it; else with these back ends, or with sealed files where there are none.

        Raises:
            CeremonyError: the settings cannot be read.
        """
        if SIGNER in layout.services:
            return cls(
                layout, settings, recorded_settings(layout, SIGNER).get("backends", ()), False, clock, environment
            )
        default = (file_backend(layout.signer_keys, settings.passphrase_file),)
        return cls(layout, settings, backends or default, True, clock, environment)

    def state(self, environment: Mapping[str, str]) -> SignerState:
        """What a temporary signer-hsm shares with it.

        Raises:
            CeremonyError: the settings cannot be read.
        """
        if not self.is_new:
            return signer_state(self.layout, environment)
        for name in ("keys", "status"):
            (self.layout.state(SIGNER) / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        url = f"sqlite:///{self.layout.signer_database}"
        return SignerState(url, self.backends, self.settings.passphrase_file, key_policy="")

    async def complete(self, kinds: frozenset[str], pool: Executor) -> None:
        """Write what is missing; the settings file, which makes it part of the deployment, comes last.

        Raises:
            PkiError, CaServiceError, ChassisError, OSError: a part could not be made.
        """
        if not self.is_new:
            return
        await self._identify(pool)
        audit_key = self.layout.key(SIGNER, "audit")
        audit_key.unlink(missing_ok=True)  # of an attempt that was cut short; nothing was signed with it
        passphrase = read_passphrase(self.settings.passphrase_file)
        write_audit_key(self.layout, SIGNER, passphrase)
        url = f"sqlite:///{self.layout.signer_database}"
        await begin_checkpoints(self.layout, SIGNER, passphrase, url, clock=self.clock, pool=pool)
        policy = self.layout.policy.read_text(encoding="utf-8")
        if f'service = "{SIGNER}"' not in policy:
            added = policy.rstrip("\n") + "\n" + signer_callers(self.settings.trust_domain)
            write_atomically(self.layout.policy, added.encode(), 0o600)
        files = signer_files(self.layout, self.layout, self._deployment(kinds), self.settings.passphrase_file)
        for path in sorted(files, key=lambda path: path == self.layout.settings(SIGNER)):
            write_atomically(path, files[path].encode(), 0o600)

    def in_ca_settings(self, text: str) -> str:
        """The CA's settings with signer-hsm's URL in them, and with its identity among those that the CA renews."""
        if self.settings.signer_url:
            return text
        port = recorded_settings(self.layout, SIGNER)["port"]
        identity = {"id": str(self._id()), "profile": "service", "directory": self.layout.identity(SIGNER)}
        listed = text if str(self._id()) in text else text.rstrip("\n") + "\n" + table("identities", identity)
        return set_top_level(listed, "signer_url", f"https://localhost:{port}")

    async def _identify(self, pool: Executor) -> None:
        directory = self.layout.identity(SIGNER)
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True, mode=0o700)
        database = await Database.open(self.settings.database_url, clock=self.clock)
        try:
            core = await open_core(self.settings, database, NobodySigns(), self.clock, pool)
            await issue_identity(core.issuance, self._id(), "service", directory, pool)
        finally:
            await database.close()

    def _deployment(self, kinds: frozenset[str]) -> Deployment:
        ca = self.settings
        signer, ops = (
            self._port(f"PQCPKI_SIGNER_HSM_{name}", port) for name, port in (("PORT", 6000), ("OPS_PORT", 6090))
        )
        wanted = dict.fromkeys(_OTHERS, 0) | {"signer": signer, "signer_ops": ops}
        allowed = kinds | {"digest", "mu"}  # keys of the other family may follow
        ports = replace(choose_ports(ca.host, wanted), ca=ca.port, ca_http=ca.http_port, ca_ops=ca.ops_port)
        return Deployment(
            "migrated", ca.trust_domain, ca.host, ports, backends=tuple(self.backends), payload_kinds=allowed
        )

    def _port(self, variable: str, default: int) -> int:
        given = self.environment.get(variable, "")
        return int(given) if given.isdecimal() else default

    def _id(self) -> SpiffeId:
        return SpiffeId.service(self.settings.trust_domain, SIGNER)
