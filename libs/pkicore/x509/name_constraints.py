"""Which names the certificates below a CA may have (RFC 5280 §4.2.1.10), as a profile writes it: "type:value".

dns:corp.example       that name and everything below it
ip:10.0.0.0/8          every address of the network
uri:corp.example       URIs, SPIFFE IDs too, with exactly this host (trust domain); uri:.corp.example: hosts below it
email:corp.example     mailboxes at exactly this host; email:.corp.example: at hosts below it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from types import MappingProxyType
from urllib.parse import urlsplit

from cryptography import x509

from pkicore.errors import BadCsrError, ProfileError
from pkicore.x509.names import IPAddress, Names, canonical_dns

TYPES = ("dns", "ip", "uri", "email")
_CLASSES: Mapping[str, Callable[[str], x509.GeneralName]] = MappingProxyType(
    {"dns": x509.DNSName, "uri": x509.UniformResourceIdentifier, "email": x509.RFC822Name}
)


def parse_name_constraints(permitted: Iterable[str], excluded: Iterable[str]) -> x509.NameConstraints:
    """The extension.

    Raises:
        ProfileError: an entry of another form, or a type of names that is left as free as it was.
    """
    wanted, barred = [_subtree(entry) for entry in permitted], [_subtree(entry) for entry in excluded]
    said = {entry.partition(":")[0] for entry in (*permitted, *excluded)}
    if free := [kind for kind in TYPES if kind not in said]:
        raise ProfileError(f"say nothing of {', '.join(free)} names, so that any could be certified")
    return x509.NameConstraints(wanted or None, barred or None)


def _subtree(entry: str) -> x509.GeneralName:
    kind, colon, value = entry.partition(":")
    if kind == "ip":
        try:
            return x509.IPAddress(ip_network(value))
        except ValueError:
            raise ProfileError(f"{entry[:80]!r} is no network, as in ip:10.0.0.0/8") from None
    host = value.removeprefix(".") if kind in {"uri", "email"} else value
    try:
        if not colon or kind not in _CLASSES or canonical_dns(host) != host or host.startswith("*."):
            raise ProfileError(f"{entry[:80]!r} is not {', '.join(TYPES)}, a colon and a name in lower case")
    except BadCsrError as error:
        raise ProfileError(f"{entry[:80]!r}: {error}") from error
    return _CLASSES[kind](value)


def check_name_constraints(constraints: x509.NameConstraints, names: Names) -> None:
    """Every name lies within the permitted subtrees of its type, where there are any, and in no excluded one.

    Raises:
        ProfileError: one does not.
    """
    for name in names.general_names():
        subtrees = [tree for tree in constraints.permitted_subtrees or () if isinstance(tree, type(name))]
        if subtrees and not any(_is_within(name, tree) for tree in subtrees):
            raise ProfileError(f"{name.value} is not among the names that the issuer is permitted")
        barred = (tree for tree in constraints.excluded_subtrees or () if isinstance(tree, type(name)))
        if any(_is_within(name, tree) for tree in barred):
            raise ProfileError(f"{name.value} is among the names that the issuer is forbidden")


def _is_within(name: x509.GeneralName, tree: x509.GeneralName) -> bool:
    if isinstance(name, x509.IPAddress) and isinstance(tree, x509.IPAddress):
        return _is_in_network(name.value, tree.value)
    base = str(tree.value)
    if isinstance(name, x509.DNSName):
        host = name.value.removeprefix("*.")
        return host == base or host.endswith(f".{base}")
    if isinstance(name, x509.RFC822Name):
        host = name.value.rpartition("@")[2]
    else:
        host = urlsplit(str(name.value)).hostname or ""
    return host.endswith(base) if base.startswith(".") else host == base


def _is_in_network(
    address: IPAddress | IPv4Network | IPv6Network, network: IPAddress | IPv4Network | IPv6Network
) -> bool:
    if not isinstance(network, IPv4Network | IPv6Network) or isinstance(address, IPv4Network | IPv6Network):
        return False
    return address in network
