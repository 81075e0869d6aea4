import asyncio
import threading

import pytest

from services.chassis.asgi import AsgiApp, Message, Receive, Scope, Send
from services.chassis.first_use import OnFirstUse


async def _nothing() -> Message:
    return {}


async def _dropped(_message: object) -> None:
    """Nobody listens."""


async def test_it_is_made_once_and_never_on_the_event_loop() -> None:
    """Requests that come together share one application, made in a thread."""
    made: list[int] = []
    paths: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        paths.append(scope["path"])

    def make() -> AsgiApp:
        made.append(threading.get_ident())
        return app

    late = OnFirstUse(make)
    assert made == []
    await asyncio.gather(*(late({"path": f"/{number}"}, _nothing, _dropped) for number in range(3)))
    assert sorted(paths) == ["/0", "/1", "/2"]
    assert len(made) == 1
    assert made[0] != threading.get_ident()


async def test_what_cannot_be_made_is_tried_again() -> None:
    """The request that found it out fails; the next one is served."""
    calls: list[str] = []

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        calls.append("served")

    def make() -> AsgiApp:
        calls.append("made")
        if len(calls) == 1:
            raise OSError("too many open files")
        return app

    late = OnFirstUse(make)
    with pytest.raises(OSError, match="too many"):
        await late({}, _nothing, _dropped)
    await late({}, _nothing, _dropped)
    assert calls == ["made", "made", "served"]
