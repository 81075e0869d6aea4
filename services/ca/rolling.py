"""An issuing CA gets a successor: a new key in a back end of signer-hsm, and a certificate by the root, opened for it.

For where the old key cannot be brought in. The successor issues from then on; the old one is retired: it issues
nothing, and goes on to publish its CRL and to answer OCSP with its file key until the last certificate below it has
ended. Nothing is in force before the CA's settings are replaced, and each step finds what a killed attempt left.
"""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import Payload, algorithm_of, known_public_key
from pkicore.clock import Clock
from pkicore.keys.remote import RemoteKey
from services.ca.hierarchy import read_certificate
from services.ca.layout import Layout
from services.ca.new_issuer import AtSigner, IssuerMaker, open_root, successor_name
from services.ca.remote_keys import RemoteKeyMaker, prove, rehearse
from services.ca.settings import CaSettings, IssuerSettings, is_remote
from services.ca.settings_text import add_issuer, change_issuers, in_state


@dataclass(frozen=True)
class Rolled:
    """A retired issuing CA and its successor.

    Attributes:
        issuer: id of the retired one.
        successor: id of the new one.
        key: URI of the new key.
        public_key_sha256: of its SubjectPublicKeyInfo.
        is_new: whether the settings do not have it yet; otherwise an earlier roll is put in force again.
        payload_kind: what the new key takes.
    """

    issuer: str
    successor: str
    key: str
    public_key_sha256: str
    is_new: bool
    payload_kind: Payload

    def members(self) -> dict[str, str]:
        """For JSON and for the audit log."""
        return {
            "issuer": self.issuer,
            "successor": self.successor,
            "to": self.key,
            "public_key_sha256": self.public_key_sha256,
        }


@dataclass(frozen=True)
class Rolling:
    """Makes successors for one stopped deployment; `layout` says where the roots' keys are."""

    layout: Layout
    settings: CaSettings
    maker: RemoteKeyMaker
    clock: Clock
    pool: Executor

    async def rehearse(self, item: IssuerSettings) -> Payload:
        """Make a key under another name, sign, verify, destroy.

        Returns:
            The payload kind that the successor's key will take.

        Raises:
            CeremonyError: the back end makes no such keys.
            KeyAccessError: it does not sign.
        """
        return await rehearse(self.maker, _algorithm(item))

    async def open_root(self, item: IssuerSettings) -> None:
        """The root's key is at hand.

        Raises:
            KeyAccessError: it cannot be opened, or is another.
        """
        await open_root(self.layout, self.settings, item.root, item.family, self.pool)

    async def succeed(self, item: IssuerSettings) -> Rolled:
        """The successor, made as far as it is not there yet.

        Raises:
            PkiError, CaServiceError, ChassisError: it could not be made; the settings are what they were.
        """
        known = successor_of(item, self.settings)
        if known is not None:
            name, key = known.id, await self.maker.open(known.key)
            await prove(key, known_public_key(read_certificate(known.certificate).public_key()))
            return self._rolled(item, name, key, is_new=False)
        name, place = successor_id(item, self.settings), AtSigner(self.maker)
        maker = IssuerMaker(self.layout, self.settings, place, self.clock, self.pool)
        made = await maker.make(name, item.family, item.root, _algorithm(item))
        return self._rolled(item, name, await self.maker.open(made.key.uri), is_new=True)

    def _rolled(self, item: IssuerSettings, name: str, key: RemoteKey, *, is_new: bool) -> Rolled:
        spki = key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return Rolled(item.id, name, key.uri, hashlib.sha256(spki).hexdigest(), is_new, key.payload_kind)

    def in_ca_settings(self, text: str, rolled: Sequence[Rolled], now: int) -> str:
        """The CA's settings with every successor in force.

        Raises:
            CeremonyError: the file is written in a way that is not understood.
        """
        issuers = {item.id: item for item in self.settings.issuers}
        for each in rolled:
            text = change_issuers(text, {each.issuer: in_state("retired")})
            if each.is_new:
                text = add_issuer(text, each.issuer, self._members(issuers[each.issuer], each))
            text = change_issuers(text, {each.successor: {**in_state("active"), "migrated_at": now}})
        return text

    def _members(self, old: IssuerSettings, rolled: Rolled) -> Mapping[str, object]:
        return {
            "id": rolled.successor,
            "family": old.family,
            "root": old.root,
            "certificate": self.layout.own_certificate(rolled.successor),
            "key": rolled.key,
            "replaces": old.id,
            "responder_key": f"file:{self.layout.key('ca', f'ocsp-{rolled.successor}')}",
        }


def successor_of(item: IssuerSettings, settings: CaSettings) -> IssuerSettings | None:
    """The issuing CA that came, or may come again, in the place of this one."""
    return next((other for other in settings.issuers if other.replaces == item.id and is_remote(other.key)), None)


def successor_id(item: IssuerSettings, settings: CaSettings) -> str:
    """The id of the successor: of the one that is there, or of the next."""
    known = successor_of(item, settings)
    return successor_name(item.id, [other.id for other in settings.issuers]) if known is None else known.id


def _algorithm(item: IssuerSettings) -> str:
    return algorithm_of(known_public_key(read_certificate(item.certificate).public_key())).name
