"""`ztca profiles` says what the CA would say at its start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.ca.cli.profiles import profiles
from tests.support.pki import PROFILES

PACKAGED = (Path(__file__).parents[5] / "services/ca/profiles.toml").read_text()


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    """A folder with the profiles of a new deployment."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/profiles.toml").write_text(PACKAGED)
    return tmp_path


def test_every_profile_has_a_line(deployment: Path) -> None:
    """Name, life and callers, for people and in JSON."""
    run = CliRunner().invoke(profiles, ["--dir", str(deployment)])
    assert run.exit_code == 0, run.output
    assert len(run.output.splitlines()) == len(PROFILES)
    assert "issuing-ca" in run.output
    shown = json.loads(CliRunner().invoke(profiles, ["--dir", str(deployment), "--json"]).output)["profiles"]
    assert set(shown) == set(PROFILES)
    assert shown["server"]["families"]["rsa"] == ["rsa", "ecdsa"]
    assert shown["code-signing"]["validity_seconds"] == 600


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("ocsp = true", "ocsp = 1"), "profile server: ocsp"),
        (('callers = ["/service/ca"]', 'callers = ["/service/acme"]'), "profile ocsp-responder: callers"),
        (('"email:team.example"', '"mail:team.example"'), "profile sub-ca: name_constraints"),
        (('validity = "6d"', 'validity = "60d"'), "profile short-lived: no_rev_avail"),
        (("[server]", "[server"), "not TOML"),
    ],
)
def test_what_makes_no_sense_is_named(deployment: Path, wrong: tuple[str, str], said: str) -> None:
    """Profile and field are in the sentence, and the exit status says that it failed."""
    changed = deployment / "changed.toml"
    changed.write_text(PACKAGED.replace(*wrong, 1))
    assert changed.read_text() != PACKAGED
    run = CliRunner().invoke(profiles, ["--dir", str(deployment), "--file", str(changed)])
    assert run.exit_code == 1
    assert said in run.output
