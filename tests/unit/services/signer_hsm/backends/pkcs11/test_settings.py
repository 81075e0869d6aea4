import os
from pathlib import Path

import pytest

from services.signer_hsm.backends.pkcs11.settings import read_pin
from services.signer_hsm.backends.settings import Pkcs11Settings
from services.signer_hsm.errors import MisconfiguredError


def settings(**changes: object) -> Pkcs11Settings:
    """Settings that say where the PIN is."""
    values = {"name": "hsm", "type": "pkcs11", "module": "/m.so", "token_label": "t"}
    return Pkcs11Settings.model_validate(values | changes)


@pytest.fixture
def pin_file(tmp_path: Path) -> Path:
    """A file of mode 0600."""
    path = tmp_path / "pin"
    path.touch(mode=0o600)
    return path


@pytest.mark.parametrize(("content", "pin"), [("1234", b"1234"), ("1234\n", b"1234"), ("12 34\r\n", b"12 34")])
def test_the_line_end_is_no_part_of_it(pin_file: Path, content: str, pin: bytes) -> None:
    """Editors end a line; PINs may have blanks inside."""
    pin_file.write_bytes(content.encode())
    assert read_pin(settings(pin_file=pin_file)) == pin


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_file_for_others_is_refused(pin_file: Path, mode: int) -> None:
    """Whoever else could read or write it keeps the back end from starting; the PIN is not in the sentence."""
    pin_file.write_text("97531086")
    pin_file.chmod(mode)
    with pytest.raises(MisconfiguredError, match="mode 0600") as refusal:
        read_pin(settings(pin_file=pin_file))
    assert "97531086" not in str(refusal.value)


@pytest.mark.parametrize(("content", "sentence"), [("", "missing"), ("\n", "missing"), ("1" * 256, "more than 255")])
def test_no_pin_and_too_much_of_it(pin_file: Path, content: str, sentence: str) -> None:
    """An empty or endless file is no PIN."""
    pin_file.write_text(content)
    with pytest.raises(MisconfiguredError, match=sentence):
        read_pin(settings(pin_file=pin_file))


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    """What cannot be read says so."""
    with pytest.raises(MisconfiguredError, match="cannot be read"):
        read_pin(settings(pin_file=tmp_path))
    with pytest.raises(MisconfiguredError, match="cannot be read"):
        read_pin(settings(pin_file=tmp_path / "none"))


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    """A pipe that nobody writes to is refused, not waited for."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(MisconfiguredError, match="must be a file"):
        read_pin(settings(pin_file=pipe))


def test_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is read each time, so that a new PIN needs no restart where the environment can change."""
    wanted = settings(pin_variable="PQCPKI_TEST_PIN")
    with pytest.raises(MisconfiguredError, match="PQCPKI_TEST_PIN"):
        read_pin(wanted)
    monkeypatch.setenv("PQCPKI_TEST_PIN", "0001password")
    assert read_pin(wanted) == b"0001password"
