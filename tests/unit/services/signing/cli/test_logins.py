"""Where logins are kept, and from whom."""

from __future__ import annotations

import stat
import threading
from pathlib import Path
from typing import Final

import orjson
import pytest

from services.signing.cli.failures import FILES, CommandError
from services.signing.cli.logins import Login, Logins

SERVICE: Final = "https://signing.example.org"
LOGIN: Final = Login(SERVICE, "https://id.example.org", "pqcsign", "alice", "a.b.c", 1_900_000_000, "again")


def test_a_login_is_kept_for_its_service_and_its_user(tmp_path: Path) -> None:
    """What is read is what was kept; neither other users nor other services get it; no repr shows a token."""
    logins = Logins.of({"XDG_STATE_HOME": str(tmp_path / "state"), "HOME": "/nowhere"})
    path = logins.keep(LOGIN)
    assert logins.find(SERVICE) == LOGIN
    assert logins.find("https://signing.example.org:7000") is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "a.b.c" not in repr(LOGIN)
    assert "again" not in repr(LOGIN)


def test_the_directory_follows_xdg(tmp_path: Path) -> None:
    """A relative XDG_STATE_HOME is ignored, as its specification has it; without a home there is no place."""
    assert str(tmp_path / ".local/state/pqcsign") in str(
        Logins.of({"HOME": str(tmp_path), "XDG_STATE_HOME": "state"}).path(SERVICE)
    )
    for environment in ({}, {"HOME": ""}, {"HOME": "relative"}):
        with pytest.raises(CommandError, match="XDG_STATE_HOME") as raised:
            Logins.of(environment)
        assert raised.value.status == FILES


def test_a_login_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    """It may be known to others, or made by them."""
    logins = Logins(tmp_path)
    path = logins.keep(LOGIN)
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(CommandError, match="not yours alone"):
            logins.find(SERVICE)


def test_a_link_in_place_of_a_login_is_not_followed(tmp_path: Path) -> None:
    """Whoever can place a link must not choose the token that is shown."""
    logins = Logins(tmp_path / "mine")
    path = logins.keep(LOGIN)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        logins.find(SERVICE)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"x" * 200_000])
def test_a_file_that_is_no_login_is_named(tmp_path: Path, content: bytes) -> None:
    """With what to do about it."""
    logins = Logins(tmp_path)
    path = logins.keep(LOGIN)
    path.write_bytes(content)
    with pytest.raises(CommandError, match="is no login") as raised:
        logins.find(SERVICE)
    assert raised.value.advice is not None


def test_a_login_that_was_renamed_for_another_service_is_not_taken(tmp_path: Path) -> None:
    """The service stands in the file as well."""
    logins = Logins(tmp_path)
    logins.keep(LOGIN).rename(logins.path("https://evil.example.org"))
    with pytest.raises(CommandError, match="for another service"):
        logins.find("https://evil.example.org")


def test_a_login_can_be_forgotten(tmp_path: Path) -> None:
    """Once; the second time there is nothing."""
    logins = Logins(tmp_path)
    logins.keep(LOGIN)
    assert (logins.forget(SERVICE), logins.forget(SERVICE), logins.find(SERVICE)) == (True, False, None)


def test_one_command_at_a_time_renews(tmp_path: Path) -> None:
    """Whoever comes second waits until the first has kept what it got."""
    logins, order = Logins(tmp_path), list[str]()

    def second() -> None:
        with Logins(tmp_path).turn(SERVICE):
            order.append("second")

    with logins.turn(SERVICE):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_what_is_kept_is_json_without_surprises(tmp_path: Path) -> None:
    """One object of texts and a number; nothing else is left in the directory."""
    path = Logins(tmp_path).keep(LOGIN)
    assert list(tmp_path.iterdir()) == [path]
    assert set(orjson.loads(path.read_bytes())) == set(Login.__slots__)
