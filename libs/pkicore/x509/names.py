"""Subject alternative names in their one canonical form: lower case, no trailing dot, no duplicates, sorted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from cryptography import x509

from pkicore.errors import BadCsrError

IPAddress: TypeAlias = IPv4Address | IPv6Address

_MAX_DNS = 253
_MAX_URI = 2048
_MAX_EMAIL = 254
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_URI = re.compile(r"[a-z][a-z0-9+.-]*://[!-~]+", re.ASCII | re.IGNORECASE)
_EMAIL_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class Names:
    """The names of a certificate by type; make one with `Names.build`, which is what makes them canonical."""

    dns: tuple[str, ...] = ()
    ip: tuple[IPAddress, ...] = ()
    uri: tuple[str, ...] = ()
    email: tuple[str, ...] = ()

    @classmethod
    def build(
        cls,
        *,
        dns: Iterable[str] = (),
        ip: Iterable[str | IPAddress] = (),
        uri: Iterable[str] = (),
        email: Iterable[str] = (),
    ) -> Names:
        """Canonical names of whatever was asked for.

        Raises:
            BadCsrError: a name that no certificate may carry.
        """
        addresses = {_canonical_ip(item) for item in ip}
        return cls(
            dns=tuple(sorted({canonical_dns(item) for item in dns})),
            ip=tuple(sorted(addresses, key=lambda address: (address.version, int(address)))),
            uri=tuple(sorted({_canonical_uri(item) for item in uri})),
            email=tuple(sorted({_canonical_email(item) for item in email})),
        )

    @property
    def count(self) -> int:
        """How many names of all types."""
        return len(self.dns) + len(self.ip) + len(self.uri) + len(self.email)

    @property
    def is_empty(self) -> bool:
        """Whether there is none."""
        return self.count == 0

    @property
    def wildcards(self) -> tuple[str, ...]:
        """The DNS names that start with `*.`."""
        return tuple(name for name in self.dns if name.startswith("*."))

    def general_names(self) -> list[x509.GeneralName]:
        """As cryptography wants them: DNS, IP, URI, e-mail, each in canonical order."""
        return [
            *(x509.DNSName(name) for name in self.dns),
            *(x509.IPAddress(address) for address in self.ip),
            *(x509.UniformResourceIdentifier(uri) for uri in self.uri),
            *(x509.RFC822Name(mailbox) for mailbox in self.email),
        ]


@lru_cache(maxsize=512)  # each name of a request is looked at several times
def canonical_dns(name: str) -> str:
    """A DNS name in lower case without trailing dot; `*` may be the leftmost label only (RFC 5280 §4.2.1.6, RFC 9525).

    Raises:
        BadCsrError: not a host name of ASCII letters, digits and hyphens, or one that reads as an IP address.
    """
    # ASCII first: lower() turns the KELVIN SIGN into the letter k.
    canonical = name.lower().removesuffix(".") if name.isascii() else ""
    if not 0 < len(canonical) <= _MAX_DNS:
        raise BadCsrError(f"a DNS name has 1 to {_MAX_DNS} ASCII characters")
    host = canonical.removeprefix("*.")
    labels = host.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise BadCsrError(
            f"{name[:80]!r} is no DNS name: labels are 1 to 63 ASCII letters, digits and hyphens, '*' only as the first"
        )
    if labels[-1].isdigit():
        raise BadCsrError(f"{name[:80]!r} reads as an IP address, not as a DNS name")
    return canonical


def _canonical_ip(address: str | IPAddress) -> IPAddress:
    if not isinstance(address, str):
        return address
    try:
        parsed = ip_address(address)
    except ValueError:
        raise BadCsrError(f"{address[:80]!r} is no IP address") from None
    if isinstance(parsed, IPv6Address) and parsed.scope_id is not None:
        raise BadCsrError("an IP address in a certificate has no zone")
    return parsed


def _canonical_uri(uri: str) -> str:
    if len(uri) > _MAX_URI or not _URI.fullmatch(uri):
        raise BadCsrError(f"{uri[:80]!r} is no URI of printable ASCII with at most {_MAX_URI} characters")
    return uri


def _canonical_email(mailbox: str) -> str:
    local, at, domain = mailbox.rpartition("@")
    if not at or len(mailbox) > _MAX_EMAIL or not _EMAIL_LOCAL.fullmatch(local):
        raise BadCsrError(f"{mailbox[:80]!r} is no e-mail address")
    host = canonical_dns(domain)
    if host.startswith("*."):
        raise BadCsrError("an e-mail address has no wildcard")
    return f"{local}@{host}"


def names_of(general_names: Iterable[x509.GeneralName]) -> Names:
    """Canonical names of the general names of a request or certificate.

    Raises:
        BadCsrError: a name type other than DNS, IP, URI and e-mail, or a name that no certificate may carry.
    """
    found: dict[type, list[str]] = {x509.DNSName: [], x509.UniformResourceIdentifier: [], x509.RFC822Name: []}
    addresses: list[IPAddress] = []
    for name in general_names:
        if isinstance(name, x509.IPAddress) and isinstance(name.value, IPv4Address | IPv6Address):
            addresses.append(name.value)
        elif type(name) in found:
            found[type(name)].append(str(name.value))
        else:
            raise BadCsrError(f"names of type {type(name).__name__} are not offered")
    return Names.build(
        dns=found[x509.DNSName],
        ip=addresses,
        uri=found[x509.UniformResourceIdentifier],
        email=found[x509.RFC822Name],
    )
