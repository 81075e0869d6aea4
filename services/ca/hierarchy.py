"""The roots and issuing CAs that this process answers for. A root is a certificate here, never a key."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import PublicKey, known_public_key
from pkicore.errors import KeyNotFoundError, MalformedError, UnsupportedError
from pkicore.keys import RemoteSigner, SecretSource, SigningKey, open_key
from pkicore.keys.remote import RemoteKey
from pkicore.x509.certificate import load_chain
from pkicore.x509.tbs import Issuer
from services.ca.client.trust import superseded
from services.ca.issuance import IssuingCa
from services.ca.revocation_store import Revoked
from services.ca.settings import CaSettings, IssuerSettings, RootSettings, is_remote

_log: Final = structlog.get_logger(__name__)
BUNDLE: Final = ".p7c"
"""Ends the AIA URL of a root's certificate together with its cross-certificates (RFC 5280 §4.2.2.1)."""


@dataclass
class Hierarchy:
    """The issuing CAs and roots of this process. It grows while the process runs; whoever holds a part sees it grow.

    Attributes:
        cas: issuing CAs with their keys, by id.
        responder_keys: the keys of their OCSP responders, likewise.
        roots: the roots' certificates, by id, those that are not trusted any more among them.
        crosses: by the root's id, the certificates of its key by other roots.
        issuing: the issuer of each family that issues now; one that its root has revoked, or whose key is blocked, does
            not.
    """

    cas: dict[str, IssuingCa]
    responder_keys: dict[str, SigningKey]
    roots: dict[str, x509.Certificate]
    crosses: dict[str, tuple[x509.Certificate, ...]] = field(default_factory=dict)
    issuing: dict[str, Issuer] = field(init=False)
    _active: dict[str, Issuer] = field(init=False)
    _revoked: set[int] = field(init=False, default_factory=set)
    _blocked: frozenset[bytes] = field(init=False, default=frozenset())

    def __post_init__(self) -> None:
        self._active = {ca.issuer.family: ca.issuer for ca in self.cas.values() if ca.state == "active"}
        self.issuing = dict(self._active)

    def take_up(self, later: "Hierarchy") -> None:
        """Speak for all of a later reading of the settings; who issues is as before."""
        self.cas.update(later.cas)
        self.responder_keys.update(later.responder_keys)
        self.roots.update(later.roots)
        self.crosses.update(later.crosses)

    def switch(self, later: "Hierarchy") -> None:
        """Issue as a later reading of the settings says; those requests that have their issuer keep it."""
        self._active = dict(later.issuing)
        for family in self.issuing.keys() - self._active.keys():
            del self.issuing[family]
        self._settle()

    def heed(self, revoked: Sequence[Revoked]) -> None:
        """Have an issuing CA that its root has revoked issue nothing any more: nobody would believe it."""
        self._revoked.update(item.serial for item in revoked if item.issuer in self.roots)
        self._settle()

    def heed_blocked(self, key_hashes: Collection[bytes]) -> None:
        """Have the issuing CAs with these keys, and no others, issue nothing: somebody else may sign as they do."""
        self._blocked = frozenset(key_hashes)
        self._settle()

    def _settle(self) -> None:
        for family, issuer in self._active.items():
            reason = self._reason_to_stop(issuer)
            if reason is None:
                self.issuing[family] = issuer
            elif self.issuing.pop(family, None) is not None:
                _log.error(f"an issuing CA {reason}, and issues nothing any more", issuer=issuer.id, family=family)

    def _reason_to_stop(self, issuer: Issuer) -> str | None:
        if issuer.certificate.serial_number in self._revoked:
            return "is revoked"
        is_blocked = self._blocked and _key_hash(issuer.certificate) in self._blocked
        return "has a key that is blocked" if is_blocked else None

    @property
    def key_hashes(self) -> set[bytes]:
        """What the block list knows the issuing CAs' keys by."""
        return {_key_hash(ca.issuer.certificate) for ca in self.cas.values()}

    def is_superseded(self, certificate: x509.Certificate) -> bool:
        """Whether its issuer is one of ours and issues no more, and another of its family does."""
        known = {ca.issuer.certificate: None for ca in self.cas.values()}
        return superseded(certificate, known, tuple(issuer.certificate for issuer in self.issuing.values()))

    @property
    def certificates(self) -> dict[str, x509.Certificate]:
        """Every issuer's certificate, issuing CAs first."""
        return {name: ca.issuer.certificate for name, ca in self.cas.items()} | dict(self.roots)

    @property
    def keys(self) -> dict[str, SigningKey]:
        """The keys, by URI."""
        return {key.uri: key for key in (*(ca.key for ca in self.cas.values()), *self.responder_keys.values())}

    @property
    def remote_keys(self) -> list[RemoteKey]:
        """The keys that signer-hsm holds."""
        return [key for key in self.keys.values() if isinstance(key, RemoteKey)]


def _key_hash(certificate: x509.Certificate) -> bytes:
    public_key = known_public_key(certificate.public_key())
    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


@dataclass(frozen=True)
class KeyRing:
    """How keys are opened: files by passphrase, those of signer-hsm by asking it."""

    secrets: SecretSource
    pool: Executor
    signer: RemoteSigner | None = None

    async def open(self, uri: str, certificate: x509.Certificate | None) -> SigningKey:
        """The key of a certificate. A remote key is not asked for here where the certificate says what it must be.

        Raises:
            KeyAccessError: the key is missing, locked, or not the one of its certificate.
            UnsupportedError: a URI that is not offered, or a remote key without a signer.
        """
        if certificate is None:
            return await open_key(uri, secrets=self.secrets, pool=self.pool, signer=self.signer)
        whose = f"the key of {certificate.subject.rfc4514_string()}"
        return await self.open_for(uri, known_public_key(certificate.public_key()), whose)

    async def open_for(self, uri: str, public_key: PublicKey, whose: str) -> SigningKey:
        """The key whose public half is known; a remote one is not asked for here. `whose` is for the error's sentence.

        Raises:
            KeyAccessError, UnsupportedError: as `open`.
        """
        if not is_remote(uri):
            key = await open_key(uri, secrets=self.secrets, pool=self.pool, signer=self.signer)
            if key.public_key != public_key:
                raise KeyNotFoundError(f"{uri} is not {whose}")
            return key
        if self.signer is None:
            raise UnsupportedError(f"{uri} needs signer-hsm, and signer_url does not say where that is")
        return RemoteKey(uri, public_key, self.signer, self.pool)


def make_issuer(
    name: str,
    family: str,
    certificate: x509.Certificate,
    root: x509.Certificate,
    base_url: str,
    *,
    crl_shards: int = 1,
    crosses: tuple[x509.Certificate, ...] = (),
) -> Issuer:
    """An issuing CA directly below a root, with its status below `base_url`.

    `crosses` are certificates of the root's key by other roots, which go with each chain.
    """
    return Issuer(
        id=name,
        family=family,
        certificate=certificate,
        chain=(certificate, *crosses),
        root=root,
        crl_url=f"{base_url}/crl/{name}",
        ocsp_url=f"{base_url}/ocsp",
        aia_url=f"{base_url}/aia/{name}",
        crl_shards=crl_shards,
    )


def make_root_issuer(
    name: str, family: str, certificate: x509.Certificate, base_url: str, *, crossed: bool = False
) -> Issuer:
    """A root as the issuer of issuing CAs; nobody answers OCSP for it, its CRL is made offline.

    What is below it names the PKCS#7 bundle with its cross-certificates: who trusts the root needs it not, and who does
    not trust it is helped by those alone.
    """
    return Issuer(
        id=name,
        family=family,
        certificate=certificate,
        chain=(),
        root=certificate,
        crl_url=f"{base_url}/crl/{name}",
        ocsp_url=None,
        aia_url=f"{base_url}/aia/{name}{BUNDLE if crossed else ''}",
    )


async def load_hierarchy(
    settings: CaSettings, base_url: str, ring: KeyRing, known: Hierarchy | None = None
) -> Hierarchy:
    """Read certificates and open keys as the settings say; keys that are `known` are not opened again.

    Raises:
        KeyAccessError: a key is missing, locked, or not the one of its certificate.
        MalformedError: a file does not parse.
        UnsupportedError: a key URI of a scheme that is not offered.
    """
    roots = read_issuers(settings.roots)
    crosses = {item.id: tuple(map(read_certificate, item.cross)) for item in settings.roots}
    cas, responder_keys = dict[str, IssuingCa](), dict[str, SigningKey]()
    keys = {} if known is None else known.keys
    for item in settings.issuers:
        certificate = read_certificate(item.certificate)
        key = await _opened(ring, item.key, certificate, keys.get(item.key))
        if key.algorithm.family != item.family:
            raise KeyNotFoundError(f"issuer {item.id} is said to be of the family {item.family}, and its key is not")
        root = _root_of(item, certificate, roots)
        issuer = make_issuer(
            item.id,
            item.family,
            certificate,
            root,
            base_url,
            crl_shards=item.crl_shards,
            crosses=helpful_crosses(item.root, crosses[item.root], settings),
        )
        others = alternate_chains(issuer, trusted_crosses(crosses[item.root], settings))
        cas[item.id] = IssuingCa.of(issuer, key, state=item.state, alternates=others)
        responder = _responder_certificate(settings, item)
        responder_keys[item.id] = await _opened(ring, item.responder_key, responder, keys.get(item.responder_key))
    return Hierarchy(cas, responder_keys, roots, crosses)


async def _opened(
    ring: KeyRing, uri: str, certificate: x509.Certificate | None, known: SigningKey | None
) -> SigningKey:
    return await ring.open(uri, certificate) if known is None else known


def helpful_crosses(
    root: str, crosses: tuple[x509.Certificate, ...], settings: CaSettings
) -> tuple[x509.Certificate, ...]:
    """Those cross-certificates of a root that lead to an older one which is still trusted: few know the new one."""
    ids = [item.id for item in settings.roots]
    older = [item for item in trusted_roots(settings) if ids.index(item.id) < ids.index(root)]
    subjects = {read_certificate(item.certificate).subject for item in older}
    return tuple(cross for cross in crosses if cross.issuer in subjects)


def trusted_crosses(crosses: tuple[x509.Certificate, ...], settings: CaSettings) -> tuple[x509.Certificate, ...]:
    """Those cross-certificates that lead to a root which is trusted, older or newer."""
    subjects = {read_certificate(item.certificate).subject for item in trusted_roots(settings)}
    return tuple(cross for cross in crosses if cross.issuer in subjects)


def alternate_chains(issuer: Issuer, crosses: Sequence[x509.Certificate]) -> tuple[tuple[x509.Certificate, ...], ...]:
    """The issuer's chains beside its own: straight to its root, and by each cross-certificate of that root's key.

    A rollover's new root is known to few: the chain of what is below it leads to the old one, and the straight one is
    the alternate. Of what is below the old root, the straight chain is the chain, and the alternate leads to the new.
    """
    chains = ((issuer.certificate,), *((issuer.certificate, cross) for cross in crosses))
    return tuple(chain for chain in chains if chain != issuer.chain)


def read_issuers(items: Iterable[IssuerSettings | RootSettings]) -> dict[str, x509.Certificate]:
    """The certificates of the settings' issuing CAs or roots, by id.

    Raises:
        KeyNotFoundError, MalformedError: as `read_certificate`.
    """
    return {item.id: read_certificate(item.certificate) for item in items}


def trusted_roots(settings: CaSettings) -> list[RootSettings]:
    """All but the retired ones."""
    return [item for item in settings.roots if item.state != "retired"]


def trusted_issuers(settings: CaSettings) -> list[IssuerSettings]:
    """The issuing CAs below roots that are trusted."""
    trusted = {item.id for item in trusted_roots(settings)}
    return [item for item in settings.issuers if item.root in trusted]


def responders_directory(settings: CaSettings) -> Path:
    """Where the responders' certificates are kept."""
    return settings.state_dir / "responders"


def _responder_certificate(settings: CaSettings, item: IssuerSettings) -> x509.Certificate | None:
    """What says which key a remote responder's is; a local one is compared when the certificate is taken."""
    path = responders_directory(settings) / f"{item.id}.pem"
    return read_certificate(path) if is_remote(item.responder_key) and path.exists() else None


def _root_of(
    item: IssuerSettings, certificate: x509.Certificate, roots: Mapping[str, x509.Certificate]
) -> x509.Certificate:
    if item.root not in roots:
        raise KeyNotFoundError(f"issuer {item.id} names the root {item.root}, which is not among the settings' roots")
    try:
        certificate.verify_directly_issued_by(roots[item.root])
    except (ValueError, TypeError, InvalidSignature) as error:
        raise KeyNotFoundError(f"issuer {item.id} names the root {item.root}, which has not certified it") from error
    return roots[item.root]


def read_certificate(path: Path) -> x509.Certificate:
    """The one certificate in a PEM file.

    Raises:
        KeyNotFoundError: the file is not there.
        MalformedError: it does not parse.
    """
    try:
        return load_chain(path.read_bytes())[0]
    except FileNotFoundError as error:
        raise KeyNotFoundError(f"there is no certificate {path}") from error
    except MalformedError as error:
        raise MalformedError(f"{path} is no certificate in PEM: {error}") from error
