"""The dns-01 challenge (RFC 8555 §8.4)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac

from services.acme.challenges.attempt import Attempt
from services.acme.errors import ValidationError
from services.chassis.errors import NotResolvedError
from services.chassis.outbound.resolver import Resolver

LABEL = "_acme-challenge"


class Dns01:
    """Looks for the digest of the key authorization among the identifier's TXT records.

    Args:
        resolver: follows CNAMEs, so that the record may be delegated.
        seconds: for the whole validation.
    """

    def __init__(self, resolver: Resolver, seconds: float) -> None:
        self._resolver = resolver
        self._seconds = seconds

    async def validate(self, attempt: Attempt) -> None:
        """Compare every TXT record with the expected value.

        Raises:
            ValidationError: "dns", when the look-up fails; "incorrectResponse", when no record is the expected one.
        """
        name = f"{LABEL}.{attempt.identifier.value}"
        try:
            async with asyncio.timeout(self._seconds):
                texts = await self._resolver.texts(name)
        except TimeoutError as error:
            raise ValidationError("dns", f"no answer for TXT of {name} within {self._seconds:g} seconds") from error
        except NotResolvedError as error:
            raise ValidationError("dns", str(error)) from error
        expected = txt_value(attempt.key_authorization).encode()
        matches = [text for text in texts if hmac.compare_digest(text, expected)]
        if not matches:
            raise ValidationError("incorrectResponse", _sentence(name, texts))


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
