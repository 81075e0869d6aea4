"""The dns-persist-01 challenge (draft-ietf-acme-dns-persist-01): a TXT record that stays says which account may.

There is no token: the record names this CA and the account, so it proves for as long as it stands. A record counts for
its own name and, with `policy=wildcard`, for the wildcard below it. That the draft would let it count for all names
below is not made use of: whoever asks for a name shows a record at that name.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from pkicore.clock import Clock, unix
from services.acme.caa import IssueProperty
from services.acme.challenges.attempt import Attempt
from services.acme.challenges.dns01 import texts_of
from services.acme.errors import ValidationError
from services.chassis.outbound.resolver import Resolver

LABEL: Final = "_validation-persist"
_SECONDS: Final = re.compile(r"[0-9]{1,18}", re.ASCII)


class DnsPersist01:
    """Looks for a record that names one of `issuers` and the account of the attempt.

    Args:
        resolver: follows CNAMEs.
        issuers: the CA's issuer domain names, in lower case.
        seconds: for the whole validation.
        clock: tells whether a record has ended (`persistUntil`).
    """

    def __init__(self, resolver: Resolver, issuers: Collection[str], seconds: float, clock: Clock) -> None:
        self._resolver = resolver
        self._issuers = frozenset(issuer.encode() for issuer in issuers)
        self._seconds = seconds
        self._clock = clock

    async def validate(self, attempt: Attempt) -> None:
        """Return when one of the records for this CA allows it; records for others are not looked at.

        Raises:
            ValidationError: "dns", when the look-up fails; "malformed", when a record breaks the syntax;
                "unauthorized", when none is for this CA, the account and the time.
        """
        name = f"{LABEL}.{attempt.identifier.value}"
        texts = await texts_of(name, self._resolver, self._seconds)
        ours = [text for text in texts if _issuer_of(text) in self._issuers]
        failure = ValidationError("unauthorized", f"{name} has no TXT record for this CA ({len(texts)} for others)")
        for text in ours:
            try:
                return self._check(text, name, attempt)
            except ValidationError as error:
                failure = error
        raise failure

    def _check(self, text: bytes, name: str, attempt: Attempt) -> None:
        issue = IssueProperty.parse(text)
        names = [parameter for parameter, _ in issue.parameters]
        if not issue.issuer or len(set(names)) < len(names):
            raise ValidationError("malformed", f"the TXT record of {name} is no issue-value (RFC 8659 section 4.2)")
        parameters = dict(issue.parameters)
        if "accounturi" not in parameters:
            raise ValidationError("malformed", f"the TXT record of {name} has no accounturi")
        if parameters["accounturi"] != attempt.account_url:
            raise ValidationError("unauthorized", f"the TXT record of {name} is for another account (accounturi)")
        self._check_time(parameters.get("persistuntil"), name)
        if attempt.wildcard and parameters.get("policy", "").lower() != "wildcard":
            raise ValidationError("unauthorized", f"the TXT record of {name} is not for wildcards (policy=wildcard)")

    def _check_time(self, until: str | None, name: str) -> None:
        if until is None:
            return
        if not _SECONDS.fullmatch(until):
            raise ValidationError("malformed", f"the persistUntil of the TXT record of {name} is no Unix time")
        if unix(self._clock.now()) > int(until):
            raise ValidationError("unauthorized", f"the TXT record of {name} has ended (persistUntil)")


def _issuer_of(text: bytes) -> bytes:
    """Whom a record is for, also where the rest of it makes no sense."""
    return text.partition(b";")[0].strip(b" \t").lower()
