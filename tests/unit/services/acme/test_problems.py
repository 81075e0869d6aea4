from __future__ import annotations

import orjson
import pytest

from services.acme.errors import STATUS_OF_TYPE, AcmeError, Subproblem, ValidationError
from services.acme.identifiers import Identifier
from services.acme.problems import problem_table
from services.chassis import errors

# RFC 8555 §6.7, in full; the statuses are those that Boulder and Pebble agree on.
RFC_8555 = {
    "accountDoesNotExist": 400,
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


@pytest.mark.requirement("rfc8555-6.7-02")
def test_every_type_of_the_rfc() -> None:
    """The table has each problem type of RFC 8555 with its status, those of ARI and profiles, and no other."""
    assert dict(STATUS_OF_TYPE) == RFC_8555 | {"alreadyReplaced": 409, "invalidProfile": 400}


@pytest.mark.parametrize("acme_type", RFC_8555)
def test_acme_errors(acme_type: str) -> None:
    """Each type becomes a document with type, detail and status, and without members that say nothing."""
    problem = problem_table().problem_of(AcmeError(acme_type, "why"))
    document = orjson.loads(problem.document())
    assert document.pop("title")
    assert document == {
        "type": f"urn:ietf:params:acme:error:{acme_type}",
        "detail": "why",
        "status": RFC_8555[acme_type],
    }
    assert problem.status == RFC_8555[acme_type]


def test_unknown_types_are_a_mistake() -> None:
    """A type that is not in the table cannot be raised."""
    with pytest.raises(KeyError):
        AcmeError("noSuchType", "why")


@pytest.mark.requirement("rfc8555-6.7.1-01", "rfc8555-6.7.1-02")
def test_subproblems_and_extra() -> None:
    """Sub-problems name their identifiers; further members and headers are kept."""
    name = Identifier("dns", "a.example")
    error = AcmeError(
        "compound",
        "two",
        subproblems=[Subproblem("dns", "one", name)],
        extra={"algorithms": ["ES256"]},
        headers=[(b"retry-after", b"1")],
    )
    problem = problem_table().problem_of(error)
    document = orjson.loads(problem.document())
    assert document["subproblems"] == [
        {"type": "urn:ietf:params:acme:error:dns", "detail": "one", "identifier": name.document()}
    ]
    assert document["algorithms"] == ["ES256"]
    assert "identifier" not in document
    assert problem.headers == ((b"retry-after", b"1"),)


@pytest.mark.parametrize(
    ("error", "status", "acme_type"),
    [
        (ValidationError("caa", "no"), 403, "caa"),
        (errors.RouteNotFoundError("x"), 404, "malformed"),
        (errors.MethodNotAllowedError(("POST",)), 405, "malformed"),
        (errors.MediaTypeError(("application/jose+json",)), 415, "malformed"),
        (errors.BodyTooLargeError(1), 413, "malformed"),
        (errors.BodyTimeoutError("slow"), 408, "malformed"),
        (errors.BodyMalformedError("x"), 400, "malformed"),
        (errors.OverloadedError("queue"), 429, "rateLimited"),
        (errors.UnavailableError("disk full at /var/lib"), 500, "serverInternal"),
        (errors.ConflictError("label", 0, 0, 1), 500, "serverInternal"),
        (ValueError("secret"), 500, "serverInternal"),
    ],
)
def test_everything_else(error: Exception, status: int, acme_type: str) -> None:
    """What the frame, the database or a bug raises is an ACME problem too, and says nothing of our insides."""
    problem = problem_table().problem_of(error)
    assert (problem.status, problem.type) == (status, f"urn:ietf:params:acme:error:{acme_type}")
    assert problem.detail
    if status in {429, 500}:
        assert str(error) not in problem.detail
    if status == 413:
        assert problem.close
