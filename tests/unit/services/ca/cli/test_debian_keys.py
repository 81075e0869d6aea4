"""`ztca debian-keys` makes a list that the CA can be given."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from click.testing import CliRunner

from pkicore.weak_keys.debian import MACHINES, SEED_FILES
from services.ca.cli.debian_keys import debian_keys, extend_list
from services.chassis.published_keys import open_published_keys


def test_what_is_in_the_list_stays_in_it(tmp_path: Path) -> None:
    """The records of another list are kept, the new ones are put among them in order, and the CA takes the result."""
    out = tmp_path / "list.dat"
    out.write_bytes(bytes(16) + b"\xff" * 16)
    recipes = product((1,), (512,), MACHINES, SEED_FILES)  # small ones, which are quickly made
    assert extend_list(out, recipes, processes=1) == 8
    assert len(open_published_keys(out)) == 8
    assert out.read_bytes()[:16] == bytes(16)


def test_another_file_is_not_written_over(tmp_path: Path) -> None:
    """A file that is no list stays as it is."""
    out = tmp_path / "letter.txt"
    out.write_bytes(b"Dear")
    run = CliRunner().invoke(debian_keys, ["--out", str(out), "--last", "1"])
    assert run.exit_code == 1
    assert out.read_bytes() == b"Dear"
