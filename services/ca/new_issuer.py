"""A new issuing CA below a root whose key is at hand: its key, its certificate, the key of its OCSP responder.

Nothing of it is in force before the CA's settings name it. Each part that an attempt which was cut short has left is
taken up by the next.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography import x509
from cryptography.x509.oid import NameOID

from pkicore.algorithms import ALGORITHMS
from pkicore.clock import Clock
from pkicore.encoding import write_atomically
from pkicore.errors import KeyNotFoundError
from pkicore.keys import SigningKey
from pkicore.keys.file import create_file_key, load_file_key
from pkicore.keys.passphrase import read_passphrase
from pkicore.keys.remote import REMOTE_SCHEME
from pkicore.x509.certificate import to_pem
from pkicore.x509.profiles import load_profiles
from pkicore.x509.tbs import MAX_COMMON_NAME
from services.ca.errors import CeremonyError
from services.ca.hierarchy import make_root_issuer, read_certificate, read_issuers
from services.ca.issuance import IssuingCa
from services.ca.layout import Layout
from services.ca.remote_keys import RemoteKeyMaker, prove
from services.ca.roots import RootOffice
from services.ca.settings import CaSettings, RootSettings
from services.ca.signer_settings import TENANT
from services.ca.store import CaStore
from services.chassis.database import Database

_NUMBERED: Final = re.compile(r"^(.*?)(?:-([0-9]+))?$")


class KeyPlace(Protocol):
    """Where the keys of issuing CAs are made."""

    async def find_or_make(self, name: str, algorithm: str) -> SigningKey:
        """The key of this name; one that is there already is taken.

        Raises:
            CeremonyError: it is of another algorithm, or the place makes no such keys.
            KeyAccessError: it cannot be had.
        """
        ...


@dataclass(frozen=True)
class SealedFiles:
    """Sealed files in the CA's state directory."""

    layout: Layout
    passphrase: bytes
    pool: Executor

    async def find_or_make(self, name: str, algorithm: str) -> SigningKey:
        """As `KeyPlace` says."""
        path = self.layout.key("ca", name)
        if not path.exists():
            await asyncio.to_thread(create_file_key, path, ALGORITHMS[algorithm], self.passphrase)
        return _of(algorithm, await load_file_key(path, self.passphrase, self.pool))


@dataclass(frozen=True)
class AtSigner:
    """A back end of signer-hsm."""

    maker: RemoteKeyMaker

    async def find_or_make(self, name: str, algorithm: str) -> SigningKey:
        """As `KeyPlace` says."""
        try:
            key = await self.maker.open(f"{REMOTE_SCHEME}:{TENANT}.{name}")
        except KeyNotFoundError:
            key = await self.maker.make(name, algorithm)
        return _of(algorithm, key)


def _of(algorithm: str, key: SigningKey) -> SigningKey:
    if key.algorithm.name != algorithm:
        raise CeremonyError(f"{key.uri} is there already, and is no {algorithm} key: destroy it, or rename it")
    return key


@dataclass(frozen=True)
class NewIssuer:
    """An issuing CA that the settings do not name yet."""

    name: str
    family: str
    root: str
    certificate: x509.Certificate
    key: SigningKey

    def members(self, layout: Layout) -> Mapping[str, object]:
        """Its table in the settings."""
        return {
            "id": self.name,
            "family": self.family,
            "root": self.root,
            "certificate": layout.own_certificate(self.name),
            "key": self.key.uri,
            "responder_key": f"file:{layout.key('ca', f'ocsp-{self.name}')}",
        }


@dataclass(frozen=True)
class IssuerMaker:
    """Makes issuing CAs of one deployment; `layout` says where the roots' keys are."""

    layout: Layout
    settings: CaSettings
    place: KeyPlace
    clock: Clock
    pool: Executor

    async def make(self, name: str, family: str, root: str, algorithm: str) -> NewIssuer:
        """Key, certificate and responder's key.

        Raises:
            PkiError, CaServiceError, ChassisError: a part could not be made; nothing that is in force has changed.
        """
        key = await self.place.find_or_make(name, algorithm)
        certificate = await self._certified(name, family, root, key)
        self._make_responder_key(name, algorithm)
        await prove(key)
        return NewIssuer(name, family, root, certificate, key)

    async def _certified(self, name: str, family: str, root: str, key: SigningKey) -> x509.Certificate:
        path = self.layout.own_certificate(name)
        if path.exists():  # of an attempt that was cut short
            kept = read_certificate(path)
            if kept.public_key() == key.public_key:
                return kept
        profiles = load_profiles(self.settings.profiles_file.read_text(encoding="utf-8"))
        above = await open_root(self.layout, self.settings, root, family, self.pool)
        database = await Database.open(self.settings.database_url, clock=self.clock)
        try:
            store, domain = CaStore(database), self.settings.trust_domain
            office = RootOffice.of(store, {family: above}, profiles["issuing-ca"], domain, self.clock)
            certificate = await office.certify(key, common_name(self.settings, "issuing", name, family))
        finally:
            await database.close()
        path.parent.mkdir(exist_ok=True, mode=0o700)
        write_atomically(path, to_pem([certificate]), 0o644)
        return certificate

    def _make_responder_key(self, name: str, algorithm: str) -> None:
        path = self.layout.key("ca", f"ocsp-{name}")
        path.unlink(missing_ok=True)  # of an attempt that was cut short; nothing was signed with it
        create_file_key(path, ALGORITHMS[algorithm], read_passphrase(self.settings.passphrase_file))


async def open_root(layout: Layout, settings: CaSettings, root: str, family: str, pool: Executor) -> IssuingCa:
    """A root with its key.

    Raises:
        KeyNotFoundError: the key is not at hand, or is another; the sentence says where it is looked for.
        KeyAccessError: it cannot be opened.
    """
    certificate = read_issuers(settings.roots)[root]
    path = layout.root_key_of(root)
    if not path.exists():
        raise KeyNotFoundError(
            f"there is no root key {path}: bring it here for this, or say where it is with --offline"
        )
    key = await load_file_key(path, read_passphrase(settings.passphrase_file), pool)
    if key.public_key != certificate.public_key():
        raise KeyNotFoundError(f"{key.uri} is not the key of {root}")
    base_url = settings.status_url or f"http://{settings.host}:{settings.http_port}"
    crossed = any(item.id == root and item.cross for item in settings.roots)
    return IssuingCa.of(make_root_issuer(root, family, certificate, base_url, crossed=crossed), key)


def roots_of(settings: CaSettings, family: str) -> list[RootSettings]:
    """The roots of a family, by their ids: root-FAMILY, root-FAMILY-2, ..."""
    return [item for item in settings.roots if split_name(item.id)[0] == f"root-{family}"]


def common_name(settings: CaSettings, role: str, name: str, family: str) -> str:
    """Of an issuing CA or a root: the deployment's name, as its first root has it, and the number from the second on.

    Raises:
        MalformedError, KeyNotFoundError: the first root's certificate cannot be read.
    """
    first = read_certificate(settings.roots[0].certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    deployment = str(first[0].value).rpartition(" root ")[0] if first else ""
    number = split_name(name)[1]
    rest = f" {role} {family}" + (f" {number}" if number > 1 else "")
    return deployment[: MAX_COMMON_NAME - len(rest)] + rest


def next_name(base: str, taken: Sequence[str]) -> str:
    """The id itself where none of its numbers is taken; else that with the next number."""
    numbers = [number for name, number in map(split_name, taken) if name == split_name(base)[0]]
    return successor_name(base, taken) if numbers else base


def successor_name(issuer: str, taken: Sequence[str]) -> str:
    """The id with the next number: one that has been used is never used again while its successors are there."""
    base, _ = split_name(issuer)
    numbers = [number for name, number in map(split_name, taken) if name == base]
    return f"{base}-{max([*numbers, 1]) + 1}"


def split_name(issuer: str) -> tuple[str, int]:
    """The id without its number, and the number; the first one has none."""
    found = _NUMBERED.match(issuer)
    return (issuer, 1) if found is None else (found[1], int(found[2] or 1))
