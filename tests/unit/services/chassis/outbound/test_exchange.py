import httpx
import pytest

from pkicore.errors import MalformedError
from services.chassis.errors import NotResolvedError
from services.chassis.outbound.exchange import _Connection, addresses_of
from services.chassis.outbound.resolver import Resolver


async def test_what_comes_before_the_request_is_no_answer() -> None:
    """Octets that were sent before the request, such as plain text before a TLS handshake, are refused."""
    connection = _Connection(1000, lambda _: False)
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    connection.connection_lost(None)
    with pytest.raises(MalformedError, match="before the request"):
        await connection.answer


@pytest.mark.parametrize("zone", ["%25evil.example", "%25", "%251", "%25lo"])
async def test_address_with_a_zone_is_not_looked_up(zone: str) -> None:
    """A URL with a zone (RFC 6874) has no address that could be dialled."""
    with pytest.raises(NotResolvedError, match="zone"):
        await addresses_of(httpx.URL(f"http://[2606:4700::1{zone}]/"), Resolver.build("127.0.0.1:1", 1))
