from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pkicore.errors import KeyUnavailableError
from services.chassis.observability import begin_request, current_request_id
from services.signer_hsm.client import BadPayloadError, SignerUnavailableError
from services.signer_hsm.client.coalescing import Coalescing, Place, Signed
from services.signer_hsm.wire import MAX_PAYLOADS, SignatureProblem

PLACE = Place("ca.k", 1, "digest", "ES256")


class Signer:
    """Stands for signer-hsm: answers when told to, and remembers what it was asked.

    Attributes:
        requests: the payloads of each request.
        ids: the request id under which each came.
    """

    def __init__(self) -> None:
        self.requests: list[list[bytes]] = []
        self.ids: list[str | None] = []
        self._doors: list[asyncio.Future[None]] = []

    async def send(self, place: Place, payloads: Sequence[bytes]) -> Sequence[Signed]:
        """One request; a payload `bad` spoils it, `lost` breaks the connection, `odd` has a problem of its own."""
        assert place == PLACE
        self.requests.append([*payloads])
        self.ids.append(current_request_id())
        door = asyncio.get_running_loop().create_future()
        self._doors.append(door)
        await door
        if b"lost" in payloads:
            raise SignerUnavailableError("gone")
        if b"bad" in payloads:
            raise BadPayloadError("bad")
        return [SignatureProblem("wrong-state", "odd") if one == b"odd" else b"signed " + one for one in payloads]

    async def answer(self) -> None:
        """Let every request that is under way have its answer."""
        await settle()
        doors, self._doors = self._doors, []
        for door in doors:
            door.set_result(None)
        await settle()


async def settle() -> None:
    """Let every task come to where it waits for the signer."""
    for _ in range(10):
        await asyncio.sleep(0)


def coalescing(signer: Signer) -> Coalescing:
    """What is tested, in front of that signer."""
    return Coalescing(signer.send, BadPayloadError)


def wanted(together: Coalescing, *payloads: bytes) -> list[asyncio.Task[Signed]]:
    """As many callers at once."""
    return [asyncio.ensure_future(together.sign(PLACE, payload)) for payload in payloads]


async def test_a_signature_alone_leaves_at_once() -> None:
    """Nothing waits for company, and the answer is its own."""
    signer = Signer()
    (task,) = wanted(coalescing(signer), b"1")
    await signer.answer()
    assert signer.requests == [[b"1"]]
    assert await task == b"signed 1"


async def test_what_is_wanted_meanwhile_leaves_together() -> None:
    """Two requests are under way; the next takes all who have come since, in their order."""
    signer = Signer()
    tasks = wanted(coalescing(signer), *[b"%d" % number for number in range(7)])
    await signer.answer()
    assert signer.requests == [[b"0"], [b"1"], [b"2", b"3", b"4", b"5", b"6"]]
    await signer.answer()
    assert [await task for task in tasks] == [b"signed %d" % number for number in range(7)]


async def test_a_batch_is_bounded() -> None:
    """No request has more payloads than signer-hsm takes."""
    signer = Signer()
    tasks = wanted(coalescing(signer), *[b"%d" % number for number in range(200)])
    while not all(task.done() for task in tasks):
        await signer.answer()
    assert [len(request) for request in signer.requests] == [1, 1, MAX_PAYLOADS, MAX_PAYLOADS, MAX_PAYLOADS, 6]


@pytest.mark.parametrize(("at_once", "most"), [(1, 2), (2, 2), (3, 3), (32, 32)])
async def test_as_many_requests_as_the_back_end_works_on(at_once: int, most: int) -> None:
    """More of them would wait there; two are the least."""
    signer = Signer()
    together = coalescing(signer)
    together.learn(PLACE.key_id, at_once)
    tasks = wanted(together, *[b"%d" % number for number in range(40)])
    await settle()
    assert len(signer.requests) == most
    while not all(task.done() for task in tasks):
        await signer.answer()


async def test_a_refused_batch_is_asked_for_one_by_one() -> None:
    """Who asked for nonsense is refused; the others, who shared its request, have theirs, never two at once."""
    signer = Signer()
    tasks = wanted(coalescing(signer), b"0", b"1", b"2", b"bad", b"4")
    for asked in (2, 3, 4, 5, 6):
        await signer.answer()
        assert len(signer.requests) == min(asked + 1, 6)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers.pop(3), BadPayloadError)
    assert answers == [b"signed 0", b"signed 1", b"signed 2", b"signed 4"]
    assert signer.requests == [[b"0"], [b"1"], [b"2", b"bad", b"4"], [b"2"], [b"bad"], [b"4"]]


async def test_a_lost_batch_is_not_repeated() -> None:
    """What may have been signed is not asked for again; everybody in the request learns of it."""
    signer = Signer()
    tasks = wanted(coalescing(signer), b"0", b"1", b"2", b"lost")
    await signer.answer()
    await signer.answer()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers[:2] == [b"signed 0", b"signed 1"]
    assert all(isinstance(answer, KeyUnavailableError) for answer in answers[2:])
    assert len(signer.requests) == 3


async def test_a_problem_of_one_payload_is_its_own() -> None:
    """A batch that is answered in part has its problem at the payload that met it."""
    signer = Signer()
    tasks = wanted(coalescing(signer), b"0", b"1", b"2", b"odd")
    await signer.answer()
    await signer.answer()
    assert [await task for task in tasks][2:] == [b"signed 2", SignatureProblem("wrong-state", "odd")]


async def test_a_caller_that_goes_away() -> None:
    """One that waits is not asked for; one whose request is under way takes nobody's signature along."""
    signer = Signer()
    tasks = wanted(coalescing(signer), b"0", b"1", b"2", b"3", b"4")
    await settle()
    tasks[0].cancel()
    tasks[3].cancel()
    await signer.answer()
    await signer.answer()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert signer.requests == [[b"0"], [b"1"], [b"2", b"4"]]
    assert [answers[number] for number in (1, 2, 4)] == [b"signed 1", b"signed 2", b"signed 4"]
    assert all(isinstance(answers[number], asyncio.CancelledError) for number in (0, 3))


async def test_each_request_carries_the_id_of_one_that_it_serves() -> None:
    """Never that of a request which was answered before."""
    signer = Signer()
    together = coalescing(signer)

    async def serve(number: int) -> None:
        begin_request(f"id-{number}")
        await together.sign(PLACE, b"%d" % number)

    tasks = [asyncio.ensure_future(serve(number)) for number in range(4)]
    await signer.answer()
    await signer.answer()
    await asyncio.gather(*tasks)
    assert signer.ids == ["id-0", "id-1", "id-2"]


async def test_places_at_rest_are_forgotten() -> None:
    """A client that signs with ever new keys does not grow for ever."""

    async def send(_: Place, payloads: Sequence[bytes]) -> Sequence[Signed]:
        return payloads

    together = Coalescing(send, BadPayloadError)
    for number in range(3000):
        await together.sign(PLACE._replace(key_id=f"ca.k{number}"), b"1")
    assert len(together._queues) <= 1024
