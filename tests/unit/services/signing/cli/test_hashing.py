"""Digests of files in one reading, against hashlib and the signer's own idea of mu; and what is said meanwhile."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.keys.remote import reduce_message
from services.signing.cli.failures import FILES, USAGE, CommandError
from services.signing.cli.hashing import hash_file, read_digests
from services.signing.cli.progress import Progress

MIB = 1 << 20


class Terminal(io.StringIO):
    """What a terminal shows."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def no_advance(_octets: int) -> None:
    """Nobody watches."""


@pytest.mark.parametrize("size", [0, 1, MIB, 2 * MIB + 1])
def test_digests_and_mu_are_those_of_the_whole_file(tmp_path: Path, size: int) -> None:
    """Whatever the number of chunks; each octet is read once."""
    content = b"octet" * (size // 5 + 1)
    content, path = content[:size], tmp_path / "app.bin"
    path.write_bytes(content)
    keys = {f"k{level}": generate_private_key(ALGORITHMS[f"ml-dsa-{level}"]).public_key() for level in (44, 65)}
    seen: list[int] = []
    artefact = hash_file(path, ("sha256", "sha384", "sha512"), keys, seen.append)
    assert artefact.digests == {name: hashlib.new(name, content).digest() for name in ("sha256", "sha384", "sha512")}
    assert artefact.mu == {name: reduce_message(key, "mu", content) for name, key in keys.items()}
    assert (artefact.subject.name, artefact.subject.sha256) == ("app.bin", hashlib.sha256(content).hexdigest())
    assert sum(seen) == size


def test_a_file_that_grows_while_it_is_read_is_not_signed(tmp_path: Path) -> None:
    """Its digests would be those of a file that never was."""
    path = tmp_path / "app.bin"
    path.write_bytes(b"x" * (2 * MIB))

    def grow(_octets: int) -> None:
        with path.open("ab") as file:
            file.write(b"y")

    with pytest.raises(CommandError, match="was changed while") as raised:
        hash_file(path, ("sha256",), {}, grow)
    assert raised.value.status == FILES


@pytest.mark.parametrize("name", ["none", "."])
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    """A missing file and a directory."""
    with pytest.raises(OSError, match=r"No such file|directory") as raised:
        hash_file(tmp_path / name, ("sha256",), {}, no_advance)
    assert raised.value.filename is not None


def ticking(step: float) -> Iterator[float]:
    """A clock that goes on by so much each time it is looked at."""
    now = 0.0
    while True:
        yield now
        now += step


def test_a_terminal_shows_one_line_for_a_large_file() -> None:
    """It is drawn over, ten times a second at most, and ends whole."""
    stream = Terminal()
    clock = ticking(0.03)
    progress = Progress("reading app", 100 * MIB, asked=False, stream=stream, monotonic=lambda: next(clock))
    for _ in range(100):
        progress.advance(MIB)
    progress.end()
    shown = stream.getvalue()
    assert shown.count("\n") == 1
    assert shown.count("\r") < 40
    assert shown.endswith("\rreading app: 100 % of 100.0 MiB\n")


def test_small_files_and_other_streams_are_not_spoken_of() -> None:
    """Logs of CI stay short unless it is asked for."""
    small, elsewhere = Terminal(), io.StringIO()
    for progress in (
        Progress("reading", MIB, asked=False, stream=small),
        Progress("reading", 100 * MIB, asked=False, stream=elsewhere),
    ):
        progress.advance(MIB)
        progress.end()
    assert small.getvalue() == elsewhere.getvalue() == ""


def test_a_log_gets_a_line_for_each_tenth_where_it_is_asked_for() -> None:
    """And nothing that only a terminal understands."""
    stream = io.StringIO()
    progress = Progress("reading", 100 * MIB, asked=True, stream=stream)
    for _ in range(100):
        progress.advance(MIB)
    progress.end()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11
    assert (lines[0], lines[-1]) == ("reading:   1 % of 100.0 MiB", "reading: 100 % of 100.0 MiB")
    assert "\r" not in stream.getvalue()


def test_an_empty_file_is_read_whole() -> None:
    """No division by nothing."""
    stream = io.StringIO()
    progress = Progress("reading", 0, asked=True, stream=stream)
    progress.advance(0)
    assert stream.getvalue() == "reading: 100 % of 0.0 MiB\n"


def test_digests_are_read_one_or_several_at_once() -> None:
    """By the names of their hashes, in either case."""
    assert read_digests(f"sha256:{'aB' * 32}") == {"sha256": bytes.fromhex("ab" * 32)}
    assert read_digests(f"sha256:{'a' * 64},sha512:{'b' * 128}").keys() == {"sha256", "sha512"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "a" * 64,
        f"sha256:{'a' * 63}",
        f"sha256:{'g' * 64}",
        f"md5:{'a' * 32}",
        f"sha512:{'a' * 64}",
        f"sha256:{'a' * 64},",
        f"sha256:{'a' * 64},sha256:{'b' * 64}",
        f"sha256: {'a' * 63}",
    ],
)
def test_what_is_no_digest_is_wrong_usage(text: str) -> None:
    """Another length, hash, or alphabet; the same hash twice."""
    with pytest.raises(CommandError, match="is no digest") as raised:
        read_digests(text)
    assert raised.value.status == USAGE
