"""An http-01 validator in the tests' network, what it looks for, and how it refuses."""

import time
from ipaddress import ip_network

import pytest

from services.acme.challenges.fetch import Fetcher
from services.acme.challenges.http01 import Http01
from services.acme.errors import ValidationError
from services.acme.identifiers import Identifier
from services.chassis.outbound.addresses import AddressGuard
from services.chassis.outbound.resolver import Resolver
from tests.support.attempts import SITE, THUMBPRINT, TOKEN, attempt
from tests.support.dns_server import DnsSimulator
from tests.support.http_challenge import CHALLENGE_PATH

KEY_AUTHORIZATION = f"{TOKEN}.{THUMBPRINT}"
ATTEMPT = attempt("http-01")
PATH = CHALLENGE_PATH + TOKEN
SECONDS = 1.5
LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


def build(dns: DnsSimulator, port: int, networks: tuple[object, ...] = LOOPBACK) -> Http01:
    """A validator that may dial `networks`."""
    guard = AddressGuard(network for network in LOOPBACK if network in networks)
    return Http01(Resolver.build(dns.address, SECONDS / 2), Fetcher(guard, SECONDS), port, SECONDS)


async def refusal(http01: Http01, identifier: Identifier = SITE) -> ValidationError:
    """Validate and return the error, which must come within the deadline."""
    begin = time.monotonic()
    with pytest.raises(ValidationError) as failed:
        await http01.validate(attempt("http-01", identifier))
    assert time.monotonic() - begin < SECONDS + 0.5
    assert failed.value.detail.isprintable()
    return failed.value
