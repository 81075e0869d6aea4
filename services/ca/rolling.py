"""An issuing CA gets a successor: a new key in a back end of signer-hsm, and a certificate by the root, opened for it.

For where the old key cannot be brought in. The successor issues from then on; the old one is retired: it issues
nothing, and goes on to publish its CRL and to answer OCSP with its file key until the last certificate below it has
ended. Nothing is in force before the CA's settings are replaced, and each step finds what a killed attempt left.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from pkicore.algorithms import ALGORITHMS, Payload, algorithm_of, known_public_key
from pkicore.clock import Clock
from pkicore.encoding import write_atomically
from pkicore.errors import KeyNotFoundError
from pkicore.keys.file import create_file_key, load_file_key
from pkicore.keys.passphrase import read_passphrase
from pkicore.keys.remote import REMOTE_SCHEME, RemoteKey
from pkicore.x509.certificate import to_pem
from pkicore.x509.profiles import load_profiles
from services.ca.errors import CeremonyError
from services.ca.hierarchy import make_root_issuer, read_certificate, read_issuers
from services.ca.issuance import IssuingCa
from services.ca.layout import Layout
from services.ca.remote_keys import RemoteKeyMaker, prove, rehearse
from services.ca.roots import RootOffice
from services.ca.settings import CaSettings, IssuerSettings, is_remote
from services.ca.settings_text import add_issuer, change_issuers
from services.ca.signer_settings import TENANT
from services.ca.store import CaStore
from services.chassis.database import Database

_NUMBERED: Final = re.compile(r"^(.*?)(?:-([0-9]+))?$")


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
        await self._root(item)

    async def succeed(self, item: IssuerSettings) -> Rolled:
        """The successor, made as far as it is not there yet.

        Raises:
            PkiError, CaServiceError, ChassisError: it could not be made; the settings are what they were.
        """
        known = successor_of(item, self.settings)
        if known is not None:
            name, key = known.id, await self.maker.open(known.key)
            certificate = read_certificate(known.certificate)
        else:
            name = successor_id(item, self.settings)
            key = await self._key(name, _algorithm(item))
            certificate = await self._certified(item, name, key)
            self._make_responder_key(name, _algorithm(item))
        await prove(key, known_public_key(certificate.public_key()))
        spki = key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return Rolled(item.id, name, key.uri, hashlib.sha256(spki).hexdigest(), known is None, key.payload_kind)

    def in_ca_settings(self, text: str, rolled: Sequence[Rolled], now: int) -> str:
        """The CA's settings with every successor in force.

        Raises:
            CeremonyError: the file is written in a way that is not understood.
        """
        issuers = {item.id: item for item in self.settings.issuers}
        for each in rolled:
            text = change_issuers(text, {each.issuer: {"retired": True}})
            if each.is_new:
                text = add_issuer(text, each.issuer, self._members(issuers[each.issuer], each))
            text = change_issuers(text, {each.successor: {"retired": None, "migrated_at": now}})
        return text

    def _members(self, old: IssuerSettings, rolled: Rolled) -> Mapping[str, object]:
        return {
            "id": rolled.successor,
            "family": old.family,
            "root": old.root,
            "certificate": self.layout.own_certificate(rolled.successor),
            "key": rolled.key,
            "replaces": old.id,
            "responder_key": f"file:{self._responder_key(rolled.successor)}",
        }

    async def _key(self, name: str, algorithm: str) -> RemoteKey:
        try:
            key = await self.maker.open(f"{REMOTE_SCHEME}:{TENANT}.{name}")
        except KeyNotFoundError:
            key = await self.maker.make(name, algorithm)
        if key.algorithm.name != algorithm:
            raise CeremonyError(f"{key.uri} is there already, and is no {algorithm} key: destroy it, or rename it")
        return key

    async def _certified(self, item: IssuerSettings, name: str, key: RemoteKey) -> x509.Certificate:
        path = self.layout.own_certificate(name)
        if path.exists():  # of an attempt that was cut short
            kept = read_certificate(path)
            if kept.public_key() == key.public_key:
                return kept
        profiles = load_profiles(self.settings.profiles_file.read_text(encoding="utf-8"))
        root = await self._root(item)
        database = await Database.open(self.settings.database_url, clock=self.clock)
        try:
            store, domain = CaStore(database), self.settings.trust_domain
            office = RootOffice.of(store, {item.family: root}, profiles["issuing-ca"], domain, self.clock)
            certificate = await office.certify(key, _common_name(item, name))
        finally:
            await database.close()
        path.parent.mkdir(exist_ok=True, mode=0o700)
        write_atomically(path, to_pem([certificate]), 0o644)
        return certificate

    async def _root(self, item: IssuerSettings) -> IssuingCa:
        certificate = read_issuers(self.settings.roots)[item.root]
        passphrase = read_passphrase(self.settings.passphrase_file)
        key = await load_file_key(self.layout.root_key(item.family), passphrase, self.pool)
        if key.public_key != certificate.public_key():
            raise KeyNotFoundError(f"{key.uri} is not the key of {item.root}")
        base_url = self.settings.status_url or f"http://{self.settings.host}:{self.settings.http_port}"
        return IssuingCa.of(make_root_issuer(item.root, item.family, certificate, base_url), key)

    def _make_responder_key(self, name: str, algorithm: str) -> None:
        path = self._responder_key(name)
        path.unlink(missing_ok=True)  # of an attempt that was cut short; nothing was signed with it
        create_file_key(path, ALGORITHMS[algorithm], read_passphrase(self.settings.passphrase_file))

    def _responder_key(self, name: str) -> Path:
        return self.layout.key("ca", f"ocsp-{name}")


def successor_of(item: IssuerSettings, settings: CaSettings) -> IssuerSettings | None:
    """The issuing CA that came, or may come again, in the place of this one."""
    return next((other for other in settings.issuers if other.replaces == item.id and is_remote(other.key)), None)


def successor_id(item: IssuerSettings, settings: CaSettings) -> str:
    """The id of the successor: of the one that is there, or of the next."""
    known = successor_of(item, settings)
    return successor_name(item.id, [other.id for other in settings.issuers]) if known is None else known.id


def successor_name(issuer: str, taken: Sequence[str]) -> str:
    """The id with the next number: one that has been used is never used again while its successors are there."""
    base, _ = _split(issuer)
    numbers = [number for name, number in map(_split, taken) if name == base]
    return f"{base}-{max([*numbers, 1]) + 1}"


def _split(issuer: str) -> tuple[str, int]:
    found = _NUMBERED.match(issuer)
    return (issuer, 1) if found is None else (found[1], int(found[2] or 1))


def _algorithm(item: IssuerSettings) -> str:
    return algorithm_of(known_public_key(read_certificate(item.certificate).public_key())).name


def _common_name(item: IssuerSettings, name: str) -> str:
    """As the old one's, with the successor's number."""
    (old,) = read_certificate(item.certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    number = _split(item.id)[1]
    spelled = str(old.value).removesuffix(f" {number}") if number > 1 else str(old.value)
    return f"{spelled} {_split(name)[1]}"
