"""The roots and issuing CAs that this process answers for. A root is a certificate here, never a key."""

from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from pkicore.algorithms import PublicKey, known_public_key
from pkicore.encoding import write_atomically
from pkicore.errors import KeyNotFoundError, MalformedError, UnsupportedError
from pkicore.keys import RemoteSigner, SecretSource, SigningKey, open_key
from pkicore.keys.remote import RemoteKey
from pkicore.x509.certificate import load_chain, to_pem
from pkicore.x509.tbs import Issuer
from services.ca.issuance import IssuingCa
from services.ca.settings import CaSettings, IssuerSettings, RootSettings, is_remote


@dataclass(frozen=True)
class Hierarchy:
    """By issuer id: issuing CAs with their keys, the keys of their OCSP responders, and the roots' certificates."""

    cas: Mapping[str, IssuingCa]
    responder_keys: Mapping[str, SigningKey]
    roots: Mapping[str, x509.Certificate]

    @property
    def certificates(self) -> dict[str, x509.Certificate]:
        """Every issuer's certificate, issuing CAs first."""
        return {name: ca.issuer.certificate for name, ca in self.cas.items()} | dict(self.roots)

    @property
    def remote_keys(self) -> list[RemoteKey]:
        """The keys that signer-hsm holds."""
        keys = (*(ca.key for ca in self.cas.values()), *self.responder_keys.values())
        return [key for key in keys if isinstance(key, RemoteKey)]


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
) -> Issuer:
    """An issuing CA directly below a root, with its status below `base_url`."""
    return Issuer(
        id=name,
        family=family,
        certificate=certificate,
        chain=(certificate,),
        root=root,
        crl_url=f"{base_url}/crl/{name}",
        ocsp_url=f"{base_url}/ocsp",
        aia_url=f"{base_url}/aia/{name}",
        crl_shards=crl_shards,
    )


def make_root_issuer(name: str, family: str, certificate: x509.Certificate, base_url: str) -> Issuer:
    """A root as the issuer of issuing CAs; nobody answers OCSP for it, its CRL is made offline."""
    return Issuer(
        id=name,
        family=family,
        certificate=certificate,
        chain=(),
        root=certificate,
        crl_url=f"{base_url}/crl/{name}",
        ocsp_url=None,
        aia_url=f"{base_url}/aia/{name}",
    )


async def load_hierarchy(settings: CaSettings, base_url: str, ring: KeyRing) -> Hierarchy:
    """Read certificates and open keys as the settings say.

    Raises:
        KeyAccessError: a key is missing, locked, or not the one of its certificate.
        MalformedError: a file does not parse.
        UnsupportedError: a key URI of a scheme that is not offered.
    """
    roots = read_issuers(settings.roots)
    cas, responder_keys = {}, {}
    for item in settings.issuers:
        certificate = read_certificate(item.certificate)
        key = await ring.open(item.key, certificate)
        if key.algorithm.family != item.family:
            raise KeyNotFoundError(f"issuer {item.id} is said to be of the family {item.family}, and its key is not")
        root = _root_of(item, roots)
        issuer = make_issuer(item.id, item.family, certificate, root, base_url, crl_shards=item.crl_shards)
        cas[item.id] = IssuingCa.of(issuer, key, retired=item.retired)
        responder_keys[item.id] = await ring.open(item.responder_key, _responder_certificate(settings, item))
    return Hierarchy(cas, responder_keys, roots)


def read_issuers(items: Iterable[IssuerSettings | RootSettings]) -> dict[str, x509.Certificate]:
    """The certificates of the settings' issuing CAs or roots, by id.

    Raises:
        KeyNotFoundError, MalformedError: as `read_certificate`.
    """
    return {item.id: read_certificate(item.certificate) for item in items}


def publish_issuers(settings: CaSettings, directory: Path) -> None:
    """Have the directory that all services read hold the certificates of the settings' issuing CAs, and of no former.

    A service lets nobody in without the CRL of every issuer there, so this follows the settings and never goes before.

    Raises:
        KeyNotFoundError, MalformedError: as `read_certificate`.
        OSError: it cannot be written.
    """
    wanted = {directory / f"{item.id}.pem": to_pem([read_certificate(item.certificate)]) for item in settings.issuers}
    for path, pem in wanted.items():
        if not path.exists():
            write_atomically(path, pem, 0o644)
    for path in directory.glob("issuing-*.pem"):
        if path not in wanted:
            path.unlink()


def responders_directory(settings: CaSettings) -> Path:
    """Where the responders' certificates are kept."""
    return settings.state_dir / "responders"


def _responder_certificate(settings: CaSettings, item: IssuerSettings) -> x509.Certificate | None:
    """What says which key a remote responder's is; a local one is compared when the certificate is taken."""
    path = responders_directory(settings) / f"{item.id}.pem"
    return read_certificate(path) if is_remote(item.responder_key) and path.exists() else None


def _root_of(item: IssuerSettings, roots: Mapping[str, x509.Certificate]) -> x509.Certificate:
    if item.root not in roots:
        raise KeyNotFoundError(f"issuer {item.id} names the root {item.root}, which is not among the settings' roots")
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
