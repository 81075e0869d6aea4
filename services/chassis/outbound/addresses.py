"""Which addresses may be dialled: public ones, and those the operator allows.

The table is our own (IANA special-purpose registries, 2026), because `ipaddress.is_global` changed between Python
releases, and because a metadata service may live on a public address.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from types import MappingProxyType

from services.chassis.errors import NotReachedError

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

GLOBAL_UNICAST_V6 = IPv6Network("2000::/3")

RESERVED: Mapping[IPNetwork, str] = MappingProxyType(
    {
        ip_network(network): use
        for network, use in {
            "0.0.0.0/8": "this network",
            "10.0.0.0/8": "private",
            "100.64.0.0/10": "carrier-grade NAT",
            "127.0.0.0/8": "loopback",
            "168.63.129.16/32": "cloud metadata",
            "169.254.0.0/16": "link-local and cloud metadata",
            "172.16.0.0/12": "private",
            "192.0.0.0/24": "protocol assignments",
            "192.0.2.0/24": "documentation",
            "192.88.99.0/24": "6to4 relay",
            "192.168.0.0/16": "private",
            "198.18.0.0/15": "benchmarking",
            "198.51.100.0/24": "documentation",
            "203.0.113.0/24": "documentation",
            "224.0.0.0/4": "multicast",
            "240.0.0.0/4": "reserved and broadcast",
            # Outside 2000::/3 nothing is dialled (loopback, v4-mapped, NAT64, unique local, link-local, multicast …);
            # these are the exceptions inside it.
            "2001::/23": "protocol assignments and Teredo",
            "2001:db8::/32": "documentation",
            "2002::/16": "6to4",
            "3fff::/20": "documentation",
        }.items()
    }
)


class AddressGuard:
    """Refuses reserved addresses unless they lie in an allowed network.

    Args:
        allowed_networks: what the operator permits although it is reserved, e.g. the networks of the company. An IPv4
            network does not allow the IPv6 forms that embed its addresses.
    """

    def __init__(self, allowed_networks: Iterable[IPNetwork]) -> None:
        self._allowed = tuple(allowed_networks)

    def permitted(self, host: str, addresses: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
        """Choose the addresses of `host` that may be dialled, in their order.

        Raises:
            NotReachedError: there are addresses but none of them is permitted.
        """
        refused: list[str] = []
        chosen: list[IPAddress] = []
        for address in addresses:
            use = self._reserved_use(address)
            if use is None:
                chosen.append(address)
            else:
                refused.append(f"{address} ({use})")
        if refused and not chosen:
            raise NotReachedError(f"{host} has only addresses that are not dialled: {refused[0]}")
        return tuple(chosen)

    def _reserved_use(self, address: IPAddress) -> str | None:
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return "with a zone"
        if any(address in network for network in self._allowed):
            return None
        if isinstance(address, IPv6Address) and address not in GLOBAL_UNICAST_V6:
            return "not global unicast"
        return next((use for network, use in RESERVED.items() if address in network), None)
