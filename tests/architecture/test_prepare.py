"""What demo.sh and test.sh do before anything else."""

import subprocess
from pathlib import Path

import pytest

from tests.support.console import ROOT


@pytest.mark.parametrize("linked", [".venv", ".venv/lib"])
def test_another_folders_environment_is_not_touched(tmp_path: Path, linked: str) -> None:
    """A clone whose environment is a link, or holds one, installs nothing: it would re-point the other folder's."""
    other, clone = tmp_path / "other", tmp_path / "clone"
    other.mkdir()
    (clone / linked).parent.mkdir(parents=True)
    (clone / linked).symlink_to(other)
    (clone / "pyproject.toml").touch()
    command = ["bash", "-euc", '. "$0"; prepare_venv all', str(ROOT / ".ci" / "prepare.sh")]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert ".venv is another folder's environment" in done.stderr
    assert not list(other.iterdir())
