"""A deployment that is stopped, as the keys commands have it: its settings, its audit log, a signer-hsm for an hour."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from pkicore.clock import Clock
from pkicore.encoding import write_atomically
from pkicore.identity import SpiffeId
from services.ca.cold_start import Say
from services.ca.deployment import OPERATOR, recorded_settings
from services.ca.equipment import Equipment
from services.ca.errors import CeremonyError
from services.ca.layout import SIGNER, Layout
from services.ca.own_policy import OwnPolicy
from services.ca.settings import CaSettings
from services.ca.signer_settings import backend_names, key_policy
from services.ca.temporary_signer import remove_leftovers, temporary_signer
from services.chassis.database import AuditEvent, Database, Unit
from services.chassis.settings import load_settings
from services.signer_hsm.client import SignerClient

_ACTOR: Final = "operator"
_ALL_KINDS: Final = ("digest", "mu", "message")


@dataclass(frozen=True)
class StoppedDeployment:
    """One deployment whose lock is held.

    Attributes:
        layout: where it is.
        environment: of the signer-hsm that runs meanwhile.
        clock: the time.
        say: prints a line for a person.
        start_signer: starts that signer-hsm.
    """

    layout: Layout
    environment: Mapping[str, str]
    clock: Clock
    say: Say
    start_signer: Callable[..., AbstractAsyncContextManager[SignerClient]] = temporary_signer

    def settings(self) -> CaSettings:
        """The CA's settings as they are now.

        Raises:
            SettingsError: they make no sense.
        """
        remove_leftovers(self.layout.root)
        return load_settings(CaSettings, self.layout.settings("ca"))

    def text(self) -> str:
        """The CA's settings file."""
        return self.layout.settings("ca").read_text(encoding="utf-8")

    def write(self, text: str) -> None:
        """Replace the CA's settings file, in one step."""
        write_atomically(self.layout.settings("ca"), text.encode(), 0o600)

    async def record(self, event: str, settings: CaSettings, details: Sequence[Mapping[str, str]]) -> None:
        """An event for each of the details in the CA's audit log.

        Raises:
            DatabaseError: they are not on record.
        """
        database = await Database.open(settings.database_url, clock=self.clock)
        try:
            await database.commit(Unit("keys", [], [AuditEvent(event, _ACTOR, dict(item)) for item in details]))
        finally:
            await database.close()

    def equipment(self, settings: CaSettings, backends: Sequence[Mapping[str, Any]] = ()) -> Equipment:
        """Its signer-hsm, or the one that it is given.

        Raises:
            CeremonyError: it has one, whose settings are elsewhere: it is not given a second.
        """
        if settings.has_remote_keys and SIGNER not in self.layout.services:
            raise CeremonyError(
                f"signer-hsm holds keys of this CA, and its settings {self.layout.settings(SIGNER)} are not there: "
                "where it runs elsewhere, take it back for this (docs/operations/signer-hsm.md)"
            )
        return Equipment.of(self.layout, settings, backends, self.clock, self.environment)

    def own_policy(self, equipment: Equipment) -> OwnPolicy:
        """The key policy that binds the commands: the deployment's; before it has one, that which it will be given.

        Raises:
            CeremonyError: it cannot be read.
        """
        domain, path = equipment.settings.trust_domain, self.layout.key_policy
        text = key_policy(domain, backend_names(equipment.backends), _ALL_KINDS)
        if not equipment.is_new:
            text = equipment.state(self.environment).key_policy
            path = Path(recorded_settings(self.layout, SIGNER).get("keys_policy_file", path))
        operator, ca = SpiffeId.operator(domain, OPERATOR), SpiffeId.service(domain, "ca")
        return OwnPolicy.read(text, path, operator=operator, ca=ca)

    def signer(self, equipment: Equipment, pool: Executor) -> AbstractAsyncContextManager[SignerClient]:
        """A signer-hsm under that key policy, called as the deployment's operator.

        Raises:
            CeremonyError: it did not start; the sentence says why.
        """
        own = self.own_policy(equipment)
        state = replace(equipment.state(self.environment), key_policy=own.with_proofs())
        return self.start_signer(self.layout.root, state, own.operator, environment=self.environment, pool=pool)
