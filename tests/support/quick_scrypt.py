"""scrypt with a 64th of the work: it takes a quarter of a second on purpose, and tests seal and open hundreds of files.

The library's own answer, to the same question but for the cost. So what the tests' own processes and those that
`tests.support.fork_server` forks have sealed, none but they can open. What the README's commands and the demo start
asks the library as it is.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.kdf import scrypt as library

_LIBRARY: Final = library.Scrypt
_LESS: Final = 64


class QuickScrypt:
    """As the library's, of which the project calls `derive` alone."""

    def __init__(self, *, salt: bytes, length: int, n: int, r: int, p: int) -> None:
        self._scrypt = _LIBRARY(salt=salt, length=length, n=n // _LESS, r=r, p=p)

    def derive(self, key_material: bytes) -> bytes:
        """What the library answers; as there, once for each instance."""
        return self._scrypt.derive(key_material)


def install() -> None:
    """Stand in for the library in every module of this process that is imported from now on."""
    vars(library)["Scrypt"] = QuickScrypt
