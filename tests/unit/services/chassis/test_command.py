import sqlite3
from contextlib import closing
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.acme.app import MIGRATIONS, serve
from services.acme.settings import AcmeSettings
from services.chassis.command import importing, service_command
from services.chassis.migrations import newest_revision


def settings_file(directory: Path) -> Path:
    """Settings of an ACME server that has nothing but a database."""
    names = ("policy_file", "trust_bundle", "issuers_directory", "tls_certificate", "tls_key", "passphrase_file")
    lines = [f'{name} = "{directory / name}"' for name in (*names, "state_dir")]
    lines += [f'audit_key = "file:{directory}/audit.key"', 'ca_url = "https://ca:5000"']
    lines += ['ca_status_url = "http://ca:5080"', f'database_url = "sqlite:///{directory}/acme.sqlite3"']
    path = directory / "acme.toml"
    path.write_text("\n".join(lines))
    return path


def test_a_migration_needs_the_database_alone(tmp_path: Path) -> None:
    """`--migrate` brings the database to the newest schema and ends, though no key, trust or certificate is there."""
    command = service_command("acme", AcmeSettings, serve, migrations=MIGRATIONS)
    done = CliRunner().invoke(command, ["--config", str(settings_file(tmp_path)), "--migrate"])
    assert done.exit_code == 0, done.output
    with closing(sqlite3.connect(tmp_path / "acme.sqlite3")) as database:
        found = database.execute("select version_num from alembic_version").fetchall()
    assert found == [(newest_revision(MIGRATIONS / "versions"),)]


def test_a_service_without_database_has_nothing_to_migrate(tmp_path: Path) -> None:
    """`--migrate` of a service that has no migrations is refused in a sentence."""
    command = service_command("acme", AcmeSettings, serve)
    done = CliRunner().invoke(command, ["--config", str(settings_file(tmp_path)), "--migrate"])
    assert (done.exit_code, done.output) == (1, "acme: --migrate: this service has no database\n")


def test_a_missing_extra_is_named_in_a_sentence() -> None:
    """A service whose libraries are not installed ends with one line that says how to install them."""
    with pytest.raises(SystemExit) as ended, importing("acme", "acme"):
        import_module("not_installed.resolver")
    assert ended.value.code == "acme: the Python module 'not_installed' is missing: pip install 'pqcpki[acme]'"


def test_a_missing_module_of_our_own_is_no_extra() -> None:
    """That is a broken installation, and no extra would mend it."""
    with pytest.raises(ModuleNotFoundError), importing("acme", "acme"):
        import_module("services.acme.not_there")
