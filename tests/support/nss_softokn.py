"""NSS softokn with its own database: a real PKCS#11 module that has ML-DSA; .ci/fetch_nss_softokn.sh brings it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.signer_hsm.backends.settings import Pkcs11Settings
from tests.support.backend_world import WorldMissingError

PIN = "97531086"
LABEL = "NSS Certificate DB"
_LIBRARIES = Path(__file__).parents[2] / ".cache" / "nss-softokn"

# A fresh database has an empty SO PIN, and no user PIN before the SO sets one.
_SET_PIN = """
import ctypes, os, sys
ctypes.CDLL(sys.argv[1] + "/libnssutil3.so", ctypes.RTLD_GLOBAL)
import pkcs11
token = pkcs11.lib(sys.argv[1] + "/libsoftokn3.so").get_token(token_label=sys.argv[2])
officer = token.open(rw=True, so_pin="")
officer.init_pin(sys.stdin.read())
officer.close()
"""


@dataclass(frozen=True)
class NssSoftokn:
    """A key database below a directory.

    Attributes:
        home: it holds the database and the PIN file.
    """

    home: Path

    @property
    def pin_file(self) -> Path:
        """The file with the user PIN."""
        return self.home / "pin"

    @property
    def environment(self) -> Mapping[str, str]:
        """What the module reads when it starts."""
        directory = self.home / "database"
        return {"NSS_LIB_PARAMS": f"configdir='sql:{directory}' certPrefix='' keyPrefix='' secmod='secmod.db' flags="}

    def settings(self, **changes: Any) -> Pkcs11Settings:  # noqa: ANN401 -- any field of the settings
        """Settings of a back end on this database."""
        values = {
            "name": "nss",
            "type": "pkcs11",
            "module": _LIBRARIES / "libsoftokn3.so",
            "preload": (_LIBRARIES / "libnssutil3.so",),
            "token_label": LABEL,
            "pin_file": self.pin_file,
            "environment": dict(self.environment),
            "allow_import": True,
        }
        return Pkcs11Settings.model_validate(values | changes)


def new_nss_softokn(tmp_path: Path) -> NssSoftokn:
    """A database with a user PIN.

    Raises:
        WorldMissingError: the module has not been fetched.
    """
    if not (_LIBRARIES / "libsoftokn3.so").exists():
        raise WorldMissingError("NSS softokn missing (.ci/fetch_nss_softokn.sh)")
    made = NssSoftokn(tmp_path / "nss")
    (made.home / "database").mkdir(parents=True, mode=0o700)
    made.pin_file.touch(mode=0o600)
    made.pin_file.write_text(PIN)
    subprocess.run(
        (sys.executable, "-c", _SET_PIN, str(_LIBRARIES), LABEL),
        input=PIN,
        env={**os.environ, **made.environment},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return made
