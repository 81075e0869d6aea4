"""Which names may be ordered: the patterns of an external account.

| pattern        | allows                                                                       |
|----------------|------------------------------------------------------------------------------|
| `a.example`    | that DNS name alone                                                          |
| `*.a.example`  | names one label below it, and the wildcard `*.a.example`                     |
| `.a.example`   | every name below it, wildcards too; not `a.example`, nor `*.a.example`'s base |
| `192.0.2.7`    | that IP address alone                                                        |
| `192.0.2.0/24` | every IP address of the network, IPv6 likewise                               |

No pattern at all allows every name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

from pkicore.errors import MalformedError
from services.acme.identifiers import BadNameError, Identifier, canonical_dns_name

_WILDCARD = "*."


@dataclass(frozen=True)
class AllowedNames:
    """Patterns in their one written form."""

    names: frozenset[str]
    parents: frozenset[str]
    suffixes: tuple[str, ...]
    networks: tuple[IPv4Network | IPv6Network, ...]
    everything: bool

    @classmethod
    def parse(cls, patterns: Iterable[str]) -> Self:
        """Read patterns.

        Raises:
            MalformedError: one that is none; the sentence names it.
        """
        read = [canonical_pattern(pattern) for pattern in patterns]
        dns = [pattern for pattern in read if not isinstance(pattern, IPv4Network | IPv6Network)]
        return cls(
            names=frozenset(pattern for pattern in dns if not pattern.startswith((".", _WILDCARD))),
            parents=frozenset(pattern.removeprefix(_WILDCARD) for pattern in dns if pattern.startswith(_WILDCARD)),
            suffixes=tuple(pattern for pattern in dns if pattern.startswith(".")),
            networks=tuple(pattern for pattern in read if isinstance(pattern, IPv4Network | IPv6Network)),
            everything=not read,
        )

    def refused(self, identifiers: Sequence[Identifier]) -> list[Identifier]:
        """Those that are not allowed, in their order."""
        return [identifier for identifier in identifiers if not self._allows(identifier)]

    def _allows(self, identifier: Identifier) -> bool:
        if self.everything:
            return True
        if identifier.type == "ip":
            address = ip_address(identifier.value)
            return any(address in network for network in self.networks)
        name = identifier.value
        return (
            name in self.names
            or name.partition(".")[2] in self.parents
            or any(name.endswith(suffix) and name.removeprefix(_WILDCARD) != suffix[1:] for suffix in self.suffixes)
        )


def canonical_pattern(text: str) -> str | IPv4Network | IPv6Network:
    """A pattern in its one written form.

    Raises:
        MalformedError: it is none.
    """
    try:
        return _plain(ip_network(text), text)
    except ValueError as error:
        if "/" in text or "has host bits set" in str(error):
            raise MalformedError(f"{text!a} is no network: {error}") from error
    below = text.startswith(".")
    try:
        name = canonical_dns_name(text[1:] if below else text)
    except BadNameError as error:
        raise MalformedError(f"{text!a} is no name, .suffix, *.suffix, address or network: {error}") from error
    if below and name.startswith(_WILDCARD):
        raise MalformedError(f"{text!a} is no name, .suffix, *.suffix, address or network")
    return f".{name}" if below else name


def _plain(network: IPv4Network | IPv6Network, text: str) -> IPv4Network | IPv6Network:
    """No network that identifiers never lie in: they have neither a zone nor an IPv4 address in an IPv6 one."""
    address = network.network_address
    if isinstance(address, IPv6Address) and (address.scope_id is not None or address.ipv4_mapped is not None):
        raise MalformedError(f"{text!a} has a zone, or is an IPv4 network in IPv6 form: write it without")
    return network
