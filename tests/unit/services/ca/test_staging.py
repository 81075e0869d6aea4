"""Directories that end with their process, and what is left of a ceremony that was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from services.ca.layout import SIGNER, Layout
from services.ca.staging import abandoned, held_directory, remove_unfinished, staged

HOLDER = """
import sys, time
from pathlib import Path
from services.ca.staging import held_directory
with held_directory("pki.partial-", Path(sys.argv[1])) as made:
    print(made, flush=True)
    time.sleep(600)
"""


def test_a_directory_that_is_held_is_not_abandoned(tmp_path: Path) -> None:
    """Another ceremony that runs now keeps its files; at its end they are gone."""
    with held_directory("pki.partial-", tmp_path) as made:
        assert made.is_dir()
        assert abandoned("pki.partial-", tmp_path) == []
        assert remove_unfinished(Layout(tmp_path / "pki")) == []
    assert not made.exists()


def test_what_a_killed_ceremony_left_is_removed_and_its_keys_are_named(tmp_path: Path) -> None:
    """SIGKILL frees the lock: the next ceremony of the same directory cleans up, and of no other."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        assert abandoned("pki.partial-", tmp_path) == []
        process.kill()
    Layout(left).state(SIGNER).mkdir()
    assert remove_unfinished(Layout(tmp_path / "another")) == []
    (sentence,) = remove_unfinished(Layout(tmp_path / "pki"))
    assert str(left) in sentence
    assert "ca.issuing-ecdsa" in sentence
    assert list(tmp_path.iterdir()) == []


def test_a_finished_directory_takes_its_place(tmp_path: Path) -> None:
    """It is renamed whole, and nothing lies beside it."""
    layout = Layout(tmp_path / "pki")
    with staged(layout, []) as staging:
        (staging.root / "file").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["pki"]
    assert (layout.root / "file").read_text() == "x"
