"""The secret from which every MAC key of an external account comes, so that the database holds none.

The MAC key of a key identifier is HKDF-SHA256 (RFC 5869) of the secret; so is a check value, which is stored with the
identifier and tells a server with another secret apart from a client with a wrong key.
"""

from __future__ import annotations

import hmac
import secrets
from functools import cached_property
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pkicore.encoding import base64url_decode, base64url_encode, write_new
from pkicore.keys.passphrase import read_passphrase
from services.chassis.errors import SettingsError

MAC_OCTETS: Final = 64  # the output of SHA-512: fit for HS256, HS384 and HS512 (RFC 7518 §3.2)
_SECRET_OCTETS: Final = 32
_CHECK_OCTETS: Final = 16
_MAC: Final = b"pqcpki acme external account mac\0"
_CHECK: Final = b"pqcpki acme external account check\0"


class EabSecret:
    """The secret in a file, read when it is first needed, and made then if there is none.

    Its methods raise:
        SettingsError: the file cannot be read or written, or holds no such secret.
        KeyPermissionError: others may read it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def mac_key(self, kid: str) -> bytes:
        """The MAC key of a key identifier, 64 octets."""
        return self._derive(_MAC + kid.encode(), MAC_OCTETS)

    def check(self, kid: str) -> str:
        """What is stored with a key identifier, to know its secret again."""
        return base64url_encode(self._derive(_CHECK + kid.encode(), _CHECK_OCTETS))

    def is_of(self, kid: str, check: str) -> bool:
        """Whether the key identifier was made with this secret."""
        return hmac.compare_digest(self.check(kid), check)

    def _derive(self, info: bytes, octets: int) -> bytes:
        return HKDF(hashes.SHA256(), octets, salt=None, info=info).derive(self._secret)

    @cached_property
    def _secret(self) -> bytes:
        try:
            if not self._path.exists():
                self._make()
            secret = base64url_decode(read_passphrase(self._path))
        except OSError as error:
            raise SettingsError(f"the secret of external accounts {self._path}: {error.strerror}") from error
        if len(secret) != _SECRET_OCTETS:
            raise SettingsError(f"{self._path} must hold {_SECRET_OCTETS} octets, base64url: restore it from a backup")
        return secret

    def _make(self) -> None:
        try:
            write_new(self._path, base64url_encode(secrets.token_bytes(_SECRET_OCTETS)).encode() + b"\n", 0o600)
        except FileExistsError:  # another replica on this machine was quicker: its secret is ours
            return
