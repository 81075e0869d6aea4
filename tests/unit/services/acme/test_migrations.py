from __future__ import annotations

import sqlite3
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from services.acme.app import MIGRATIONS
from services.acme.schema import metadata
from services.chassis import migrations
from services.chassis.migrations.upgrade import schema_differences

BEFORE = """
INSERT INTO accounts VALUES ('a', 'valid', 't', '{}', '[]', NULL, 1);
INSERT INTO orders VALUES ('o', 'a', 'ready', '[]', 99, 1, NULL, NULL, NULL);
INSERT INTO authorizations VALUES ('y', 'o', 'a', 1, 'dns', 'b', 0, 'valid', 99);
INSERT INTO authorizations VALUES ('z', 'o', 'a', 0, 'dns', 'a', 1, 'valid', 99);
INSERT INTO challenges VALUES ('c', 'z', 'dns-01', 't', 'valid', 3, NULL);
"""
AHEAD = """
INSERT INTO authorizations VALUES ('n', 'a', 'dns', 'n', 0, 'pending', 99);
INSERT INTO challenges (id, authorization_id, type, token, status) VALUES ('d', 'n', 'dns-01', 't', 'pending');
"""


def move(path: Path, revision: str) -> None:
    """Bring the database to a revision, up or down."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(MIGRATIONS / "versions"))
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if revision == "0001" and path.stat().st_size else command.upgrade)(config, revision)
    engine.dispose()


def run(path: Path, script: str) -> None:
    """Run some SQL."""
    with sqlite3.connect(path) as connection:
        connection.executescript(script)
    connection.close()


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """What a query finds."""
    connection = sqlite3.connect(path)
    found = connection.execute(query).fetchall()
    connection.close()
    return found


async def test_orders_keep_their_authorizations(tmp_path: Path) -> None:
    """What was stored before authorizations could serve several orders is there after it, and after going back."""
    path = tmp_path / "acme.sqlite3"
    path.touch()
    move(path, "0001")
    run(path, BEFORE)
    move(path, "head")
    assert await schema_differences(f"sqlite:///{path}", metadata) == []
    links = rows(path, "SELECT * FROM order_authorizations ORDER BY position")
    assert links == [("o", 0, "z"), ("o", 1, "y")]
    assert rows(path, "SELECT profile FROM orders") == [("server",)]
    run(path, AHEAD)
    move(path, "0001")
    kept = rows(path, "SELECT id, order_id, position FROM authorizations ORDER BY position")
    assert kept == [("z", "o", 0), ("y", "o", 1)]
    assert rows(path, "SELECT id FROM challenges") == [("c",)]
