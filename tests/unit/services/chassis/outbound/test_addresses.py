from ipaddress import ip_address, ip_network

import pytest

from services.chassis.errors import NotReachedError
from services.chassis.outbound.addresses import AddressGuard

RESERVED = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",  # metadata service of a cloud
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",  # metadata service of a cloud, on a public address
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.255.255",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.7",
    "224.0.0.251",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::a00:1",
    "100::1",
    "2001::1",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "febf::1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = [
    "1.1.1.1",
    "9.9.9.9",
    "100.63.255.255",
    "100.128.0.0",
    "172.32.0.1",
    "192.0.1.1",
    "2606:4700::1111",
    "2a00::1",
]


@pytest.mark.parametrize("address", RESERVED)
def test_reserved_address_is_refused(address: str) -> None:
    """An address that does not belong to the public internet is never dialled."""
    guard = AddressGuard(())
    with pytest.raises(NotReachedError, match="not dialled"):
        guard.permitted("a.test", [ip_address(address)])


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_permitted(address: str) -> None:
    """A public address needs no permission."""
    assert AddressGuard(()).permitted("a.test", [ip_address(address)]) == (ip_address(address),)


def test_allowed_network_opens_only_itself() -> None:
    """An operator's network opens its own addresses and no neighbour."""
    guard = AddressGuard([ip_network("10.1.0.0/16")])
    assert guard.permitted("a.test", [ip_address("10.1.2.3")])
    with pytest.raises(NotReachedError):
        guard.permitted("a.test", [ip_address("10.2.0.1")])


@pytest.mark.parametrize("disguise", ["::ffff:127.0.0.1", "::7f00:1", "2002:7f00:1::", "64:ff9b::7f00:1"])
def test_allowed_v4_network_does_not_open_embedded_forms(disguise: str) -> None:
    """Allowing loopback does not allow its address in an IPv6 disguise."""
    guard = AddressGuard([ip_network("127.0.0.0/8")])
    with pytest.raises(NotReachedError):
        guard.permitted("a.test", [ip_address(disguise)])


def test_reserved_addresses_are_left_out_among_public_ones() -> None:
    """A name with a public and a private address is dialled at the public one only, in the order given."""
    addresses = [ip_address(text) for text in ("::1", "2606:4700::1111", "10.0.0.1", "1.1.1.1")]
    assert AddressGuard(()).permitted("a.test", addresses) == (addresses[1], addresses[3])


@pytest.mark.parametrize("address", ["2606:4700::1%evil.example", "2606:4700::1%25", "fe80::1%1"])
def test_address_with_a_zone_is_never_permitted(address: str) -> None:
    """A zone is read by the system's resolver, so not even an allowed network lets it through."""
    with pytest.raises(NotReachedError, match="with a zone"):
        AddressGuard([ip_network("::/0")]).permitted("a.test", [ip_address(address)])
