"""What a perspective answers: whether it sees the proof, from where it stands. It decides nothing and keeps nothing."""

from __future__ import annotations

from typing import Final, Protocol

from pkicore.errors import MalformedError
from services.acme.challenges.attempt import Attempt, PerspectiveAnswer
from services.acme.errors import AcmeError, ValidationError
from services.acme.perspectives.settings import SERVICE
from services.acme.perspectives.wire import MAX_QUESTION, PATH, Verdict, attempt_of
from services.chassis.asgi import Application, Request, Response, Route
from services.chassis.observability import HttpMetrics
from services.chassis.peer import CallerPolicy
from services.chassis.problems import ProblemTable, problem

_PROBLEMS: Final = ProblemTable(
    {
        MalformedError: problem("malformed", "Malformed request", 400),
        AcmeError: problem("overloaded", "Overloaded", 503),  # of all refusals, "rateLimited" alone is not a verdict
    }
)


class Validates(Protocol):
    """Whoever looks whether a challenge has been met; `services.acme.validation.Validator` is one."""

    async def validate(self, attempt: Attempt) -> tuple[PerspectiveAnswer, ...]:
        """Return when control is proven, ValidationError when it is not, AcmeError when nothing was tried."""


class Validations:
    """The one endpoint."""

    def __init__(self, validator: Validates) -> None:
        self._validator = validator

    async def post(self, request: Request) -> Response:
        """Try once.

        Raises:
            MalformedError: no question.
            AcmeError: too many validations wait; nothing was tried.
        """
        question = await request.body()
        try:
            await self._validator.validate(attempt_of(question))
        except ValidationError as error:
            return _answer(Verdict.of(question, error))
        return _answer(Verdict.of(question, None))


def perspective_application(validator: Validates, policy: CallerPolicy, metrics: HttpMetrics) -> Application:
    """What answers on the mTLS listener."""

    def guard(request: Request) -> None:
        policy.authorize(request.peer, SERVICE, request.method, request.path)

    routes = [Route("POST", PATH, Validations(validator).post, ("application/json",), MAX_QUESTION)]
    return Application(SERVICE, routes, problems=_PROBLEMS, metrics=metrics, guard=guard)


def _answer(verdict: Verdict) -> Response:
    return Response(200, verdict.to_json(), [(b"content-type", b"application/json"), (b"cache-control", b"no-store")])
