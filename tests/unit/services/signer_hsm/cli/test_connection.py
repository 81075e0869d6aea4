"""What `keyctl` says before it has reached anybody."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from services.chassis.errors import DeploymentError
from services.signer_hsm.cli.connection import _token
from services.signer_hsm.cli.main import main


def run(*words: str | Path) -> tuple[int, str]:
    """Exit status and standard error of a command."""
    result = CliRunner().invoke(main, [str(word) for word in words])
    return result.exit_code, result.stderr


def test_the_help_names_every_command() -> None:
    """Without importing any of them."""
    shown = CliRunner().invoke(main, ["--help"]).output
    for name in ("keys", "sign", "pubkey", "attestation", "approvals", "policy", "health"):
        assert f"\n  {name} " in shown
    assert CliRunner().invoke(main, ["nothing"]).exit_code == 2


def test_where_there_is_no_deployment_it_says_how_to_make_one(tmp_path: Path) -> None:
    """One sentence and exit status 1; likewise where it does not run."""
    code, sentence = run("health", "--dir", tmp_path / "none")
    assert (code, "ztca init" in sentence) == (1, True)
    code, sentence = run("health", "--dir", tmp_path)
    assert (code, "ztca up" in sentence) == (1, True)


def test_a_copy_without_trust_says_what_is_missing(tmp_path: Path) -> None:
    """endpoints.json alone is not enough on another machine."""
    (tmp_path / "endpoints.json").write_bytes(orjson.dumps({"signer_hsm": "https://localhost:1"}))
    code, sentence = run("health", "--dir", tmp_path)
    assert (code, "trust/" in sentence) == (1, True)


@pytest.mark.parametrize("option", ["--cert", "--key"])
def test_half_an_identity_is_none(tmp_path: Path, option: str) -> None:
    """--cert and --key go together."""
    code, sentence = run("health", "--dir", tmp_path, option, tmp_path / "file")
    assert (code, "belong together" in sentence) == (1, True)


def test_a_token_is_one_line(tmp_path: Path) -> None:
    """A token cannot smuggle a header in, nor fill the memory."""
    file = tmp_path / "token"
    file.write_text("abc.def.ghi\n")
    assert _token(file) == "abc.def.ghi"
    for wrong in (b"", b"a b", b"a\r\nx-y: z", b"\xc3\xa4", b"x" * 20_000):
        file.write_bytes(wrong)
        with pytest.raises(DeploymentError, match="one line"):
            _token(file)
