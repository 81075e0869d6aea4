"""What we show to the other end: our chain and its private key, and how a new pair on disk takes its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from pkicore.errors import BadKeyError, KeyNotFoundError, KeyPermissionError, MalformedError, PkiError

_MAX_FILE = 256 * 1024
_OPEN_TO_OTHERS = 0o077


@dataclass(frozen=True)
class Credentials:
    """A certificate chain (leaf first, without the root) and the private key of its leaf."""

    chain: tuple[x509.Certificate, ...]
    private_key: PrivateKeyTypes

    def __post_init__(self) -> None:
        if not self.chain:
            raise MalformedError("credentials need at least one certificate")
        if self.private_key.public_key() != self.chain[0].public_key():
            raise BadKeyError("the private key is not the one of the certificate")

    @property
    def certificate(self) -> x509.Certificate:
        """The leaf."""
        return self.chain[0]


def load_credentials(certificate_file: Path, key_file: Path) -> Credentials:
    """Read a PEM chain and its PKCS#8 PEM key.

    Raises:
        KeyNotFoundError: one of the files is missing.
        KeyPermissionError: the key file may be read by others.
        MalformedError: the files do not parse.
        BadKeyError: key and certificate do not belong together.
    """
    try:
        chain = tuple(x509.load_pem_x509_certificates(_read(certificate_file)))
        if key_file.stat().st_mode & _OPEN_TO_OTHERS:
            raise KeyPermissionError(f"{key_file} may be read by others: set its mode to 0600")
        private_key = serialization.load_pem_private_key(_read(key_file), password=None)
    except FileNotFoundError as error:
        raise KeyNotFoundError(f"no file {error.filename}") from error
    except (ValueError, TypeError) as error:
        raise MalformedError(f"{certificate_file} or {key_file} is not PEM of the right kind") from error
    return Credentials(chain, private_key)


class CredentialsSource:
    """Credentials from two files; a new pair on disk replaces the old one without a restart."""

    def __init__(self, certificate_file: Path, key_file: Path, on_error: Callable[[PkiError], None]) -> None:
        self._files = (certificate_file, key_file)
        self._on_error = on_error
        self._listeners: list[Callable[[Credentials], None]] = []
        self._seen = self._stamp()
        self._current = load_credentials(*self._files)

    def current(self) -> Credentials:
        """The pair in force."""
        return self._current

    def subscribe(self, listener: Callable[[Credentials], None]) -> None:
        """Call `listener` with each new pair."""
        self._listeners.append(listener)

    def reload(self) -> None:
        """Look at the files; a pair that cannot be used is reported, and the old one stays in force."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        try:
            credentials = load_credentials(*self._files)
        except PkiError as error:
            self._on_error(error)
            return
        self._seen = stamp
        if credentials.chain == self._current.chain:
            return
        self._current = credentials
        for listener in self._listeners:
            listener(credentials)

    async def run(self, interval: float) -> None:
        """Look at the files every `interval` seconds, for ever."""
        while True:
            await asyncio.sleep(interval)
            self.reload()

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(_file_stamp(path) for path in self._files)


def _file_stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return (0, 0, 0)
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise MalformedError(f"{path} is larger than {_MAX_FILE} bytes")
    return content
