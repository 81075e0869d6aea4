"""The file that `--signer-backends` names, before a ceremony begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from services.ca.cli.main import main
from services.ca.errors import CeremonyError
from services.ca.signer_settings import read_backends, require_files

BACKEND = '[[backends]]\nname = "file"\ntype = "file"\ndirectory = "{0}/sealed"\npassphrase_file = "{1}"\n'


def backends(directory: Path, passphrase: Path | str, root: Path, *, given: Path | None = None) -> None:
    """Read a file with one back end, for a ceremony in `root`, and look for what it names."""
    (directory / "backends.toml").write_text(BACKEND.format(directory, passphrase))
    found = read_backends(directory / "backends.toml")
    require_files(found, root, given or root / "secrets" / "passphrase", is_made=given is None)


def test_the_passphrase_that_is_made_may_be_named(tmp_path: Path) -> None:
    """Below the new directory, however it is written."""
    root = tmp_path / "pki"
    backends(tmp_path, root / "secrets" / "passphrase", root)
    backends(tmp_path, f"{tmp_path}/x/../pki/secrets/passphrase", root)


def test_with_a_passphrase_of_ones_own_none_is_made(tmp_path: Path) -> None:
    """The sentence names the file to name instead, and the option to leave out."""
    root, own = tmp_path / "pki", tmp_path / "own"
    own.touch()
    with pytest.raises(CeremonyError, match=f"with --passphrase-file none is made there: name {own} here, or leave"):
        backends(tmp_path, root / "secrets" / "passphrase", root, given=own)


@pytest.mark.parametrize(
    ("named", "remedy"),
    [
        ("elsewhere/pass", "make it first, with mode 0600; or name {0}/pki/secrets/passphrase, which is made"),
        ("pki/pass", "keep it outside {0}/pki, which is made anew; or name {0}/pki/secrets/passphrase, which is made"),
    ],
)
def test_a_missing_file_is_named_with_its_remedy(tmp_path: Path, named: str, remedy: str) -> None:
    """The ceremony opens back ends before anything is there."""
    with pytest.raises(CeremonyError, match="passphrase_file of the back end file names") as refused:
        backends(tmp_path, tmp_path / named, tmp_path / "pki")
    assert str(refused.value).endswith(remedy.format(tmp_path))


def test_init_says_so_before_it_makes_anything(tmp_path: Path) -> None:
    """One sentence, status 1, and no directory."""
    file, root, own = tmp_path / "backends.toml", tmp_path / "pki", tmp_path / "own"
    own.touch(mode=0o600)
    file.write_text(BACKEND.format(tmp_path, root / "secrets" / "passphrase"))
    options = ("--keys", "signer-hsm", "--signer-backends", str(file), "--passphrase-file", str(own))
    result = CliRunner().invoke(main, ["init", "--dir", str(root), *options])
    assert result.exit_code == 1
    assert "leave the option out" in result.output
    assert len(result.output.splitlines()) == 1
    assert set(tmp_path.iterdir()) == {file, own}
