"""Private keys that are brought in: parsed beside the event loop, handed to the back end, kept nowhere."""

from __future__ import annotations

import asyncio

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key

from pkicore.algorithms import Algorithm, PrivateKey, PublicKey, algorithm_of
from pkicore.errors import PkiError
from services.signer_hsm.errors import BadPayloadError


async def read_private_key(der: bytes, algorithm: Algorithm) -> PrivateKey:
    """The private key in a PKCS#8 document that is not encrypted.

    Raises:
        BadPayloadError: it is none, or of another algorithm than it is said to be.
    """
    return await asyncio.to_thread(_parse, der, algorithm)


def _parse(der: bytes, algorithm: Algorithm) -> PrivateKey:
    try:
        key = load_der_private_key(der, None)
        found = algorithm_of(key.public_key())
    except (ValueError, TypeError, UnsupportedAlgorithm, PkiError) as error:
        raise BadPayloadError("private_key is no PKCS#8 document of a key that is offered") from error
    if found.name != algorithm.name or not isinstance(key, PrivateKey):
        raise BadPayloadError(f"private_key is of {found.name}, not of {algorithm.name}")
    return key


def public_der(key: PublicKey) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
