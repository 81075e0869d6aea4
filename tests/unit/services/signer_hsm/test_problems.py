from __future__ import annotations

import pytest

from services.signer_hsm import errors
from services.signer_hsm.problems import PROBLEMS, kind_of


def every_error() -> list[type[errors.SignerError]]:
    """Every class of the tree that is raised."""
    found = [errors.SignerError]
    for cls in found:
        found += cls.__subclasses__()
    return [cls for cls in found if cls.__module__ == errors.__name__ and not cls.__subclasses__()]


def made(cls: type[errors.SignerError]) -> errors.SignerError:
    """One of a class."""
    if cls is errors.ApprovalsMissingError:
        return errors.ApprovalsMissingError("two more", 2)
    if cls is errors.RateLimitedError:
        return errors.RateLimitedError("wait", 0.2)
    return cls("sentence")


@pytest.mark.parametrize("cls", [cls for cls in every_error() if cls is not errors.KeyPolicyError])
def test_every_error_has_its_problem(cls: type[errors.SignerError]) -> None:
    """No error of the service is an internal one."""
    error = made(cls)
    problem = PROBLEMS.problem_of(error)
    assert problem.type == f"urn:pqcpki:problem:{kind_of(error)}"
    assert problem.detail == str(error)


def test_when_to_come_back() -> None:
    """Seconds in the header are whole and at least one, in the document as they are."""
    limited = PROBLEMS.problem_of(errors.RateLimitedError("wait", 0.2))
    assert dict(limited.headers)[b"retry-after"] == b"1"
    assert limited.extra["retry_after"] == 0.2
    busy = PROBLEMS.problem_of(errors.BusyError("full", retry_after=2.1))
    assert dict(busy.headers)[b"retry-after"] == b"3"
    assert not PROBLEMS.problem_of(errors.DeniedError("no")).headers
    assert PROBLEMS.problem_of(errors.ApprovalsMissingError("two", 2)).extra == {"missing": 2}
