"""scrypt asked once for each question: it takes a quarter of a second on purpose, and tests open the same files often.

The first answer to a passphrase, a salt and parameters is the library's own; the same question again has the same
answer. Only the library is stood in for, in the tests' own processes and in what `tests.support.fork_server` forks;
what `ztca up`, the README's commands and the demo start asks the library each time.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.kdf import scrypt as library

_LIBRARY: Final = library.Scrypt


class Memory:
    """Answers of one process; with a directory, which must be private, those of its forks too."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._answers: dict[str, bytes] = {}

    def install(self) -> None:
        """Stand in for the library in every module of this process that is imported from now on."""
        memory = self

        class RememberedScrypt:
            """As the library's, of which the project calls `derive` alone."""

            def __init__(self, *, salt: bytes, length: int, n: int, r: int, p: int) -> None:
                self._question = (salt, length, n, r, p)

            def derive(self, key_material: bytes) -> bytes:
                """What the library answers."""
                return memory.answer(*self._question, key_material)

        vars(library)["Scrypt"] = RememberedScrypt

    def answer(self, salt: bytes, length: int, n: int, r: int, p: int, key_material: bytes) -> bytes:
        """The derived key."""
        name = sha256(repr((salt, length, n, r, p, key_material)).encode()).hexdigest()
        if name not in self._answers:
            self._answers[name] = self._recalled(name) or self._kept(
                name, _LIBRARY(salt=salt, length=length, n=n, r=r, p=p).derive(key_material)
            )
        return self._answers[name]

    def _recalled(self, name: str) -> bytes | None:
        file = self._directory and self._directory / name
        return file.read_bytes() if file and file.exists() else None

    def _kept(self, name: str, answer: bytes) -> bytes:
        if self._directory is not None:
            new = self._directory / f"{name}.{os.getpid()}"
            new.write_bytes(answer)
            new.replace(self._directory / name)
        return answer
