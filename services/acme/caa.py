"""Certification authority authorization: may this server issue for a domain? (RFC 8659; for accounts RFC 8657).

The rules:
1. The relevant record set is that of the name, or of the closest domain above it that has one; the root is not asked.
2. A record that is critical and has an unknown tag forbids every issuance (RFC 8659 §4.1).
3. For a wildcard the `issuewild` properties count, and the `issue` properties where there is none; otherwise only the
   latter count. Where none counts, nothing is restricted (§4.2, §4.3).
4. Of the properties that count, one must be for this server: it names one of our identities, and account and challenge
   type are those that it allows (RFC 8657 §3, §4).
5. A value that breaks the grammar names nobody, and so does the empty one: it forbids.
6. A look-up that fails forbids: no answer is not the answer that there are no records.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, Self

from services.acme.challenges.attempt import Attempt
from services.acme.errors import ValidationError
from services.acme.identifiers import Identifier
from services.chassis.errors import NotResolvedError
from services.chassis.outbound.resolver import CaaRecord, Resolver

# RFC 8659 §4.2. Letters are ASCII; a value of a parameter is visible ASCII without semicolon.
_LABEL: Final = r"[A-Za-z0-9](?:-*[A-Za-z0-9])*"
ISSUER_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_PARAMETER: Final = re.compile(rf"({_LABEL})[ \t]*=[ \t]*([\x21-\x3a\x3c-\x7e]*)", re.ASCII)
_METHOD: Final = re.compile(r"[A-Za-z0-9-]+", re.ASCII)  # RFC 8657 §4: a label of `validationmethods`

_CRITICAL: Final = 0x80
MAX_RECORDS: Final = 64  # of one set; an honest one has a handful
# `iodef` reports, `issuemail` is about other certificates (RFC 9495): known, and no restriction.
_KNOWN: Final = frozenset({b"issue", b"issuewild", b"issuemail", b"iodef", b"contactemail", b"contactphone"})


@dataclass(frozen=True, slots=True)
class IssueProperty:
    """The value of an `issue` or `issuewild` property.

    Attributes:
        issuer: the domain name of who may issue, lower case; "" for nobody.
        parameters: name, lower case, and value; in their order, as repeated ones have a meaning.
    """

    issuer: str
    parameters: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, value: bytes) -> Self:
        """Read a property value; one that breaks the grammar names nobody (RFC 8659 §4.2)."""
        issuer, semicolon, rest = value.decode("latin-1").partition(";")
        issuer, rest = issuer.strip(" \t"), rest.strip(" \t")
        if issuer and not ISSUER_NAME.fullmatch(issuer):
            return cls("")
        if not semicolon or not rest:
            return cls(issuer.lower())
        found = [_PARAMETER.fullmatch(text.strip(" \t")) for text in rest.split(";")]
        if None in found:
            return cls("")
        return cls(issuer.lower(), tuple((match[1].lower(), match[2]) for match in found if match is not None))

    def all_of(self, parameter: str) -> tuple[str, ...]:
        """The values of a parameter. Its name is compared without case, so that no restriction is overlooked."""
        return tuple(value for name, value in self.parameters if name == parameter)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be issued, for whom: the account's URL, and the type of the challenge that proves control."""

    wildcard: bool
    method: str
    account_url: str


class Lookup(Protocol):
    """Whoever looks CAA records up; `Resolver` is one."""

    async def caa(self, name: str) -> tuple[CaaRecord, ...]:
        """The records of the name itself, empty where there are none; NotResolvedError where nobody can say."""


class CaaSettings(Protocol):
    """The settings that the check reads."""

    @property
    def caa(self) -> bool:
        """Whether to check."""

    @property
    def caa_identities(self) -> Sequence[str]:
        """Our issuer domain names, lower case; where there are none, no record could name us: nothing is checked."""

    @property
    def resolver(self) -> str:
        """DNS server as "host:port"; empty for the system's."""

    @property
    def resolvers(self) -> Mapping[str, str]:
        """The DNS servers of zones that have their own."""

    @property
    def validation_timeout_seconds(self) -> float:
        """Time for one validation with all its look-ups and redirects, and for one check."""


class Caa:
    """Checks names against the records in DNS.

    Args:
        lookup: asks DNS.
        identities: issuer domain names that stand for this server.
        seconds: for one check, however many labels the name has.
    """

    def __init__(self, lookup: Lookup, identities: Collection[str], seconds: float) -> None:
        self._lookup = lookup
        self._identities = frozenset(name.lower() for name in identities)
        self._seconds = seconds

    @classmethod
    def build(cls, settings: CaaSettings) -> Self | None:
        """The check as the settings have it; None where there is none.

        Raises:
            ValueError: a resolver that is not an address.
        """
        if not settings.caa or not settings.caa_identities:
            return None
        seconds = settings.validation_timeout_seconds
        return cls(Resolver.build(settings.resolver, seconds, settings.resolvers), settings.caa_identities, seconds)

    async def check(self, identifier: Identifier, *, wildcard: bool, method: str, account_url: str) -> None:
        """Return where issuance is not forbidden; addresses have no CAA records (RFC 8738 §6 has none for them).

        Args:
            identifier: without the wildcard label.
            wildcard: whether the names below it are asked for.
            method: the challenge type that proves control of it.
            account_url: the account's, as clients know it.

        Raises:
            ValidationError: "caa", when the records forbid it; "dns", when they cannot be had.
        """
        if identifier.type != "dns":
            return
        domain, records = await self._relevant(identifier.value)
        if len(records) > MAX_RECORDS:
            raise ValidationError("caa", f"{domain} has more than {MAX_RECORDS} CAA records, which are not read")
        reason = _refusal(records, Asked(wildcard, method, account_url), self._identities)
        if reason is not None:
            raise ValidationError("caa", f"the CAA records at {domain} {reason}")

    async def _relevant(self, name: str) -> tuple[str, tuple[CaaRecord, ...]]:
        """The closest domain with records, and these; none where no domain has any (RFC 8659 §3).

        One label after the other: most sets are found early, and what lies above a set must not matter.
        """
        domain = name
        try:
            async with asyncio.timeout(self._seconds):
                while domain:
                    if records := await self._lookup.caa(domain):
                        return domain, records
                    domain = domain.partition(".")[2]
        except TimeoutError as error:
            raise ValidationError("dns", f"no answer for CAA of {domain} within {self._seconds:g} seconds") from error
        except NotResolvedError as error:
            raise ValidationError("dns", f"whether CAA records allow it is not known: {error}") from error
        return name, ()


class CaaChecked:
    """A challenge method with the check beside it: both run at once, and the method's failure is told first."""

    def __init__(self, method: Method, caa: Caa) -> None:
        self._method = method
        self._caa = caa

    async def validate(self, attempt: Attempt) -> None:
        """Return when control is proven and issuance not forbidden.

        Raises:
            ValidationError: one of them is not so.
        """
        check = self._caa.check(
            attempt.identifier, wildcard=attempt.wildcard, method=attempt.type, account_url=attempt.account_url
        )
        # Not a TaskGroup: it would tell whichever failure came first, which chance decides.
        outcomes = await asyncio.gather(self._method.validate(attempt), check, return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome


class Method(Protocol):
    """One way to prove control."""

    async def validate(self, attempt: Attempt) -> None:
        """Return when control is proven; raise ValidationError when it is not."""


def _refusal(records: Sequence[CaaRecord], asked: Asked, identities: Collection[str]) -> str | None:
    """Why a record set forbids issuance, as the end of a sentence that repeats no record; None where it does not."""
    if any(record.flags & _CRITICAL and record.tag.lower() not in _KNOWN for record in records):
        return "have a critical property that this server does not know"
    counted = _counted(records, wildcard=asked.wildcard)
    if not counted:
        return None
    ours = [each for each in map(IssueProperty.parse, counted) if each.issuer in identities]
    if not ours:
        return "do not name this server as an issuer" + (" of wildcards" if asked.wildcard else "")
    ours = [each for each in ours if _is_for_account(each, asked.account_url)]
    if not ours:
        return "name this server for other accounts only (accounturi)"
    if not any(_is_for_method(each, asked.method) for each in ours):
        return f"do not let {asked.method} prove control (validationmethods)"
    return None


def _counted(records: Sequence[CaaRecord], *, wildcard: bool) -> list[bytes]:
    """The values of the properties that restrict this issuance."""
    issue = [record.value for record in records if record.tag.lower() == b"issue"]
    wild = [record.value for record in records if record.tag.lower() == b"issuewild"]
    return wild if wildcard and wild else issue


def _is_for_account(issue: IssueProperty, account_url: str) -> bool:
    """RFC 8657 §3: two such parameters cannot be met."""
    uris = issue.all_of("accounturi")
    return not uris or uris == (account_url,)


def _is_for_method(issue: IssueProperty, method: str) -> bool:
    """RFC 8657 §4: likewise; a list that is none is met by nobody."""
    lists = issue.all_of("validationmethods")
    if not lists:
        return True
    names = lists[0].split(",")
    return len(lists) == 1 and all(map(_METHOD.fullmatch, names)) and method in names
