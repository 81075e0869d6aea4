"""TCP to one of the addresses that were checked, whatever host was meant: nothing is looked up a second time."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import TypeVar

from services.chassis.outbound.addresses import IPAddress

P = TypeVar("P", bound=asyncio.Protocol)


async def dial(
    addresses: Sequence[IPAddress], port: int, protocol: Callable[[], P], seconds: float
) -> tuple[asyncio.Transport, P]:
    """Connect to the first address that accepts it; `seconds` are for all of them together.

    Raises:
        OSError: none did; that of the last.
    """
    failure: OSError = ConnectionError("no address")
    for address in addresses:
        try:
            async with asyncio.timeout(seconds / (len(addresses) + 1)):
                host = str(type(address)(address.packed))  # no zone, which only the system's resolver would understand
                return await asyncio.get_running_loop().create_connection(
                    protocol, host, port, flags=socket.AI_NUMERICHOST
                )
        except OSError as error:
            failure = error
    raise failure


def reason_of(error: OSError) -> str:
    """Why there is no connection, or why it ended, in the system's words and not the peer's."""
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed ({error.reason})"
    return os.strerror(error.errno) if error.errno else str(error) or "the connection was closed before an answer"
