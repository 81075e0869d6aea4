"""What is wrong with policies.

SigningPolicyError
├─ PolicySetError   policies that cannot be read, parsed or validated; `.faults` say where; the set in force stays
├─ PolicyCaseError  a file of policy cases that makes no sense
└─ DeniedError      the policy does not allow what was asked; `.decision` is for the record, not for the caller
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from services.signing.policy.decision import Decision

_SHOWN: Final = 5


class SigningPolicyError(Exception):
    """The root of this package's errors; the text is one sentence."""


class Fault(NamedTuple):
    """One thing that is wrong.

    Attributes:
        file: its name, without directory.
        line: from 1; None where the fault is the file's as a whole.
        message: what is wrong.
    """

    file: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.message}"


class PolicySetError(SigningPolicyError):
    """Policies that cannot be read, parsed or validated.

    Attributes:
        faults: all that were found, in the order of the files.
    """

    def __init__(self, *faults: Fault) -> None:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        super().__init__("; ".join(str(fault) for fault in faults[:_SHOWN]) + more)
        self.faults = faults


class PolicyCaseError(SigningPolicyError):
    """A file of policy cases that makes no sense."""


class DeniedError(SigningPolicyError):
    """The policy does not allow what was asked; the sentence is the same for every refusal.

    Attributes:
        decision: why; for the record.
    """

    def __init__(self, decision: Decision) -> None:
        super().__init__("the policy does not allow this caller to do this")
        self.decision = decision
