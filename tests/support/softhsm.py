"""Throw-away SoftHSM2 tokens: the real module, no device."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.signer_hsm.backends.settings import Pkcs11Settings
from tests.support.backend_world import WorldMissingError

PIN = "97531086"
SO_PIN = "86420975"
LABEL = "pqcpki-test"
_PATTERNS = ("usr/lib/softhsm/libsofthsm2.so", "usr/lib/*/softhsm/libsofthsm2.so", "usr/lib*/pkcs11/libsofthsm2.so")


def softhsm_module() -> Path:
    """Where the distribution put the module.

    Raises:
        WorldMissingError: it is not installed.
    """
    found = [path for pattern in _PATTERNS for path in sorted(Path("/").glob(pattern))]
    if not found or shutil.which("softhsm2-util") is None:
        raise WorldMissingError("softhsm2 missing (apt-get install softhsm2)")
    return found[0]


@dataclass(frozen=True)
class SoftHsm:
    """A SoftHSM2 installation of its own below a directory.

    Attributes:
        home: it holds `tokens`, the configuration and the PIN file.
        module: the shared object.
    """

    home: Path
    module: Path

    @property
    def tokens(self) -> Path:
        """Where the tokens lie."""
        return self.home / "tokens"

    @property
    def configuration(self) -> Path:
        """What SOFTHSM2_CONF names."""
        return self.home / "softhsm2.conf"

    @property
    def pin_file(self) -> Path:
        """The file with the user PIN."""
        return self.home / "pin"

    @property
    def environment(self) -> Mapping[str, str]:
        """What the module needs."""
        return {"SOFTHSM2_CONF": str(self.configuration)}

    def settings(self, **changes: Any) -> Pkcs11Settings:  # noqa: ANN401 -- any field of the settings
        """Settings of a back end on this token."""
        values = {
            "name": "softhsm",
            "type": "pkcs11",
            "module": self.module,
            "token_label": LABEL,
            "pin_file": self.pin_file,
            "environment": dict(self.environment),
            "allow_import": True,
        }
        return Pkcs11Settings.model_validate(values | changes)

    def add_token(self, label: str = LABEL) -> None:
        """Make a token with the user PIN."""
        self._run("softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", PIN)

    def python(self, code: str) -> str:
        """What a program in a process of its own prints; it finds the module in SOFTHSM2_MODULE."""
        return self._run(sys.executable, "-c", code)

    def _run(self, *command: str) -> str:
        environment = {"PATH": "/usr/bin:/bin", "SOFTHSM2_MODULE": str(self.module), **self.environment}
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)
        return done.stdout


def new_softhsm(tmp_path: Path) -> SoftHsm:
    """An installation with one token.

    Raises:
        WorldMissingError: SoftHSM2 is not installed.
    """
    home = tmp_path / "softhsm"
    made = SoftHsm(home, softhsm_module())
    made.tokens.mkdir(parents=True, mode=0o700)
    made.configuration.write_text(
        f"directories.tokendir = {made.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    made.pin_file.touch(mode=0o600)
    made.pin_file.write_text(PIN + "\n")
    made.add_token()
    return made
