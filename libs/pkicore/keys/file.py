"""Keys in files: sealed by a passphrase, readable by their owner only, never overwritten."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

from pkicore.algorithms import (
    Algorithm,
    Payload,
    PrivateKey,
    PublicKey,
    algorithm_of,
    generate_private_key,
    sign_digest_with,
    sign_with,
)
from pkicore.encoding import write_new
from pkicore.errors import (
    KeyAccessError,
    KeyLockedError,
    KeyNotFoundError,
    KeyPermissionError,
    MalformedError,
    UnsupportedError,
)
from pkicore.keys.envelope import MAX_ENVELOPE_BYTES, seal, unseal

__all__ = ["FileKey", "create_file_key", "load_file_key", "read_key_file"]

_T = TypeVar("_T")
_OWNER_ONLY = 0o600
_OTHERS = 0o077


class FileKey:
    """A signing key in the memory of this process; P-256, P-384 and Ed25519 sign on the loop, the rest in the pool."""

    def __init__(self, uri: str, private_key: PrivateKey, pool: Executor) -> None:
        self.uri = uri
        self.public_key: PublicKey = private_key.public_key()
        self.algorithm = algorithm_of(self.public_key)
        self._private_key = private_key
        self._pool = pool

    def __repr__(self) -> str:
        return f"FileKey({self.uri!r}, {self.algorithm.name})"

    async def sign(self, message: bytes) -> bytes:
        """An X.509 signature over the message."""
        if self.algorithm.signs_inline:
            return sign_with(self._private_key, message)
        return await _run(self._pool, lambda: sign_with(self._private_key, message))

    def sign_here(self, message: bytes) -> bytes:
        """As `sign`, on the calling thread, which waits for it."""
        return sign_with(self._private_key, message)

    async def sign_reduced(self, kind: Payload, payload: bytes) -> bytes:
        """An X.509 signature over a message of which only the digest is at hand.

        Raises:
            UnsupportedError: another kind of payload, or a key that signs no digests.
        """
        if kind != "digest":
            raise UnsupportedError(f"a key in a file takes no payload of the kind {kind}")
        if self.algorithm.signs_inline:
            return sign_digest_with(self._private_key, payload)
        return await _run(self._pool, lambda: sign_digest_with(self._private_key, payload))


def create_file_key(
    path: Path, algorithm: Algorithm, passphrase: bytes, private_key: PrivateKey | None = None
) -> PublicKey:
    """Write a new key (or the given one) to a new file of mode 0600, durably, and return its public half.

    Raises:
        KeyAccessError: the path is taken or cannot be written, or the passphrase is empty.
        MalformedError: the given key is not of the given algorithm.
    """
    if path.exists():
        raise KeyAccessError(f"{path} exists; a key file is never overwritten")
    key = private_key if private_key is not None else generate_private_key(algorithm)
    if algorithm_of(key.public_key()) is not algorithm:
        raise MalformedError(f"the given private key is not of the algorithm {algorithm.name}")
    try:
        write_new(path, seal(key, passphrase), _OWNER_ONLY)
    except FileExistsError:
        raise KeyAccessError(f"{path} exists; a key file is never overwritten") from None
    except OSError as error:
        raise KeyAccessError(f"{path} cannot be written: {error.strerror}") from error
    return key.public_key()


async def load_file_key(path: Path, passphrase: bytes, pool: Executor) -> FileKey:
    """Open a key file; reading and unsealing happen in the pool.

    Raises:
        KeyNotFoundError: no such file.
        KeyPermissionError: the file is not ours alone, or no plain file.
        KeyLockedError: wrong passphrase.
        MalformedError: not a key file.
        UnsupportedError: a key file with parameters that are not offered.
    """
    try:
        key = await _run(pool, lambda: unseal(read_key_file(path), passphrase))
    except (KeyLockedError, MalformedError, UnsupportedError) as error:
        raise type(error)(f"{path}: {error}") from None
    return FileKey(f"file:{path}", key, pool)


async def _run(pool: Executor, work: Callable[[], _T]) -> _T:
    return await asyncio.get_running_loop().run_in_executor(pool, work)


def read_key_file(path: Path) -> bytes:
    """The envelope in a file that is this user's alone, cut one byte after its greatest length.

    Raises:
        KeyNotFoundError: no such file.
        KeyPermissionError: the file is not ours alone, or no plain file.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not hang. The checks below look at the opened file, so nothing can be swapped.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise KeyNotFoundError(f"there is no key file {path}") from None
    except OSError as error:
        raise KeyPermissionError(f"the key file {path} cannot be read: {error.strerror}") from error
    try:
        _check_private(path, os.fstat(descriptor))
        return os.read(descriptor, MAX_ENVELOPE_BYTES + 1)
    finally:
        os.close(descriptor)


def _check_private(path: Path, state: os.stat_result) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise KeyPermissionError(f"{path} is not a plain file")
    if state.st_mode & _OTHERS or state.st_uid not in {os.geteuid(), 0}:
        raise KeyPermissionError(f"{path} must belong to this user and have mode 0600: run chmod 600 on it")
