"""The roots and issuing CAs that this process answers for. A root is a certificate here, never a key."""

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from pkicore.errors import KeyNotFoundError, MalformedError
from pkicore.keys import SecretSource, SigningKey, open_key
from pkicore.x509.certificate import load_chain
from pkicore.x509.tbs import Issuer
from services.ca.issuance import IssuingCa
from services.ca.settings import CaSettings, IssuerSettings


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


def make_issuer(name: str, family: str, certificate: x509.Certificate, root: x509.Certificate, base_url: str) -> Issuer:
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


async def load_hierarchy(settings: CaSettings, base_url: str, secrets: SecretSource, pool: Executor) -> Hierarchy:
    """Read certificates and open keys as the settings say.

    Raises:
        KeyAccessError: a key is missing, locked, or not the one of its certificate.
        MalformedError: a file does not parse.
        UnsupportedError: a key URI of a scheme that is not offered.
    """
    roots = {root.id: read_certificate(root.certificate) for root in settings.roots}
    cas, responder_keys = {}, {}
    for item in settings.issuers:
        key = await open_key(item.key, secrets=secrets, pool=pool)
        certificate = read_certificate(item.certificate)
        if certificate.public_key() != key.public_key:
            raise KeyNotFoundError(f"{item.key} is not the key of {item.certificate}")
        if key.algorithm.family != item.family:
            raise KeyNotFoundError(f"issuer {item.id} is said to be of the family {item.family}, and its key is not")
        issuer = make_issuer(item.id, item.family, certificate, _root_of(item, roots), base_url)
        cas[item.id] = IssuingCa.of(issuer, key)
        responder_keys[item.id] = await open_key(item.responder_key, secrets=secrets, pool=pool)
    return Hierarchy(cas, responder_keys, roots)


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
