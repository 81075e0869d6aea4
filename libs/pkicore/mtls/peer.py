"""Who is at the other end: read once from the chain that TLS verified, then handed to every request."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pkicore.errors import BadCertificateError, IdentityError, PeerMismatchError
from pkicore.identity import SpiffeId, spiffe_id_of
from pkicore.x509.certificate import crl_urls


@dataclass(frozen=True)
class IssuedBy:
    """One link of a verified chain: this serial number, under this issuer key (SHA-256 of its SPKI).

    `crl_urls` are the distribution points that the certificate names, and so the list that may speak of it.
    """

    issuer_key_hash: bytes
    serial: int
    crl_urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class PeerIdentity:
    """A peer whose chain verified.

    Attributes:
        certificate: the peer's own certificate.
        chain: the verified chain, `certificate` first, the trust anchor last.
        spiffe_id: its SPIFFE ID, None where the certificate has no URI name.
        dns_names: its DNS names, lower case, wildcards as written.
        ip_addresses: its IP addresses.
        serial: the serial number of `certificate`.
        expires: end of the validity of `certificate`; the connection ends with it.
        links: who vouches for whom along the chain, for revocation checks.
    """

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    spiffe_id: SpiffeId | None
    dns_names: tuple[str, ...]
    ip_addresses: tuple[IPv4Address | IPv6Address, ...]
    serial: int
    expires: datetime
    links: tuple[IssuedBy, ...]

    @classmethod
    def from_chain(cls, chain: tuple[x509.Certificate, ...]) -> PeerIdentity:
        """Read the identity out of a chain that TLS has verified (leaf first, anchor last).

        Raises:
            BadCertificateError: the leaf is itself a CA or a trust anchor, or distribution points do not parse.
            IdentityError: the names do not parse, or break the SPIFFE rules (X509-SVID §2).
        """
        leaf = chain[0]
        links = tuple(_link(subject, issuer) for subject, issuer in pairwise(chain))
        if not links or _is_ca(leaf):
            raise BadCertificateError("a CA certificate does not authenticate a peer")
        names = _names(leaf)
        return cls(
            certificate=leaf,
            chain=chain,
            spiffe_id=spiffe_id_of(leaf),
            dns_names=tuple(name.lower() for name in names.get_values_for_type(x509.DNSName)) if names else (),
            ip_addresses=tuple(_addresses(names)),
            serial=leaf.serial_number,
            expires=leaf.not_valid_after_utc,
            links=links,
        )

    @property
    def issuer_key_hash(self) -> bytes:
        """SHA-256 of the public key (SPKI) that issued the certificate."""
        return self.links[0].issuer_key_hash

    @property
    def name(self) -> str:
        """The SPIFFE ID, else the serial number: what logs call this peer."""
        return f"serial {self.serial:x}" if self.spiffe_id is None else str(self.spiffe_id)

    def require(self, expected: SpiffeId | str) -> None:
        """Check that this peer is the one that was meant: a SPIFFE ID, or a host name or address (RFC 9525 §6).

        Raises:
            PeerMismatchError: it is somebody else.
        """
        matches = self.spiffe_id == expected if isinstance(expected, SpiffeId) else self._has_host(expected)
        if not matches:
            names = ", ".join(names_of(self.certificate)) or "nobody"
            raise PeerMismatchError(f"expected {expected}, but the certificate is for {names}")

    def _has_host(self, host: str) -> bool:
        try:
            return ip_address(host) in self.ip_addresses
        except ValueError:
            wanted = host.lower().removesuffix(".")
        parent = wanted.partition(".")[2]
        # RFC 9525 §6.3: a wildcard stands for exactly one whole left-most label.
        return wanted in self.dns_names or ("." in parent and f"*.{parent}" in self.dns_names)


def key_hash(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the certificate's public key as SubjectPublicKeyInfo: the same for every certificate of one key."""
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).digest()


def _link(subject: x509.Certificate, issuer: x509.Certificate) -> IssuedBy:
    try:
        return IssuedBy(key_hash(issuer), subject.serial_number, tuple(crl_urls(subject)))
    except ValueError as error:
        raise BadCertificateError("the CRL distribution points of the certificate do not parse") from error


def presented_name(certificate: x509.Certificate) -> str:
    """What to call the owner of a certificate that may not be trusted: its SPIFFE ID if proper, else its serial."""
    try:
        spiffe_id = spiffe_id_of(certificate)
    except IdentityError:
        spiffe_id = None
    return f"serial {certificate.serial_number:x}" if spiffe_id is None else str(spiffe_id)


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The URIs, DNS names and addresses of a certificate.

    Raises:
        IdentityError: the names do not parse.
    """
    names = _names(certificate)
    if names is None:
        return ()
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return (*uris, *names.get_values_for_type(x509.DNSName), *map(str, _addresses(names)))


def _names(leaf: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    except ValueError as error:
        raise IdentityError("the names of the certificate do not parse") from error


def _addresses(names: x509.SubjectAlternativeName | None) -> list[IPv4Address | IPv6Address]:
    values = names.get_values_for_type(x509.IPAddress) if names else []
    return [value for value in values if isinstance(value, IPv4Address | IPv6Address)]


def _is_ca(leaf: x509.Certificate) -> bool:
    try:
        return leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
