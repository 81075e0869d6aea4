"""`ztca acme request`, `renew` and `revoke` before they ask anybody."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from services.acme.cli.main import acme

ASKED = ("request", "--server", "https://ca.test/directory", "--domain")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("a.test",), "say either --webroot DIR or --standalone"),
        (("a.test", "--webroot", "w", "--standalone", "80"), "say either --webroot DIR or --standalone"),
        (("a.test", "--standalone", "http"), "--standalone wants [ADDRESS:]PORT, not http"),
        (("a.test", "--standalone", "70000"), "--standalone wants [ADDRESS:]PORT, not 70000"),
        (("*.a.test", "--standalone", "80"), "a wildcard is proven by DNS alone"),
        (("a.test", "--standalone", "80", "--eab-kid", "k"), "--eab-kid and --eab-mac-key-file go together"),
        (("a.test", "--standalone", "80", "--ca-bundle", "none.pem"), "none.pem is no bundle of certificates"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_sent(
    tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    """One sentence and exit status 1; no account is made."""
    result = CliRunner().invoke(acme, [*ASKED, *arguments, "--out", str(tmp_path / "out")])
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert sentence in result.output
    assert not (tmp_path / "out").exists()


def test_a_server_that_does_not_answer_is_told(tmp_path: Path) -> None:
    """The sentence has its URL, and `renew` says what to do first."""
    out = ("--out", str(tmp_path))
    asked = ("request", "--server", "https://127.0.0.1:1/d", "--domain", "a.test", "--standalone", "80")
    for arguments, sentence in ((asked, "no answer from https://127.0.0.1:1/d"), (("renew",), "request first")):
        result = CliRunner().invoke(acme, [*arguments, *out])
        assert result.exit_code == 1
        assert sentence in result.output
