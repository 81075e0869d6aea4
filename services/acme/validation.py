"""Validation of challenges: chooses the method and bounds how many run at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, Self

from pkicore.clock import Clock
from services.acme.caa import Caa, CaaChecked, CaaSettings
from services.acme.challenges import CHALLENGE_TYPES, offered
from services.acme.challenges.attempt import Attempt, PerspectiveAnswer
from services.acme.challenges.dns01 import Dns01, account_record_name
from services.acme.challenges.dns_persist01 import DnsPersist01
from services.acme.challenges.fetch import Fetcher
from services.acme.challenges.http01 import Http01
from services.acme.challenges.tlsalpn01 import TlsAlpn01
from services.acme.errors import AcmeError, ValidationError
from services.acme.fair_slots import RETRY_AFTER_SECONDS, FairSlots
from services.chassis.outbound.addresses import AddressGuard, IPNetwork
from services.chassis.outbound.resolver import Resolver
from services.chassis.tracing import step

# A validation waits on the network, not on the processor; this many sockets per method are easily held open.
CONCURRENT_VALIDATIONS = 64
WAITING_VALIDATIONS = 1024
# An order of a hundred names is answered all at once by some clients: they wait here, out of the others' way.
CONCURRENT_PER_ACCOUNT = 8
WAITING_PER_ACCOUNT = 256
# Of the time for a whole validation, the share one look-up may take: a slow name server is then named as the reason.
LOOKUP_SHARE = 0.6


class ValidationSettings(CaaSettings, Protocol):
    """The settings that validation reads."""

    @property
    def http01_port(self) -> int:
        """Port of the first http-01 request."""

    @property
    def tlsalpn01_port(self) -> int:
        """Port of tls-alpn-01."""

    @property
    def allowed_networks(self) -> Sequence[IPNetwork]:
        """Reserved networks that may be dialled all the same."""


class ChallengeMethod(Protocol):
    """One way to prove control."""

    async def validate(self, attempt: Attempt) -> None:
        """Return when control is proven; raise ValidationError when it is not."""


class Validator:
    """Runs validations, each method within its own number of slots, so that a slow one does not starve the others.

    Of one account only so many run at once, so that one with a thousand names that never answer starves nobody either;
    and accounts share the slots of a method fairly, so that a few of them do not.
    """

    def __init__(
        self,
        methods: Mapping[str, ChallengeMethod],
        *,
        concurrent: int = CONCURRENT_VALIDATIONS,
        waiting: int = WAITING_VALIDATIONS,
        per_account: int = CONCURRENT_PER_ACCOUNT,
        waiting_per_account: int = WAITING_PER_ACCOUNT,
    ) -> None:
        self._methods = {
            name: (method, FairSlots(concurrent, waiting, f"{name} validations")) for name, method in methods.items()
        }
        self._accounts: dict[str, _Slots] = {}
        self._per_account = per_account
        self._waiting_per_account = waiting_per_account

    @classmethod
    def build(cls, settings: ValidationSettings, clock: Clock, challenges: Collection[str] = CHALLENGE_TYPES) -> Self:
        """Make the validator of all methods, or of those in `challenges`.

        Raises:
            ValueError: the resolver setting is not an address.
        """
        seconds = settings.validation_timeout_seconds
        resolver = Resolver.build(settings.resolver, seconds * LOOKUP_SHARE, settings.resolvers)
        guard = AddressGuard(settings.allowed_networks)
        methods: dict[str, ChallengeMethod] = {
            "http-01": Http01(resolver, Fetcher(guard, seconds), settings.http01_port, seconds),
            "tls-alpn-01": TlsAlpn01(resolver, guard, settings.tlsalpn01_port, seconds),
            "dns-01": Dns01(resolver, seconds),
            "dns-account-01": Dns01(resolver, seconds, account_record_name),
            "dns-persist-01": DnsPersist01(resolver, settings.caa_identities, seconds, clock),
        }
        caa = Caa.build(settings)
        if caa is not None:
            methods = {name: CaaChecked(method, caa) for name, method in methods.items()}
        return cls({name: method for name, method in methods.items() if name in challenges})

    async def validate(self, attempt: Attempt) -> tuple[PerspectiveAnswer, ...]:
        """Validate one challenge; waits for a free slot.

        Returns:
            What remote perspectives saw; empty where there are none.

        Raises:
            ValidationError: control is not proven.
            AcmeError: "rateLimited", when too many validations wait already; nothing was tried.
        """
        found = self._methods.get(attempt.type)
        if found is None:
            raise ValidationError("malformed", f"{attempt.type} is not a challenge type of this server")
        if not offered(attempt.identifier, wildcard=attempt.wildcard, allowed=(attempt.type,)):
            raise ValidationError("malformed", f"{attempt.type} does not prove control of such an identifier")
        account = self._accounts.get(attempt.account_url)
        if account is None:
            account = _Slots(self._per_account, self._waiting_per_account)
            self._accounts[attempt.account_url] = account
        try:
            method, slots = found
            async with account.one("validations of this account"), slots.one(attempt.account_url):
                with step("validate", attempt.type, "client"):
                    await method.validate(attempt)
        finally:
            if not account.taken:
                self._accounts.pop(attempt.account_url, None)
        return ()


class _Slots:
    """Lets so many work at once and so many more wait."""

    def __init__(self, concurrent: int, waiting: int) -> None:
        self.taken = 0
        self._free = asyncio.Semaphore(concurrent)
        self._limit = concurrent + waiting

    @asynccontextmanager
    async def one(self, what: str) -> AsyncIterator[None]:
        """Wait for a slot and keep it.

        Raises:
            AcmeError: "rateLimited", when too many wait.
        """
        if self.taken >= self._limit:
            raise AcmeError(
                "rateLimited",
                f"too many {what} are waiting; try again in {RETRY_AFTER_SECONDS} seconds",
                headers=((b"retry-after", b"%d" % RETRY_AFTER_SECONDS),),
            )
        self.taken += 1
        try:
            async with self._free:
                yield
        finally:
            self.taken -= 1
