"""The challenges that want a digest in DNS: dns-01 (RFC 8555 §8.4), dns-account-01 (draft-ietf-acme-dns-account-label).

They differ in where the record stands: below the label of dns-01 an account has a label of its own, so that several may
hold delegations for one name.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from services.acme.challenges.attempt import Attempt
from services.acme.errors import ValidationError
from services.chassis.errors import NotResolvedError
from services.chassis.outbound.resolver import Resolver

LABEL: Final = "_acme-challenge"
_ACCOUNT_LABEL_BYTES: Final = 10


def record_name(attempt: Attempt) -> str:
    """Where dns-01 looks."""
    return f"{LABEL}.{attempt.identifier.value}"


def account_record_name(attempt: Attempt) -> str:
    """Where dns-account-01 looks: one label more, the beginning of the digest of the account's URL."""
    digest = hashlib.sha256(attempt.account_url.encode()).digest()[:_ACCOUNT_LABEL_BYTES]
    return f"_{base64.b32encode(digest).decode().lower()}.{record_name(attempt)}"


class Dns01:
    """Looks for the digest of the key authorization among the TXT records of a name.

    Args:
        resolver: follows CNAMEs, so that the record may be delegated.
        seconds: for the whole validation.
        name_of: where the records of an attempt are.
    """

    def __init__(self, resolver: Resolver, seconds: float, name_of: Callable[[Attempt], str] = record_name) -> None:
        self._resolver = resolver
        self._seconds = seconds
        self._name_of = name_of

    async def validate(self, attempt: Attempt) -> None:
        """Compare every TXT record with the expected value.

        Raises:
            ValidationError: "dns", when the look-up fails; "incorrectResponse", when no record is the expected one.
        """
        name = self._name_of(attempt)
        note = f" (the label is that of the account {attempt.account_url})" if attempt.type == "dns-account-01" else ""
        texts = await texts_of(name, self._resolver, self._seconds, note)
        expected = txt_value(attempt.key_authorization).encode()
        matches = [text for text in texts if hmac.compare_digest(text, expected)]
        if not matches:
            raise ValidationError("incorrectResponse", _sentence(name, texts) + note)


async def texts_of(name: str, resolver: Resolver, seconds: float, note: str = "") -> tuple[bytes, ...]:
    """The TXT records of `name`; none is no failure. The note ends the sentence of a failure.

    Raises:
        ValidationError: "dns", when they cannot be had in time.
    """
    try:
        async with asyncio.timeout(seconds):
            return await resolver.texts(name)
    except TimeoutError as error:
        raise ValidationError("dns", f"no answer for TXT of {name} within {seconds:g} seconds{note}") from error
    except NotResolvedError as error:
        raise ValidationError("dns", f"{error}{note}") from error


def txt_value(key_authorization: str) -> str:
    """The content of the TXT record: base64url(SHA-256(key authorization)) without padding."""
    digest = hashlib.sha256(key_authorization.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _sentence(name: str, texts: tuple[bytes, ...]) -> str:
    """What was found, counted and not repeated: an alias may lead to records that are not for the applicant."""
    if not texts:
        return f"{name} has no TXT record"
    records = "1 TXT record" if len(texts) == 1 else f"{len(texts)} TXT records"
    return f"{name} has {records}, none with the expected value"
