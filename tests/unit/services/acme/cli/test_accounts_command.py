from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from services.acme.cli.main import acme


@pytest.mark.parametrize("account", ["-Eabc", "abc", "https://localhost:4000/acme/acct/-Eabc"])
@pytest.mark.parametrize("command", [["show"], ["deactivate"], ["agree", "--terms", "https://ca.example/terms"]])
def test_an_id_may_begin_with_a_hyphen(command: list[str], account: str, tmp_path: Path) -> None:
    """It is taken for the account, not for an option: what fails here is only that nothing runs."""
    result = CliRunner().invoke(acme, ["accounts", *command, account, "--dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "nothing runs in" in result.output
