"""What an order is for (RFC 8555 §7.1.3): names as the server compares them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Final, Literal

import idna

from pkicore.errors import BadCsrError
from pkicore.x509.names import canonical_dns

_WILDCARD: Final = "*."
_IS_ADDRESS: Final = "this is an IP address: order it with type ip"
_REVERSE_ZONES: Final = (["in-addr", "arpa"], ["ip6", "arpa"])


@dataclass(frozen=True, order=True)
class Identifier:
    """A canonical identifier: a lower-case DNS name without trailing dot, or an IP address in its RFC 5952 text."""

    type: Literal["dns", "ip"]
    value: str

    def document(self) -> dict[str, str]:
        """The JSON object of the protocol."""
        return {"type": self.type, "value": self.value}

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for every name one label below its base."""
        return self.value.startswith(_WILDCARD)

    @property
    def base(self) -> Identifier:
        """What an authorization names: the identifier without the wildcard label (RFC 8555 §7.1.4)."""
        return Identifier(self.type, self.value.removeprefix(_WILDCARD))


class BadNameError(ValueError):
    """A DNS name that no certificate is issued for; the text says why."""


def canonical_dns_name(text: str) -> str:
    """The one written form of a DNS name, possibly a wildcard.

    Single labels are allowed, since private networks use them; a wildcard needs two labels below it.

    Raises:
        BadNameError: not a host name (RFC 1123 §2.1), one that could be an address or lies in the reverse tree, or
            with a trailing dot.
    """
    if not text.isascii():
        raise BadNameError("an internationalised name is written with its A-labels (xn--…)")
    if text.endswith("."):
        raise BadNameError("a DNS name is written without a trailing dot")
    try:
        name = canonical_dns(text)
    except BadCsrError as error:
        raise BadNameError(_IS_ADDRESS if _is_address(text) else str(error)) from error
    labels = name.removeprefix(_WILDCARD).split(".")
    if name.startswith(_WILDCARD) and len(labels) == 1:
        raise BadNameError("a wildcard needs two labels below it")
    if labels[-2:] in _REVERSE_ZONES:
        raise BadNameError("a name of the reverse tree stands for an address: order that, with type ip")
    for label in labels:
        _check_hyphens(label)
    return name


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def canonical_address(text: str) -> str:
    """An IP address, which is only taken in its one canonical form (RFC 8738 §3, RFC 5952).

    Raises:
        BadNameError: no address, one with a zone, or one that is written otherwise.
    """
    try:
        address = ip_address(text)
    except ValueError as error:
        raise BadNameError("this is no IPv4 or IPv6 address") from error
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise BadNameError("an address in a certificate has no zone")
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        raise BadNameError(f"this address is that of IPv4: {address.ipv4_mapped}")
    if text != str(address):
        raise BadNameError(f"this address is written {address} (RFC 5952)")
    return text


def _check_hyphens(label: str) -> None:
    """Hyphens in the third and fourth place are reserved; only A-labels have a meaning (RFC 5891 §4.2.3.1)."""
    if label[2:4] != "--":
        return
    try:
        idna.ulabel(label)
    except UnicodeError as error:  # the base of idna.IDNAError
        raise BadNameError("a label with -- in third place must be a valid A-label (xn--…)") from error
    if not label.startswith("xn--"):
        raise BadNameError("a label with -- in third place must be a valid A-label (xn--…)")
