"""The ACME server's errors and the one table of problem types (RFC 8555 §6.7).

AcmeError                  any refusal; carries the problem type, its sentence and its sub-problems
└─ ValidationError         a challenge that was tried and failed

OperatorError              what an operator asked for by the admin listener is not done
├─ NotKnownError           what was named does not exist
└─ NotPossibleError        its state does not allow that
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from services.acme.challenges.attempt import PerspectiveAnswer
from services.acme.identifiers import Identifier

URN = "urn:ietf:params:acme:error:"

# Statuses follow Boulder and Pebble where they agree; the RFC leaves most of them open.
STATUS_OF_TYPE: Mapping[str, int] = MappingProxyType(
    {
        "accountDoesNotExist": 400,
        "alreadyReplaced": 409,
        "alreadyRevoked": 400,
        "badCSR": 400,
        "badNonce": 400,
        "badPublicKey": 400,
        "badRevocationReason": 400,
        "badSignatureAlgorithm": 400,
        "caa": 403,
        "compound": 400,
        "connection": 400,
        "dns": 400,
        "externalAccountRequired": 403,
        "incorrectResponse": 403,
        "invalidContact": 400,
        "invalidProfile": 400,
        "malformed": 400,
        "orderNotReady": 403,
        "rateLimited": 429,
        "rejectedIdentifier": 400,
        "serverInternal": 500,
        "tls": 400,
        "unauthorized": 403,
        "unsupportedContact": 400,
        "unsupportedIdentifier": 400,
        "userActionRequired": 403,
    }
)

ValidationFailure = Literal[
    "connection", "dns", "tls", "unauthorized", "incorrectResponse", "caa", "malformed", "serverInternal"
]


@dataclass(frozen=True)
class Subproblem:
    """One identifier's share of a refusal (RFC 8555 §6.7.1)."""

    acme_type: str
    detail: str
    identifier: Identifier

    def document(self) -> dict[str, Any]:
        """The object that stands in the `subproblems` array."""
        return {"type": URN + self.acme_type, "detail": self.detail, "identifier": self.identifier.document()}


class AcmeError(Exception):
    """A request that is refused for a reason its sender may read.

    Args:
        acme_type: a key of `STATUS_OF_TYPE`.
        detail: one sentence for the client; never holds fetched content or internals.
        status: HTTP status where it differs from the table's (404, 405, 413, 415 are all `malformed`).
        subproblems: one per identifier, where several were refused.
        extra: further members of the problem document, e.g. `algorithms`.
        headers: further response headers, e.g. `Retry-After`.
    """

    def __init__(
        self,
        acme_type: str,
        detail: str,
        *,
        status: int | None = None,
        subproblems: Sequence[Subproblem] = (),
        extra: Mapping[str, Any] | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(detail)
        self.acme_type = acme_type
        self.detail = detail
        self.status = STATUS_OF_TYPE[acme_type] if status is None else status
        self.subproblems = tuple(subproblems)
        self.extra = dict(extra or {})
        self.headers = tuple(headers)

    def document(self) -> dict[str, Any]:
        """The problem document (RFC 9457); members without content are left out, since certbot chokes on nulls."""
        return {"type": URN + self.acme_type, "detail": self.detail, "status": self.status} | self.members()

    def members(self) -> dict[str, Any]:
        """The members beyond type, detail and status."""
        if not self.subproblems:
            return self.extra
        return {"subproblems": [subproblem.document() for subproblem in self.subproblems]} | self.extra


def of_ended_account(status: str) -> AcmeError:
    """The one `unauthorized` that is 401 and not 403 (RFC 8555 §7.3.6); JWS has no scheme for a WWW-Authenticate."""
    return AcmeError("unauthorized", f"this account is {status}", status=401)


class ValidationError(AcmeError):
    """A challenge response that does not prove control of the identifier (RFC 8555 §8).

    Attributes:
        answers: what remote perspectives saw of it, where there are any.
    """

    def __init__(
        self, acme_type: ValidationFailure, detail: str, *, answers: tuple[PerspectiveAnswer, ...] = ()
    ) -> None:
        super().__init__(acme_type, detail)
        self.answers = answers


class OperatorError(Exception):
    """What an operator asked for is not done; the sentence says why."""


class NotKnownError(OperatorError):
    """What was named does not exist."""


class NotPossibleError(OperatorError):
    """The state of what was named does not allow that."""


def refusal(refused: Sequence[Subproblem]) -> AcmeError:
    """One refused name speaks for itself; several are listed (RFC 8555 §6.7.1)."""
    if len(refused) == 1:
        only = refused[0]
        return AcmeError(only.acme_type, only.detail, subproblems=refused)
    types = {subproblem.acme_type for subproblem in refused}
    acme_type = types.pop() if len(types) == 1 else "compound"
    return AcmeError(acme_type, f"{len(refused)} identifiers are refused", subproblems=refused)
