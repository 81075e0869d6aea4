"""The secrets that webhooks are signed with: made here, shown once, and sealed wherever they are kept.

An HMAC secret must be at hand in clear for each delivery, so it cannot be hashed like an API key, and a copy of the
database must not be enough to forge deliveries. So each is sealed by AES-256-GCM with a key that scrypt (RFC 7914)
derives once per start from the service's passphrase file, which never lies in the database; the salt of the derivation
does. What is sealed is bound to its webhook: it cannot be moved to another one.
"""

from __future__ import annotations

import base64
import os
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from pkicore.errors import KeyLockedError
from pkicore.keys.envelope import SCRYPT_N

SALT_BYTES: Final = 16
SECRET_BYTES: Final = 32
"""Standard Webhooks 1.0 wants 24 to 64."""
_PREFIX: Final = "whsec_"
_NONCE_BYTES: Final = 12
_CONTEXT: Final = b"pqcpki webhook secret v1\0"


def new_secret() -> bytes:
    """A secret of 32 random octets."""
    return os.urandom(SECRET_BYTES)


def shown(secret: bytes) -> str:
    """A secret as its receiver configures it: `whsec_` and base64 (Standard Webhooks 1.0)."""
    return _PREFIX + base64.b64encode(secret).decode()


class SecretBox:
    """Seals and opens secrets; `derive` makes one."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    @classmethod
    def derive(cls, passphrase: bytes, salt: bytes) -> Self:
        """The box of a passphrase; takes about a quarter of a second and 64 MiB on purpose.

        Args:
            passphrase: of the service.
            salt: 16 octets that were random once, the same for the life of the database.
        """
        return cls(Scrypt(salt=salt, length=32, n=SCRYPT_N, r=8, p=1).derive(passphrase))

    def seal(self, webhook: str, secret: bytes) -> bytes:
        """A secret as the database holds it: nonce and ciphertext."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, _CONTEXT + webhook.encode())

    def open(self, webhook: str, sealed: bytes) -> bytes:
        """The secret.

        Raises:
            KeyLockedError: it was sealed with another passphrase or for another webhook, or was altered.
        """
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _CONTEXT + webhook.encode())
        except (InvalidTag, ValueError):
            raise KeyLockedError(
                f"the secret of webhook {webhook} cannot be opened with this passphrase: rotate it"
            ) from None
