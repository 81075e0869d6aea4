"""How often somebody may do something (RFC 8555 §6.6): token buckets, exact across replicas.

| limit                          | a token is taken by               | from the bucket of                    |
|--------------------------------|-----------------------------------|---------------------------------------|
| accounts_per_address           | a new account                     | an IPv4 address, or an IPv6 /64       |
| orders_per_account             | a new order or authorization      | its account                           |
| renewals_per_account           | a new order that is exempt        | its account                           |
| orders_per_account_and_name    | a new order or authorization      | the account and each name             |
| certificates_per_name          | an order that begins to be issued | each name, whoever has proven control |
| failed_validations             | a validation that failed          | the account and the name              |
| failed_validations_per_account | a validation that failed          | the account                           |

Where one of the last two is empty, nothing more is ordered; where it is that of a name, nothing more is tried either. A
bucket that accounts share is charged only once control of the name is proven: a stranger takes nothing from its owner.
An exempt order (renewals.replacement) takes nothing for the names of the certificate that it replaces.

A host takes any address of its /64 (RFC 4291 §2.5.4), so that is the least that can be limited; a /48 is often a whole
company's private network (RFC 6177), which one host must not close. Private networks have no registered domains: the
name itself is limited, a wildcard with the name below it, since a limit on exact sets is avoided by one name more.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from types import MappingProxyType
from typing import Final, Literal, NoReturn, Self, TypeAlias, get_args

from pkicore.clock import Clock, unix
from services.acme.answers import retry_after, rfc3339
from services.acme.errors import AcmeError
from services.acme.identifiers import Identifier
from services.acme.store.rate_limits import Guard, RateLimitStore, Take
from services.acme.store.rows import AccountRow
from services.chassis.database import Write
from services.chassis.errors import ConflictError
from services.chassis.log_budget import neighbourhood

LimitName: TypeAlias = Literal[
    "accounts_per_address",
    "orders_per_account",
    "renewals_per_account",
    "orders_per_account_and_name",
    "certificates_per_name",
    "failed_validations",
    "failed_validations_per_account",
]
LIMIT_NAMES: Final[tuple[LimitName, ...]] = get_args(LimitName)
MAX_PERIOD: Final = 366 * 86400  # seconds
OFF: Final = "off"

_UNITS: Final = MappingProxyType({"s": 1, "m": 60, "h": 3600, "d": 86400})
_FORM: Final = re.compile(r"([1-9][0-9]{0,8})/([1-9][0-9]{0,8})([smhd])", re.ASCII)
_SENTENCES: Final[Mapping[LimitName, str]] = MappingProxyType(
    {
        "accounts_per_address": "new accounts from",
        "orders_per_account": "new orders of",
        "renewals_per_account": "exempt renewals of",
        "orders_per_account_and_name": "orders of this account for",
        "certificates_per_name": "certificates for",
        "failed_validations": "failed validations of",
        "failed_validations_per_account": "failed validations of",
    }
)


@dataclass(frozen=True, slots=True)
class Limit:
    """So many at once, and so many in each period in the long run."""

    burst: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """A limit as settings have it: `300/3h` (s, m, h or d); None for `off`.

        Raises:
            ValueError: another form, longer than a year, or more than one in a millisecond.
        """
        if text == OFF:
            return None
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError("must be BURST/PERIOD such as 300/3h (s, m, h or d), or off")
        burst, seconds = int(found[1]), int(found[2]) * _UNITS[found[3]]
        if seconds > MAX_PERIOD or burst > seconds * 1000:
            raise ValueError("must be at most a year, and at most 1000 in a second")
        return cls(burst, seconds)

    @property
    def step(self) -> int:
        """Milliseconds in which one token comes back."""
        return self.seconds * 1000 // self.burst

    @property
    def period(self) -> int:
        """Milliseconds in which all tokens come back."""
        return self.step * self.burst

    def __str__(self) -> str:
        """As `parse` reads it, in the largest unit."""
        unit = next(unit for unit in "dhms" if not self.seconds % _UNITS[unit])
        return f"{self.burst}/{self.seconds // _UNITS[unit]}{unit}"


@dataclass(frozen=True)
class Limits:
    """The limits of those who have no other; None: no limit."""

    accounts_per_address: Limit | None = None
    orders_per_account: Limit | None = None
    renewals_per_account: Limit | None = None
    orders_per_account_and_name: Limit | None = None
    certificates_per_name: Limit | None = None
    failed_validations: Limit | None = None
    failed_validations_per_account: Limit | None = None

    def of(self, name: LimitName) -> Limit | None:
        """The limit of this name."""
        found: Limit | None = getattr(self, name)
        return found


@dataclass(frozen=True, slots=True)
class Charge:
    """One token that a request takes, and the limits that decide."""

    token: Take
    subject: str
    name: LimitName
    limit: Limit | None
    failures: Limit | None = None
    failures_name: LimitName = "failed_validations"


Overrides: TypeAlias = Mapping[tuple[str, str], Limit | None]


class RateLimits:
    """Which tokens a request takes, and what is said where one is missing.

    The charges of a request ride as the first writes of its unit. Where the commit ends in ConflictError, `refuse` says
    which limit it was. Overrides are kept in memory; `load_overrides` reads them.
    """

    def __init__(self, store: RateLimitStore, limits: Limits, clock: Clock) -> None:
        self.limits = limits
        self._store = store
        self._clock = clock
        self._overrides: Overrides = {}

    async def load_overrides(self) -> None:
        """Learn who has another limit than usual."""
        rows = await self._store.overrides()
        self._overrides = {
            (row.subject, row.name): Limit(row.burst, row.seconds) if row.burst else None for row in rows
        }

    def new_account(self, address: str, eab_kid: str | None = None) -> tuple[Charge, ...]:
        """What a new account costs the address that asks for it."""
        limit = self._limit("accounts_per_address", eab_kid=eab_kid)
        if limit is None:
            return ()
        subject = neighbourhood(address)
        return (Charge(_token(bucket_of_address(address), limit), subject, "accounts_per_address", limit),)

    def new_order(
        self, account: AccountRow, names: Sequence[Identifier], free: Collection[Identifier] | None = None
    ) -> tuple[Charge, ...]:
        """What an order costs before anything is proven: at most one write, and one for each name.

        `free` are the names that cost nothing in an exempt order; None for any other order.
        """
        kind: LimitName = "orders_per_account" if free is None else "renewals_per_account"
        key = _orders(account.id) if free is None else _renewals(account.id)
        of_account = self._charge(account, kind, key, "this account", "failed_validations_per_account")
        return (*of_account, *self._names(account, names, free or ()))

    def new_authorization(self, account: AccountRow, name: Identifier) -> tuple[Charge, ...]:
        """What an authorization ahead of any order costs: as an order for it."""
        return self.new_order(account, [name])

    def issuance(
        self, account: AccountRow, names: Sequence[Identifier], free: Collection[Identifier] = ()
    ) -> tuple[Charge, ...]:
        """What an order costs whose names are proven, before the CA is asked; `free` as for `new_order`."""
        limit = self._limit("certificates_per_name", account.id, account.eab_kid)
        if limit is None:
            return ()
        return tuple(
            Charge(_token(bucket_of_name(name.type, name.value), limit), name.value, "certificates_per_name", limit)
            for name in _bases(names)
            if name not in free
        )

    def failure(self, account: AccountRow, name: Identifier) -> tuple[Write, ...]:
        """What is written with a validation that failed; it always is, however many there were."""
        of: Sequence[tuple[LimitName, str]] = (
            ("failed_validations", _failures(account, name.base)),
            ("failed_validations_per_account", _failures(account)),
        )
        limits = ((self._limit(limit, account.id, account.eab_kid), key) for limit, key in of)
        return tuple(
            self._store.take(_token(key, limit), self._now(), expect=None) for limit, key in limits if limit is not None
        )

    def require_try(self, account: AccountRow, name: Identifier, full_at: int) -> None:
        """Refuse a validation where too many failed; `full_at` is the time of their bucket, Unix milliseconds.

        Raises:
            AcmeError: rateLimited, with Retry-After.
        """
        limit, now = self._limit("failed_validations", account.id, account.eab_kid), self._now()
        if limit is not None and (wait := full_at - (now + limit.period - limit.step)) > 0:
            raise _refusal("failed_validations", name.base.value, limit, now, wait)

    def writes(self, charges: Sequence[Charge]) -> tuple[Write, ...]:
        """The first writes of the unit that is limited."""
        now = self._now()
        return tuple(self._store.take(charge.token, now) for charge in charges)

    async def refuse(self, charges: Sequence[Charge], error: ConflictError) -> NoReturn:
        """Say which limit undid the unit; where it was none, the conflict is another's.

        Raises:
            AcmeError: rateLimited, with Retry-After.
            ConflictError: `error`: it was not one of these writes.
        """
        if error.write >= len(charges):
            raise error
        charge, now = charges[error.write], self._now()
        guard = charge.token.guard
        if guard is not None and charge.failures is not None:
            wait = await self._store.full_at(guard.key) - (now + guard.period - guard.step)
            if wait > 0:
                raise _refusal(charge.failures_name, charge.subject, charge.failures, now, wait) from error
        limit = charge.limit
        if limit is None:  # a name without a limit: its failures are forgiven in this moment
            raise _refusal(charge.failures_name, charge.subject, charge.failures or Limit(1, 1), now, 1) from error
        wait = await self._store.full_at(charge.token.key) - (now + limit.period - limit.step)
        raise _refusal(charge.name, charge.subject, limit, now, wait) from error

    async def clean_up(self) -> bool:
        """Forget some buckets that are full again; whether there may be more."""
        return await self._store.delete_full(self._now())

    def _names(
        self, account: AccountRow, names: Sequence[Identifier], free: Collection[Identifier]
    ) -> tuple[Charge, ...]:
        charges: list[Charge] = []
        for name in _bases(names):
            kind: LimitName | None = None if name in free else "orders_per_account_and_name"
            key = f"{orders_of(account.id)}{name.type}:{name.value}"
            charges += self._charge(account, kind, key, name.value, "failed_validations", name)
        return tuple(charges)

    def _charge(
        self,
        account: AccountRow,
        kind: LimitName | None,
        key: str,
        subject: str,
        failures_name: LimitName,
        name: Identifier | None = None,
    ) -> tuple[Charge, ...]:
        """A token of a bucket, which asks after the failures of the account and the name; or of the account alone."""
        limit = None if kind is None else self._limit(kind, account.id, account.eab_kid)
        failures = self._limit(failures_name, account.id, account.eab_kid)
        if limit is None and failures is None:
            return ()
        guard = None if failures is None else Guard(_failures(account, name), failures.step, failures.period)
        # without a limit of its own the bucket is never empty: its row only asks after the failures
        token = Take(key, 0, MAX_PERIOD * 1000, guard) if limit is None else _token(key, limit, guard)
        return (Charge(token, subject, kind or failures_name, limit, failures, failures_name),)

    def _limit(self, name: LimitName, account_id: str | None = None, eab_kid: str | None = None) -> Limit | None:
        if self._overrides:
            for subject in (f"account:{account_id}", f"eab:{eab_kid}"):
                if (subject, name) in self._overrides:
                    return self._overrides[subject, name]
        return self.limits.of(name)

    def _now(self) -> int:
        return unix(self._clock.now()) * 1000


def _bases(names: Sequence[Identifier]) -> list[Identifier]:
    """Each name once, in one order everywhere, so that two orders for the same names never wait for each other."""
    return sorted({name.base for name in names})


def _token(key: str, limit: Limit, guard: Guard | None = None) -> Take:
    return Take(key, limit.step, limit.period, guard)


def bucket_of_address(address: str) -> str:
    """The key of what new accounts from an address cost."""
    return f"address:{neighbourhood(address)}"


def bucket_of_name(kind: str, value: str) -> str:
    """The key of what orders for a name cost."""
    return f"name:{kind}:{value}"


def buckets_of_account(account_id: str) -> list[str]:
    """The keys of an account's buckets but those that `prefixes_of_account` are of."""
    return [_orders(account_id), _renewals(account_id)]


def prefixes_of_account(account_id: str) -> list[str]:
    """How the keys of an account's further buckets begin."""
    return [orders_of(account_id), failures_of(account_id)]


def _orders(account_id: str) -> str:
    return f"orders:{account_id}"


def _renewals(account_id: str) -> str:
    return f"renewals:{account_id}"


def orders_of(account_id: str) -> str:
    """How the keys of an account's orders for each name begin."""
    return f"orders:{account_id}:"


def failures_of(account_id: str) -> str:
    """How the keys of an account's failed validations begin."""
    return f"failed:{account_id}:"


def _failures(account: AccountRow, name: Identifier | None = None) -> str:
    return f"{failures_of(account.id)}{'all' if name is None else f'{name.type}:{name.value}'}"


def _refusal(name: LimitName, subject: str, limit: Limit, now: int, wait: int) -> AcmeError:
    seconds = max(1, ceil(wait / 1000))
    when = rfc3339(now // 1000 + seconds)
    return AcmeError(
        "rateLimited",
        f"too many {_SENTENCES[name]} {subject}: the limit {name} is {limit}; try again at {when}",
        headers=[retry_after(seconds)],
    )
