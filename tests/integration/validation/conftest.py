from collections.abc import AsyncIterator

import pytest

from services.acme.challenges.http01 import Http01
from tests.support.dns_server import DnsSimulator
from tests.support.http01_validation import build
from tests.support.http_challenge import HttpChallengeServer


@pytest.fixture
async def dns() -> AsyncIterator[DnsSimulator]:
    """DNS in which site.test and other.test are at 127.0.0.1."""
    async with DnsSimulator() as simulator:
        simulator.set("site.test", A=["127.0.0.1"])
        simulator.set("other.test", A=["127.0.0.1"])
        yield simulator


@pytest.fixture
async def web() -> AsyncIterator[HttpChallengeServer]:
    """The applicant's web server."""
    async with HttpChallengeServer() as server:
        yield server


@pytest.fixture
def http01(dns: DnsSimulator, web: HttpChallengeServer) -> Http01:
    """The validator, which may dial loopback."""
    return build(dns, web.port)
