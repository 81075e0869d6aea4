"""Many signatures at once, for an API that makes one per request."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from services.signer_hsm.errors import BackendError, BadAnswerError, NotOfferedError, gravest

SignOne = Callable[[bytes], Awaitable[bytes]]


async def sign_each(payloads: Sequence[bytes], sign_one: SignOne, at_once: int) -> list[bytes | BackendError]:
    """Sign each payload; what is wrong with one payload spares the rest, what is wrong with the back end does not.

    Args:
        payloads: in the order of the answer.
        sign_one: makes one signature.
        at_once: how many requests may be under way.

    Raises:
        BackendError: none could be signed.
    """
    outcomes: dict[int, bytes | BackendError] = {}
    broken: list[BackendError] = []
    waiting = iter(enumerate(payloads))

    async def work() -> None:
        for index, payload in waiting:
            if broken:
                outcomes[index] = broken[0]
                continue
            try:
                outcomes[index] = await sign_one(payload)
            except BackendError as error:
                outcomes[index] = error
                if not isinstance(error, NotOfferedError | BadAnswerError):
                    broken.append(error)

    await asyncio.gather(*(work() for _ in range(min(at_once, len(payloads)))))
    answers = [outcomes[index] for index in range(len(payloads))]
    for answer in answers:
        if not isinstance(answer, BackendError):
            return answers
    raise gravest([answer for answer in answers if isinstance(answer, BackendError)])
