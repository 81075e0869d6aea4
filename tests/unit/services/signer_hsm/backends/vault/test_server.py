"""States and versions of servers."""

from typing import Any

import pytest

from services.signer_hsm.backends.vault.http import Answer
from services.signer_hsm.backends.vault.server import ask, diagnosed
from services.signer_hsm.errors import BackendError, BadAnswerError, DeadlineError, UnavailableError


class OneAnswer:
    """Stands where the connections to a server would: each request gets this answer."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        self._answer = Answer(status, body)

    def call(self, *request: object, **more: object) -> Answer:
        """The answer."""
        del request, more
        return self._answer


def asked(status: int, **body: Any) -> Any:  # noqa: ANN401 - the state
    """The state behind such an answer."""
    return ask(OneAnswer(status, body))  # type: ignore[arg-type] # the one method that is called


@pytest.mark.parametrize(
    ("status", "state", "serves"),
    [
        (200, "active", True),
        (429, "standby", True),
        (472, "recovery-standby", False),
        (473, "performance-standby", True),
        (501, "uninitialised", False),
        (503, "sealed", False),
    ],
)
def test_states_by_status(status: int, state: str, *, serves: bool) -> None:
    """Each status of sys/health is one state."""
    found = asked(status, version="1.21.4")
    assert (found.state, found.serves) == (state, serves)


def test_another_status_is_no_state() -> None:
    """A proxy's 404, for one."""
    with pytest.raises(BadAnswerError):
        asked(404)


@pytest.mark.parametrize(
    ("body", "mldsa"),
    [
        ({"version": "2.6.2"}, None),
        ({"version": "2.7.0"}, "openbao"),
        ({"version": "v2.7.0-beta20270101"}, "openbao"),
        ({"version": "3.0.0"}, "openbao"),
        ({"version": "1.21.4", "enterprise": False}, None),
        ({"version": "2.7.0", "enterprise": False}, None),
        ({"version": "1.18.5+ent", "enterprise": True}, None),
        ({"version": "1.19.0+ent", "enterprise": True}, "vault"),
        ({"version": "1.21.4+ent.hsm.fips1403"}, "vault"),
        ({"version": "9" * 100}, None),
        ({"version": 7}, None),
        ({}, None),
    ],
)
def test_mldsa_by_version(body: dict[str, Any], mldsa: str | None) -> None:
    """Only where the version is known to have it."""
    assert asked(200, **body).mldsa == mldsa


@pytest.mark.parametrize(
    ("status", "error", "word"),
    [
        (503, UnavailableError("x"), "sealed"),
        (501, UnavailableError("x"), "initialised"),
        (429, UnavailableError("x"), "standby"),
        (473, BadAnswerError("x"), "performance"),
        (200, UnavailableError("x"), "x"),
        (429, BadAnswerError("x"), "x"),
        (503, DeadlineError("x"), "x"),
        (404, UnavailableError("x"), "x"),
    ],
)
def test_the_state_explains_an_error_or_leaves_it(status: int, error: BackendError, word: str) -> None:
    """A deadline stays one: what was asked may have been done."""
    assert word in str(diagnosed(OneAnswer(status, {}), error))  # type: ignore[arg-type] # the one method that is called
