"""What a process may load before it answers: a service is started at every crash, a command at every line typed."""

import subprocess
import sys

import pytest

SERVICES = ("services.acme.app", "services.ca.app", "services.signer_hsm.app", "services.signing.app")


@pytest.mark.parametrize(
    ("modules", "late"),
    [
        (SERVICES, ("fastapi", "alembic", "sqlalchemy.orm", "opentelemetry")),
        (("services.ca.cli.up", "services.ca.cli.endpoints"), ("httpx", "sqlalchemy", "pydantic", "services.ca.app")),
    ],
    ids=["services", "ztca up and ztca endpoints"],
)
def test_what_is_slow_to_load_is_loaded_where_it_is_needed(modules: tuple[str, ...], late: tuple[str, ...]) -> None:
    """FastAPI at an operator's first request, Alembic at a new schema, OpenTelemetry where traces are on."""
    program = (
        f"import sys\nfor module in {modules!r}: __import__(module)\nprint(*sorted(set({late!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == []
