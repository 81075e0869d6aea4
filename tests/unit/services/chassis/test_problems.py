import orjson
import pytest

from services.chassis import errors
from services.chassis.problems import FRAME_ROWS, Problem, ProblemTable, fixed, problem


class BreadError(Exception):
    """The base of a service's errors."""


class StaleBreadError(BreadError):
    """One kind."""


class MouldyBreadError(StaleBreadError):
    """A kind of that kind, without a row of its own."""


TABLE = ProblemTable(
    {BreadError: problem("bread", "Bread", 400), StaleBreadError: fixed("stale-bread", "Stale bread", 409)}
)


def test_the_nearest_class_decides() -> None:
    """A subclass takes its own row, else its nearest ancestor's."""
    assert TABLE.problem_of(BreadError("burnt")).detail == "burnt"
    assert TABLE.problem_of(MouldyBreadError("x")).type == "urn:pqcpki:problem:stale-bread"


def test_an_unknown_exception_says_nothing_to_the_caller() -> None:
    """It becomes an internal error without detail, and the table says that it does not know it."""
    error = RuntimeError("/etc/shadow line 3")
    assert orjson.loads(TABLE.problem_of(error).document()) == {
        "type": "urn:pqcpki:problem:internal-error",
        "title": "Internal error",
        "status": 500,
    }
    assert not TABLE.knows(error)
    assert TABLE.knows(BreadError())


def test_a_fixed_row_hides_the_exceptions_sentence() -> None:
    """Rows for internal trouble tell the kind of problem only."""
    document = TABLE.problem_of(errors.UnavailableError("disk /dev/sda1 is full")).document()
    assert b"sda1" not in document


def test_a_service_may_replace_the_frames_rows_and_the_internal_error() -> None:
    """ACME has types of its own for everything."""
    table = ProblemTable(
        {errors.BodyTooLargeError: problem("malformed", "Malformed", 413, prefix="urn:x:")},
        internal=fixed("serverInternal", "Internal", 500, prefix="urn:x:"),
    )
    assert table.problem_of(errors.BodyTooLargeError(5)).type == "urn:x:malformed"
    assert table.problem_of(RuntimeError()).type == "urn:x:serverInternal"


def leaves(cls: type[Exception]) -> list[type[Exception]]:
    """The classes below one that have no subclass."""
    below = cls.__subclasses__()
    return [leaf for sub in below for leaf in leaves(sub)] if below else [cls]


@pytest.mark.parametrize("cls", leaves(errors.RequestError))
def test_every_error_of_the_frame_has_a_row(cls: type[Exception]) -> None:
    """A new error of the frame without a row would become an internal error."""
    assert cls in FRAME_ROWS


def test_extra_members_and_absent_details() -> None:
    """Extra members stand beside the standard ones; an empty detail is left out."""
    document = orjson.loads(Problem("urn:x", "X", 400, extra={"serial": "0a"}).document())
    assert document == {"type": "urn:x", "title": "X", "status": 400, "serial": "0a"}
