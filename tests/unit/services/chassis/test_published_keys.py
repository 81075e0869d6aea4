"""Opening the list of published keys."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.chassis.errors import SettingsError
from services.chassis.published_keys import open_published_keys


def test_no_file_is_no_list() -> None:
    """Without a setting nothing is refused, and the log says so."""
    with capture_logs() as logs:
        assert len(open_published_keys(None)) == 0
    assert "Debian" in logs[0]["event"]


def test_a_list(tmp_path: Path) -> None:
    """Its records are counted, not read."""
    (tmp_path / "blocklist.dat").write_bytes(bytes(16) + b"\1" * 16)
    assert len(open_published_keys(tmp_path / "blocklist.dat")) == 2


@pytest.mark.parametrize("content", [None, b"", b"x" * 17])
def test_a_list_that_cannot_be_used_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    """Missing, empty or cut: the sentence names the setting and the file."""
    path = tmp_path / "blocklist.dat"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"published_keys_file: .*blocklist\.dat"):
        open_published_keys(path)
