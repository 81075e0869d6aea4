"""A private key on its way into Transit: PKCS#8 under a fresh AES key (RFC 5649), that one under the server's RSA key.

Source: Transit's "bring your own key": RSA-OAEP with SHA-256, then AES-256 key wrap with padding, one after the other.
"""

from __future__ import annotations

import base64
import os
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_public_key,
)

from pkicore.algorithms import PrivateKey
from services.signer_hsm.errors import BadAnswerError

_BITS: Final = 4096
_AES_KEY: Final = 32  # octets


def wrapped(wrapping_key: object, private_key: PrivateKey) -> str:
    """The `ciphertext` of an import, base64.

    Args:
        wrapping_key: PEM, as the server shows it.
        private_key: what is to be brought in.

    Raises:
        BadAnswerError: the wrapping key is no RSA key of 4096 bits.
    """
    server = _rsa_key(wrapping_key)
    key = os.urandom(_AES_KEY)
    pkcs8 = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    return base64.b64encode(server.encrypt(key, oaep) + aes_key_wrap_with_padding(key, pkcs8)).decode()


def _rsa_key(pem: object) -> rsa.RSAPublicKey:
    try:
        key = load_pem_public_key(pem.encode()) if isinstance(pem, str) else None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadAnswerError("Vault's wrapping key makes no sense") from error
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _BITS:
        raise BadAnswerError(f"Vault's wrapping key is no RSA key of {_BITS} bits")
    return key
