import pytest
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.dialects.sqlite import dialect as sqlite_dialect
from sqlalchemy.engine import Dialect

from services.acme.store.statements import STATEMENTS
from services.chassis.database.statement import compile_statement

ENGINES: dict[str, Dialect] = {
    "sqlite": sqlite_dialect(paramstyle="qmark"),
    "postgresql": asyncpg_dialect(),  # type: ignore[no-untyped-call] # SQLAlchemy left it untyped
}


@pytest.mark.parametrize("engine", ENGINES)
def test_every_statement_is_one_of_both_engines(engine: str) -> None:
    """The server compiles each when it is first asked for; that each can be is seen here."""
    for name, statement in STATEMENTS.items():
        assert compile_statement(statement, ENGINES[engine]).sql, name
