from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.chassis.cli.lazy import LazyGroup


def test_a_command_whose_library_is_not_installed_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence with the way out, and no traceback; the help of the group needs no library."""
    package = tmp_path / "lazy_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "policy.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    group = LazyGroup(name="pqcsign", package="lazy_package", table={"policy": ("policy", "policy", "Policies.")})
    found = CliRunner().invoke(group, ["policy"])
    assert found.exit_code == 1
    assert "policy needs the library a_library_that_nobody_has" in found.output
    assert CliRunner().invoke(group, ["--help"]).exit_code == 0
