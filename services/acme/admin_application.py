"""What answers on the admin listener: the frame and its problems now, FastAPI at an operator's first request."""

from __future__ import annotations

from typing import Final

from pkicore.errors import MalformedError, PkiError
from services.acme.administration import Administration
from services.acme.errors import NotKnownError, NotPossibleError
from services.chassis.asgi import Application, AsgiApp
from services.chassis.errors import InvalidValueError, SettingsError
from services.chassis.first_use import OnFirstUse
from services.chassis.observability import HttpMetrics
from services.chassis.peer import CallerPolicy
from services.chassis.problems import ProblemTable, problem

PROBLEMS: Final = ProblemTable(
    {
        MalformedError: problem("malformed", "Malformed request", 400),
        InvalidValueError: problem("malformed", "Malformed request", 400),
        PkiError: problem("not-usable", "A file of the server cannot be used", 503),
        SettingsError: problem("not-usable", "A file of the server cannot be used", 503),
        NotKnownError: problem("not-known", "Nothing has this name", 404),
        NotPossibleError: problem("not-possible", "Not possible now", 409),
    }
)


def admin_application(administration: Administration, policy: CallerPolicy, metrics: HttpMetrics) -> Application:
    """The application of the admin listener."""

    def admin() -> AsgiApp:
        from services.acme.admin import acme_admin  # FastAPI, a third of the start-up time

        return acme_admin(administration, policy)

    return Application("acme-admin", (), problems=PROBLEMS, metrics=metrics, admin=OnFirstUse(admin))
