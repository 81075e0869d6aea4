"""The few things that OpenSSL can do and pyOpenSSL has no public name for: here, and nowhere else.

pyOpenSSL 26.4 has no call to choose key exchange groups (a pull request for it is open), none to put a verify
error into words, and refuses ML-DSA key objects. The bindings below it know all three.
"""

from __future__ import annotations

import warnings

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from OpenSSL import SSL, crypto
from OpenSSL._util import ffi, lib

from pkicore.errors import UnsupportedError

NO_AUTO_CHAIN = 0x8
"""SSL_MODE_NO_AUTO_CHAIN: send the chain as configured, never the root too (4 kB less with ML-DSA)."""

NO_RENEGOTIATION = 1 << 30
"""SSL_OP_NO_RENEGOTIATION (RFC 5746 lets a server decline); older exposure of a TLS 1.2 denial of service."""

UNABLE_TO_GET_CRL = 3
DIFFERENT_CRL_SCOPE = 44


def set_groups(context: SSL.Context, groups: tuple[str, ...]) -> None:
    """Offer and accept only these key exchange groups, the first preferred.

    Raises:
        UnsupportedError: OpenSSL does not know one of them.
    """
    # No public call in pyOpenSSL 26.4, see the module text; the group is checked again after the handshake.
    # Slashes make OpenSSL prefer a group over all that follow, even if the client guessed a key share for a later one.
    if lib.SSL_CTX_set1_curves_list(context._context, "/".join(groups).encode()) != 1:  # noqa: SLF001 (no public call)
        raise UnsupportedError(f"OpenSSL refuses the key exchange groups {', '.join(groups)}")


def verify_error_text(number: int) -> str:
    """What X509_verify_cert means by an error number, as "certificate revoked"."""
    text: bytes = ffi.string(lib.X509_verify_cert_error_string(number))
    return text.decode("ascii")


def use_private_key(context: SSL.Context, private_key: PrivateKeyTypes) -> None:
    """Give a context its private key, ML-DSA included."""
    der = private_key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with warnings.catch_warnings():
        # Both calls ask for the key object itself instead, which they refuse for ML-DSA.
        warnings.simplefilter("ignore", DeprecationWarning)
        context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_ASN1, der))
