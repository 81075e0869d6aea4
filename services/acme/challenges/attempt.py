"""One attempt to prove control of an identifier: all that a challenge method is told, and what others saw of it."""

from __future__ import annotations

from dataclasses import dataclass

from services.acme.identifiers import Identifier


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is to be validated, for whom.

    Attributes:
        type: the challenge type, e.g. "http-01".
        identifier: a DNS name without the wildcard label, or an address.
        wildcard: whether the authorization is for the names one label below the identifier.
        token: the challenge's; "" for types that have none.
        thumbprint: of the account key (RFC 7638).
        account_url: the account's, as clients know it.
    """

    type: str
    identifier: Identifier
    wildcard: bool
    token: str
    thumbprint: str
    account_url: str

    @property
    def key_authorization(self) -> str:
        """Token and thumbprint (RFC 8555 §8.1)."""
        return f"{self.token}.{self.thumbprint}"


@dataclass(frozen=True, slots=True)
class PerspectiveAnswer:
    """What one place of the network saw of an attempt: the ACME error type, or None for a proof, and a sentence."""

    perspective: str
    error: str | None
    detail: str
