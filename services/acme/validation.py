"""Validation of challenges: chooses the method and bounds how many run at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol, Self

from services.acme.challenges.attempt import Attempt, PerspectiveAnswer
from services.acme.challenges.dns01 import Dns01
from services.acme.challenges.fetch import Fetcher
from services.acme.challenges.http01 import Http01
from services.acme.errors import AcmeError, ValidationError
from services.chassis.outbound.addresses import AddressGuard, IPNetwork
from services.chassis.outbound.resolver import Resolver

# A validation waits on the network, not on the processor; this many sockets per method are easily held open.
CONCURRENT_VALIDATIONS = 64
WAITING_VALIDATIONS = 1024
RETRY_AFTER_SECONDS = 5
# Of the time for a whole validation, the share one look-up may take: a slow name server is then named as the reason.
LOOKUP_SHARE = 0.6


class ValidationSettings(Protocol):
    """The settings that validation reads."""

    @property
    def resolver(self) -> str:
        """DNS server as "host:port"; empty for the system's."""

    @property
    def http01_port(self) -> int:
        """Port of the first http-01 request."""

    @property
    def allowed_networks(self) -> Sequence[IPNetwork]:
        """Reserved networks that may be dialled all the same."""

    @property
    def validation_timeout_seconds(self) -> float:
        """Time for one validation with all its look-ups and redirects."""


class ChallengeMethod(Protocol):
    """One way to prove control."""

    async def validate(self, attempt: Attempt) -> None:
        """Return when control is proven; raise ValidationError when it is not."""


class Validator:
    """Runs validations, each method within its own number of slots, so that a slow one does not starve the others."""

    def __init__(
        self,
        methods: Mapping[str, ChallengeMethod],
        *,
        concurrent: int = CONCURRENT_VALIDATIONS,
        waiting: int = WAITING_VALIDATIONS,
    ) -> None:
        self._methods = dict(methods)
        self._slots = {name: asyncio.Semaphore(concurrent) for name in methods}
        self._running = dict.fromkeys(methods, 0)
        self._limit = concurrent + waiting

    @classmethod
    def build(cls, settings: ValidationSettings) -> Self:
        """Make the validator of http-01 and dns-01.

        Raises:
            ValueError: the resolver setting is not an address.
        """
        seconds = settings.validation_timeout_seconds
        resolver = Resolver.build(settings.resolver, lifetime=seconds * LOOKUP_SHARE)
        fetcher = Fetcher(AddressGuard(settings.allowed_networks), seconds)
        return cls(
            {
                "http-01": Http01(resolver, fetcher, settings.http01_port, seconds),
                "dns-01": Dns01(resolver, seconds),
            }
        )

    async def validate(self, attempt: Attempt) -> tuple[PerspectiveAnswer, ...]:
        """Validate one challenge; waits for a free slot.

        Returns:
            What remote perspectives saw; empty where there are none.

        Raises:
            ValidationError: control is not proven.
            AcmeError: "rateLimited", when too many validations wait already; nothing was tried.
        """
        challenge_type = attempt.type
        method = self._methods.get(challenge_type)
        if method is None:
            raise ValidationError("malformed", f"{challenge_type} is not a challenge type of this server")
        if self._running[challenge_type] >= self._limit:
            raise AcmeError(
                "rateLimited",
                f"too many {challenge_type} validations are waiting; try again in {RETRY_AFTER_SECONDS} seconds",
                headers=((b"retry-after", b"%d" % RETRY_AFTER_SECONDS),),
            )
        self._running[challenge_type] += 1
        try:
            async with self._slots[challenge_type]:
                await method.validate(attempt)
        finally:
            self._running[challenge_type] -= 1
        return ()
