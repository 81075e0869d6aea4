import asyncio
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from services.acme.challenges.attempt import Attempt, PerspectiveAnswer
from services.acme.errors import AcmeError, ValidationError
from services.acme.perspectives.corroboration import UNANSWERED, Answers, Corroborated, Perspective
from tests.support.attempts import attempt

ATTEMPT = attempt("dns-01")


@dataclass
class Primary:
    """This server's own validation, which ends as it is told."""

    error: AcmeError | None = None

    async def validate(self, attempt: Attempt) -> tuple[PerspectiveAnswer, ...]:
        """End."""
        assert attempt == ATTEMPT
        if self.error is not None:
            raise self.error
        return ()


@dataclass
class Place:
    """A perspective that answers as it is told, or never."""

    name: str
    error: str | None = None
    silent: bool = False
    asked: int = 0
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def look(self, attempt: Attempt) -> PerspectiveAnswer:
        """Answer."""
        assert attempt == ATTEMPT
        self.asked += 1
        try:
            await (asyncio.Event().wait() if self.silent else asyncio.sleep(0))
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return PerspectiveAnswer(self.name, self.error, f"{self.name} saw {self.error}" if self.error else "")


def places(letters: str) -> list[Place]:
    """One per letter: v sees the proof, d a DNS error, u cannot be asked, s is silent."""
    errors = {"d": "dns", "u": UNANSWERED}
    return [Place(f"p{n}", errors.get(letter), letter == "s") for n, letter in enumerate(letters)]


def corroborated(
    found: list[Place], quorum: int, *, primary: Primary | None = None, registry: CollectorRegistry | None = None
) -> Corroborated:
    """A validator with these perspectives, which hardly waits for late ones."""
    answers = Answers(registry or CollectorRegistry())
    return Corroborated(primary or Primary(), found, quorum, answers, grace_seconds=0.01)


@pytest.mark.parametrize(
    ("letters", "quorum", "errors"),
    [
        ("v", 1, [None]),
        ("vv", 1, [None, None]),
        ("vd", 1, [None, "dns"]),
        ("dv", 1, ["dns", None]),
        ("vvu", 2, [None, None, UNANSWERED]),
        ("svv", 2, [UNANSWERED, None, None]),
        ("vvvvdu", 4, [None, None, None, None, "dns", UNANSWERED]),
    ],
)
async def test_a_quorum_is_enough(letters: str, quorum: int, errors: list[str | None]) -> None:
    """Where so many agree the proof is believed, and every answer is handed on in the order of the settings."""
    found = await corroborated(places(letters), quorum).validate(ATTEMPT)
    assert [answer.error for answer in found] == errors
    assert [answer.perspective for answer in found] == [f"p{n}" for n in range(len(letters))]


@pytest.mark.parametrize(
    ("letters", "quorum", "error"),
    [
        ("d", 1, "dns"),
        ("u", 1, UNANSWERED),
        ("dd", 1, "dns"),
        ("vd", 2, "dns"),
        ("uvd", 2, "dns"),
        ("vuu", 2, UNANSWERED),
        ("dsd", 2, "dns"),
        ("vvvddd", 4, "dns"),
    ],
)
async def test_less_than_a_quorum_is_a_failure(letters: str, quorum: int, error: str) -> None:
    """Where too few agree, or can be asked, the proof is not believed, and what was seen elsewhere is the reason."""
    with pytest.raises(ValidationError) as failure:
        await corroborated(places(letters), quorum).validate(ATTEMPT)
    assert failure.value.acme_type == error
    assert [answer.perspective for answer in failure.value.answers] == [f"p{n}" for n in range(len(letters))]
    seen = sum(letter == "v" for letter in letters)
    assert failure.value.detail.startswith(
        f"this server saw the proof, but only {seen} of {len(letters)} other places of the network did, where {quorum}"
    )


@pytest.mark.parametrize("error", [ValidationError("dns", "no proof"), AcmeError("rateLimited", "later")])
async def test_nobody_makes_up_for_the_primary(error: AcmeError) -> None:
    """However many others would vouch for it, what this server does not see is not valid, and nobody is asked."""
    willing = places("vvv")
    with pytest.raises(AcmeError) as failure:
        await corroborated(willing, 1, primary=Primary(error)).validate(ATTEMPT)
    assert failure.value is error
    assert [place.asked for place in willing] == [0, 0, 0]


@pytest.mark.parametrize(("letters", "quorum"), [("vs", 1), ("ds", 2)])
async def test_nobody_is_waited_for_once_it_is_certain(letters: str, quorum: int) -> None:
    """A silent perspective whose answer changes nothing delays the outcome by the grace alone, and is let go."""
    asked = places(letters)
    async with asyncio.timeout(20):
        await asyncio.gather(corroborated(asked, quorum).validate(ATTEMPT), return_exceptions=True)
    assert asked[1].cancelled.is_set()


async def test_a_validation_that_is_given_up_asks_nobody_any_more() -> None:
    """Where the server stops, so do the questions under way."""
    silent = places("ss")
    task = asyncio.create_task(corroborated(silent, 2).validate(ATTEMPT))
    while not silent[1].asked:  # noqa: ASYNC110 - what is awaited has no event of its own
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(place.cancelled.is_set() for place in silent)


async def test_answers_are_counted() -> None:
    """An operator sees which perspective stands alone."""
    registry = CollectorRegistry()
    await corroborated(places("vd"), 1, registry=registry).validate(ATTEMPT)
    for perspective, result in (("p0", "valid"), ("p1", "dns")):
        labels = {"perspective": perspective, "result": result}
        assert registry.get_sample_value("pqcpki_acme_perspective_answers_total", labels) == 1


@pytest.mark.parametrize("quorum", [0, 3])
def test_a_quorum_of_nobody_is_none(quorum: int) -> None:
    """None, and more than there are, cannot be meant."""
    with pytest.raises(ValueError, match="quorum"):
        corroborated(places("vv"), quorum)


@dataclass
class Broken:
    """A perspective that cannot even be asked properly."""

    name: str
    error: Exception

    async def look(self, attempt: Attempt) -> PerspectiveAnswer:
        """Fail."""
        assert attempt == ATTEMPT
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError("r"), asyncio.IncompleteReadError(b"", 1), ValueError("v")], ids=repr)
async def test_a_failure_of_one_is_an_answer_that_is_missing(error: Exception) -> None:
    """Whatever goes wrong with one perspective, the others decide, and its reason is told to nobody outside."""
    found: list[Perspective] = [Broken("broken", error), *places("vv")]
    answers = Answers(CollectorRegistry())
    seen = await Corroborated(Primary(), found, 2, answers, grace_seconds=0.01).validate(ATTEMPT)
    assert [answer.error for answer in seen] == [UNANSWERED, None, None]
    with pytest.raises(ValidationError) as failure:
        await Corroborated(Primary(), found, 3, answers, grace_seconds=0.01).validate(ATTEMPT)
    assert failure.value.answers[0] == PerspectiveAnswer("broken", UNANSWERED, "asking it failed")
