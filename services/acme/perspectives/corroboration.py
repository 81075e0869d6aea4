"""How many must agree: the primary always, and of the remote perspectives a quorum."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol, cast

import structlog
from prometheus_client import CollectorRegistry, Counter

from services.acme.challenges.attempt import Attempt, PerspectiveAnswer
from services.acme.errors import ValidationError, ValidationFailure
from services.acme.perspectives.endpoint import Validates

UNANSWERED: Final = "serverInternal"
"""The error type of a perspective that gave no answer, or none that makes sense."""
GRACE_SECONDS: Final = 0.5
"""How long the others may take once the outcome is certain, so that what they saw is on record too."""


class Perspective(Protocol):
    """One place of the network; `services.acme.perspectives.remote.RemotePerspectives` makes them."""

    @property
    def name(self) -> str:
        """As the settings call it."""

    async def look(self, attempt: Attempt) -> PerspectiveAnswer:
        """What it sees of an attempt; never raises but when it is cancelled."""


class Answers:
    """Counts what the perspectives answer: one that fails alone is broken, or sees what others should not."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counter = Counter(
            "pqcpki_acme_perspective_answers_total",
            "Validations by remote perspectives, by what came of them.",
            ("perspective", "result"),
            registry=registry,
        )

    def count(self, answer: PerspectiveAnswer) -> None:
        """One more."""
        self._counter.labels(answer.perspective, answer.error or "valid").inc()


class Corroborated:
    """A validator that believes nothing that it alone has seen.

    Args:
        primary: this server's own validation. It comes first: what it refuses is not worth the others' time.
        perspectives: the remote ones.
        quorum: how many of these must see the proof.
        answers: counts theirs.
        grace_seconds: how long answers are waited for that change nothing.
    """

    def __init__(
        self,
        primary: Validates,
        perspectives: Sequence[Perspective],
        quorum: int,
        answers: Answers,
        *,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        if not 0 < quorum <= len(perspectives):
            raise ValueError("a quorum is at least one perspective and at most all")
        self._primary = primary
        self._perspectives = tuple(perspectives)
        self._quorum = quorum
        self._answers = answers
        self._grace_seconds = grace_seconds

    async def validate(self, attempt: Attempt) -> tuple[PerspectiveAnswer, ...]:
        """Validate one challenge from everywhere.

        Returns:
            What each remote perspective saw, in the order of the settings.

        Raises:
            ValidationError: control is not proven, here or to too few others; `answers` says what they saw.
            AcmeError: nothing was tried.
        """
        await self._primary.validate(attempt)
        answers = await self._ask(attempt)
        for answer in answers:
            self._answers.count(answer)
        seen = sum(answer.error is None for answer in answers)
        if seen < self._quorum:
            structlog.get_logger("acme.perspectives").warning(
                "validation not corroborated",
                name=attempt.identifier.value,
                method=attempt.type,
                answers={answer.perspective: answer.error or "valid" for answer in answers},
            )
            raise self._refusal(answers, seen)
        return answers

    async def _ask(self, attempt: Attempt) -> tuple[PerspectiveAnswer, ...]:
        """All at once. Who has not answered when the outcome is certain has a little time left."""
        tasks = {asyncio.create_task(each.look(attempt)): each.name for each in self._perspectives}
        pending = set(tasks)
        try:
            while pending and not self._is_certain(tasks.keys() - pending, pending):
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if pending:
                _, pending = await asyncio.wait(pending, timeout=self._grace_seconds)
            for task in tasks.keys() - pending:
                self._log_failure(task, tasks[task])
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        return tuple(_late(name) if task in pending else _answer(task, name) for task, name in tasks.items())

    def _is_certain(
        self, done: set[asyncio.Task[PerspectiveAnswer]], pending: set[asyncio.Task[PerspectiveAnswer]]
    ) -> bool:
        seen = sum(_answer(task, "").error is None for task in done)
        return seen >= self._quorum or seen + len(pending) < self._quorum

    def _log_failure(self, task: asyncio.Task[PerspectiveAnswer], name: str) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            structlog.get_logger("acme.perspectives").error(
                "asking a perspective failed", perspective=name, exc_info=error
            )

    def _refusal(self, answers: tuple[PerspectiveAnswer, ...], seen: int) -> ValidationError:
        failed = [answer for answer in answers if answer.error is not None]
        first = next((answer for answer in failed if answer.error != UNANSWERED), failed[0])
        sentence = (
            f"this server saw the proof, but only {seen} of {len(answers)} other places of the network did, where "
            f"{self._quorum} must; at {first.perspective}: {first.detail}"
        )
        return ValidationError(cast("ValidationFailure", first.error), sentence, answers=answers)


def _answer(task: asyncio.Task[PerspectiveAnswer], name: str) -> PerspectiveAnswer:
    """What has come; a perspective that fails on our side has seen nothing, and the others still count."""
    if task.cancelled() or task.exception() is not None:
        return PerspectiveAnswer(name, UNANSWERED, "asking it failed")
    return task.result()


def _late(name: str) -> PerspectiveAnswer:
    return PerspectiveAnswer(name, UNANSWERED, "it had not answered when the others' answers had decided")
