"""An ASGI application that is made when it is first asked: what is slow to load and rarely called costs no start."""

import asyncio
from collections.abc import Callable

from services.chassis.asgi import AsgiApp, Receive, Scope, Send


class OnFirstUse:
    """Stands for the application that `make` gives.

    Args:
        make: Imports what it takes and makes the application; runs once, in a thread, so that other requests go on.
    """

    def __init__(self, make: Callable[[], AsgiApp]) -> None:
        self._make = make
        self._app: AsgiApp | None = None
        self._making = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        async with self._making:
            if self._app is None:
                self._app = await asyncio.to_thread(self._make)
        await self._app(scope, receive, send)
