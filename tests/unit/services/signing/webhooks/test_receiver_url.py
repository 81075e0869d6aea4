from ipaddress import ip_network

import pytest

from pkicore.errors import MalformedError
from services.chassis.outbound.addresses import AddressGuard
from services.signing.webhooks.receiver_url import receiver_url

GUARD = AddressGuard(())


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example/a?b=c@d",
        "https://hooks.example:8443/",
        "https://hooks.example.",
        "https://xn--bcher-kva.example/",
        "https://1.1.1.1/hook",
        "https://[2606:4700::1111]/hook",
    ],
)
def test_ordinary_urls_are_taken(url: str) -> None:
    """A public https URL is a receiver's, with a name or an address."""
    assert receiver_url(url, GUARD, plain_http=False).host


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/",
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "gopher://hooks.example:6379/_",
        "https:hooks.example",
        "https:///path",
        "//hooks.example/",
        "hooks.example",
        "",
        7,
        None,
    ],
)
def test_other_schemes_are_refused(url: object) -> None:
    """Only https is a way to a receiver."""
    with pytest.raises(MalformedError):
        receiver_url(url, GUARD, plain_http=False)


@pytest.mark.parametrize(
    "url",
    [
        "https://user@hooks.example/",
        "https://user:password@hooks.example/",
        "https://@hooks.example/",
        "https://hooks.example@127.0.0.1/",
        "https://hooks.example/#fragment",
        "https://hooks.example/#",
        "https://hooks.example\\@127.0.0.1/",
        "https://hooks.example/\r\nHost: inside",
        "https://hooks.example /",
        "https://hooks.example/\tx",
        "https://hooks.ex\u00e4mple/",
        "https://hooks.example/" + "a" * 2048,
    ],
)
def test_what_readers_may_disagree_about_is_refused(url: str) -> None:
    """User parts, fragments, backslashes, blanks and line breaks have no place in a receiver's URL."""
    with pytest.raises(MalformedError):
        receiver_url(url, GUARD, plain_http=True)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::a00:1]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "0.0.0.0",
        "255.255.255.255",
    ],
)
def test_reserved_addresses_are_refused_at_once(host: str) -> None:
    """An address of the inside is refused when it is registered, in its IPv6 disguises too."""
    with pytest.raises(MalformedError, match="not dialled"):
        receiver_url(f"https://{host}/", GUARD, plain_http=False)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "127.1",
        "127.0.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "hooks.example.1",
        "1.0x",
        "a_b.example",
        "-a.example",
        "a..example",
        "%31.example",
        "127.0.0.1%2f.example",
        "[::1%25eth0]",
        "[v1.x]",
    ],
)
def test_addresses_in_disguise_are_refused(host: str) -> None:
    """A decimal, octal, hexadecimal or shortened address is neither a name nor an address here."""
    with pytest.raises(MalformedError):
        receiver_url(f"https://{host}/", GUARD, plain_http=False)


@pytest.mark.parametrize("port", [0, 22, 25, 80, 1023, 65536, -1])
def test_ports_of_system_services_are_refused(port: int) -> None:
    """A receiver is at 443 or where no system service is: no mail server is talked to."""
    with pytest.raises(MalformedError):
        receiver_url(f"https://hooks.example:{port}/", GUARD, plain_http=False)


def test_operator_may_allow_a_network_and_plain_http() -> None:
    """What the operator allows is taken, and nothing beside it."""
    guard = AddressGuard([ip_network("127.0.0.0/8")])
    assert receiver_url("http://127.0.0.1:8080/", guard, plain_http=True).port == 8080
    with pytest.raises(MalformedError):
        receiver_url("http://10.0.0.1:8080/", guard, plain_http=True)
    with pytest.raises(MalformedError, match="https://"):
        receiver_url("http://127.0.0.1:8080/", guard, plain_http=False)
