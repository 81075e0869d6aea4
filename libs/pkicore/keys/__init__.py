"""A signing key is a capability with two members, found through a URI: a public key, and `sign`.

No bytes of a private key appear in any interface. Secrets are asked for by callback, so that they live nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Protocol, TypeAlias

from pkicore.algorithms import Algorithm, PublicKey
from pkicore.errors import UnsupportedError
from pkicore.keys.remote import REMOTE_SCHEME, RemoteSigner, open_remote_key

__all__ = ["SCHEMES", "OwnKey", "RemoteSigner", "SecretSource", "SigningKey", "open_key"]

SecretSource: TypeAlias = Callable[[str], bytes]
"""Key URI in, passphrase out."""

SCHEMES = ("file", REMOTE_SCHEME)


class SigningKey(Protocol):
    """Whatever can sign, here or far away."""

    @property
    def uri(self) -> str:
        """Where the key is; never a secret."""
        ...

    @property
    def algorithm(self) -> Algorithm:
        """The row of the key in the table."""
        ...

    @property
    def public_key(self) -> PublicKey:
        """The public half."""
        ...

    async def sign(self, message: bytes) -> bytes:
        """An X.509 signature over the whole message.

        The caller verifies what comes back: a far signer may hold another key or answer garbage.

        Raises:
            KeyUnavailableError: the back end does not answer.
        """
        ...


class OwnKey(SigningKey, Protocol):
    """A signing key in the memory of this process."""

    def sign_here(self, message: bytes) -> bytes:
        """As `sign`, on the calling thread, which waits for it."""
        ...


async def open_key(
    uri: str, *, secrets: SecretSource, pool: Executor, signer: RemoteSigner | None = None
) -> SigningKey:
    """The key behind a URI: `file:/absolute/path`, or `signer-hsm:TENANT.NAME/VERSION`.

    No file is touched for a key of signer-hsm, and there is no way to a private key there.

    Args:
        uri: scheme, colon, rest.
        secrets: asked for the passphrase of a file.
        pool: where unlocking and slow signatures run, so that the event loop does not wait.
        signer: whoever holds the keys of signer-hsm; None where there is nobody.

    Raises:
        UnsupportedError: another scheme, a path that is not absolute, or a key of signer-hsm without a signer.
        KeyAccessError: the key is missing, locked or open to others; the signer does not answer.
        MalformedError: the key file does not parse.
    """
    from pkicore.keys.file import load_file_key

    scheme, _, rest = uri.partition(":")
    if scheme not in SCHEMES:
        raise UnsupportedError(f"the key URI scheme {scheme[:32]!r} is not offered; use one of: {', '.join(SCHEMES)}")
    if scheme == REMOTE_SCHEME:
        if signer is None:
            raise UnsupportedError(f"{uri[:128]} needs signer-hsm, and the settings do not say where that is")
        return await open_remote_key(uri, signer, pool)
    path = Path(rest)
    if not path.is_absolute():
        raise UnsupportedError("a file key needs an absolute path, as in file:/var/lib/pqcpki/ca.key")
    return await load_file_key(path, secrets(uri), pool)
