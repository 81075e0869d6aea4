"""What newOrder and newAuthz ask for, read strictly: identifiers and times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from services.acme.answers import rfc3339
from services.acme.errors import AcmeError, Subproblem, refusal
from services.acme.identifiers import BadNameError, Identifier, canonical_address, canonical_dns_name
from services.acme.profiles.profiles import Profile, misfit

_MAX_VALUE: Final = 300  # characters of an identifier, before it is judged
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.0{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})", re.IGNORECASE
)
SKEW_SECONDS: Final = 300  # by which a client's clock may be behind


def identifiers(value: object, most: int) -> tuple[Identifier, ...]:
    """The identifiers of an order, canonical, each once.

    Raises:
        AcmeError: malformed, unsupportedIdentifier, rejectedIdentifier or compound.
    """
    if not isinstance(value, list) or not value:
        raise AcmeError("malformed", "identifiers must be a list of objects, at least one")
    if len(value) > most:
        raise AcmeError("malformed", f"an order has at most {most} identifiers")
    pairs = [_pair(item) for item in value]
    accepted: dict[Identifier, None] = {}
    refused: list[Subproblem] = []
    for kind, text in pairs:
        try:
            accepted[_canonical(kind, text)] = None
        except AcmeError as error:
            # As it was sent: the client must find its own name again, whatever type it gave it.
            refused.append(Subproblem(error.acme_type, error.detail, Identifier(kind, text)))  # type: ignore[arg-type] # see above
    if refused:
        raise refusal(refused)
    return tuple(accepted)


def identifier(value: object) -> Identifier:
    """One identifier, canonical.

    Raises:
        AcmeError: malformed, unsupportedIdentifier or rejectedIdentifier.
    """
    return _canonical(*_pair(value))


def period(members: Mapping[str, Any], profile: Profile, now: int) -> tuple[int | None, int | None]:
    """The notBefore and notAfter of an order, Unix time; None where the profile decides.

    Raises:
        AcmeError: malformed: no times, or not within what the profile gives (invalidProfile where the order names it).
    """
    begin, end = _time(members, "notBefore"), _time(members, "notAfter")
    latest = profile.latest_end(now)
    if begin is not None and begin < now - SKEW_SECONDS:
        raise AcmeError("malformed", f"notBefore is past: it is {rfc3339(now)}")
    if end is not None and end <= now:
        raise AcmeError("malformed", f"notAfter is past: it is {rfc3339(now)}")
    if begin is not None and end is not None and end <= begin:
        raise AcmeError("malformed", "notAfter must be later than notBefore")
    if latest is not None and (end or 0) > latest:
        beyond = f"notAfter: profile {profile.name} ends no later than {rfc3339(latest)}"
        raise misfit(AcmeError("malformed", beyond), named="profile" in members)
    if latest is not None and (begin or 0) >= latest:
        beyond = f"notBefore: profile {profile.name} ends at {rfc3339(latest)} at the latest"
        raise misfit(AcmeError("malformed", beyond), named="profile" in members)
    return begin, end


def _pair(item: object) -> tuple[str, str]:
    kind, value = (item.get("type"), item.get("value")) if isinstance(item, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(value, str) or len(kind) + len(value) > _MAX_VALUE:
        raise AcmeError(
            "malformed", f'an identifier is {{"type": …, "value": …}} of at most {_MAX_VALUE} characters together'
        )
    return kind, value


def _canonical(kind: str, value: str) -> Identifier:
    try:
        if kind == "dns":
            return Identifier("dns", canonical_dns_name(value))
        if kind == "ip":
            return Identifier("ip", canonical_address(value))
    except BadNameError as error:
        raise AcmeError("rejectedIdentifier", str(error)) from error
    raise AcmeError("unsupportedIdentifier", "identifiers of the types dns and ip are offered")


def _time(members: Mapping[str, Any], name: str) -> int | None:
    value = members.get(name)
    if value is None and name not in members:
        return None
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise AcmeError(
            "malformed", f"{name} must be a time of RFC 3339 in whole seconds, such as 2030-01-31T12:00:00Z"
        )
    try:
        return int(datetime.fromisoformat(value.upper()).astimezone(UTC).timestamp())
    except (ValueError, OverflowError) as error:
        raise AcmeError("malformed", f"{name} is no time that there is") from error
