import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from cryptography import x509

from pkicore.clock import unix
from pkicore.ocsp import build_request, verify_response
from pkicore.x509.certificate import load_chain
from services.ca.ledger.store.search import LedgerSearch
from services.ca.warm_answers import RESTS, WarmAnswers
from services.ca.wire import IssuedCertificate, RevocationRequest
from tests.support.ca_world import ACME, CaWorld, server_request
from tests.support.pki import PROFILES


def leaf_of(issued: IssuedCertificate) -> x509.Certificate:
    """The certificate of an answer."""
    return load_chain(issued.certificate.encode())[0]


def is_ready(world: CaWorld, leaf: x509.Certificate) -> bool:
    """Whether the usual request has its answer already, and a good one."""
    request = build_request(leaf, world.issuer())
    kept = world.core.answers.ready(request, unix(world.clock.now()))
    if kept is not None:
        verify_response(kept.answer.der, leaf, world.issuer(), world.clock.now())
    return kept is not None


@asynccontextmanager
async def running(warm: WarmAnswers) -> AsyncIterator[None]:
    """The background task under test."""
    task = asyncio.create_task(warm.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    """Waits for the background task."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the loop under test is what is waited for
            await asyncio.sleep(0.01)


async def test_a_new_certificate_has_its_answer_before_anybody_asks(world: CaWorld) -> None:
    """Issued through the API, while the task has nothing else to do."""
    async with running(world.core.warm), world.internal(ACME) as http:
        await asyncio.sleep(0.05)
        answer = await http.post(
            "/v1/certificates",
            content=server_request("a.example").to_json(),
            headers={"content-type": "application/json"},
        )
        leaf = leaf_of(IssuedCertificate.from_json(answer.content))
        await until(lambda: is_ready(world, leaf))


async def test_a_start_makes_the_newest_answers_up_to_a_bound(world: CaWorld) -> None:
    """Six of eight places, for the six newest; revoked ones have theirs, too."""
    leaves = []
    for number in range(8):
        leaves.append(leaf_of(await world.issue("a.example", idempotency_key=str(number))))
        world.clock.advance(timedelta(seconds=1))
    await world.core.revoker.revoke(ACME, RevocationRequest("superseded", serial=f"{leaves[3].serial_number:x}"))
    async with running(world.core.warm):
        await until(lambda: world.core.answers.kept == 6)
        await asyncio.sleep(0.2)
    now = unix(world.clock.now())
    requests = [build_request(leaf, world.issuer()) for leaf in leaves]
    assert [world.core.answers.ready(each, now) is not None for each in requests] == [False] * 2 + [True] * 6


async def test_only_what_names_a_responder_is_made(world: CaWorld) -> None:
    """The responders' own certificates, which were there before, name none."""
    await world.issue("a.example")
    async with running(world.core.warm):
        await until(lambda: world.core.answers.kept == 1)
        world.core.warm.issued("ocsp-responder", await world.issue("a.example", idempotency_key="2"))
        await asyncio.sleep(0.3)
    assert world.core.answers.kept == 1


async def test_it_rests_longer_than_it_works(world: CaWorld) -> None:
    """Of any time in which there is something to do, a twentieth at most is spent on it."""
    worked, rested = [time.monotonic()], list[float]()

    async def rest(seconds: float) -> None:
        worked[-1] = time.monotonic() - worked[-1]
        rested.append(seconds)
        await asyncio.sleep(0)
        worked.append(time.monotonic())

    core = world.core
    warm = WarmAnswers(core.answers, LedgerSearch(world.database), core.hierarchy, PROFILES, world.clock, rest)
    for number in range(4):
        warm.issued("server", await world.issue("a.example", idempotency_key=str(number)))
    async with running(warm):
        await until(lambda: len(rested) > 5)
    assert core.answers.kept == 4
    assert all(rest > 0.8 * RESTS * work for work, rest in zip(worked[1:4], rested[1:4], strict=True))


async def test_it_waits_while_certificates_are_issued(world: CaWorld) -> None:
    """None is made as long as each moment has a new certificate; all of them once there is a quiet one."""
    core, kept, issued = world.core, list[int](), await world.issue("a.example")

    async def rest(_: float) -> None:
        await asyncio.sleep(0)
        kept.append(core.answers.kept)
        if len(kept) < 4:
            warm.issued("server", issued)

    warm = WarmAnswers(core.answers, LedgerSearch(world.database), core.hierarchy, PROFILES, world.clock, rest)
    warm.issued("server", issued)
    async with running(warm):
        await until(lambda: core.answers.kept == 1)
    assert kept[:4] == [0, 0, 0, 0]
