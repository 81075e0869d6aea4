"""Private keys in the clear: PKCS#8 without a passphrase."""

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pkicore.algorithms import PrivateKey


def plain_der(private_key: PrivateKey) -> bytes:
    """PKCS#8 without a passphrase, in DER: what a back end takes a key in by."""
    return private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def plain_pem(private_key: PrivateKey) -> bytes:
    """PKCS#8 without a passphrase: TLS keys and the operator's."""
    return private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
