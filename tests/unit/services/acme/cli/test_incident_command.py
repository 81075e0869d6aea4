"""What `ztca incident open` says before it asks the server anything."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from services.acme.cli.incident import incident


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ([], "at least one of --serials, --issuer, --profile, --account, --window"),
        (["--serials", "nofile.txt"], "there is no file 'nofile.txt', and it is no serial number"),
        (["--serials", "4F, xyz"], "there is no file '4F, xyz', and it is no serial number"),
        (["--serials", ","], "there is no serial number in ','"),
        (["--window", "yesterday"], "--window is START..END"),
    ],
)
def test_what_selects_nothing_is_told_by_options(tmp_path: Path, selection: list[str], said: str) -> None:
    """The sentence names the option, and what is wrong with it."""
    done = CliRunner().invoke(incident, ["open", "--dir", str(tmp_path), "--reason", "a test", "--yes", *selection])
    assert done.exit_code != 0
    assert said in " ".join(done.output.split())


def test_an_empty_file_of_serials_is_named(tmp_path: Path) -> None:
    """A file without a serial number is told apart from one that is not there."""
    empty = tmp_path / "serials.txt"
    empty.touch()
    done = CliRunner().invoke(incident, ["open", "--dir", str(tmp_path), "--reason", "a test", "--serials", str(empty)])
    assert done.exit_code != 0
    assert "there is no serial number in" in " ".join(done.output.split())
