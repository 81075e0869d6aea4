"""Public keys that fit the algorithm table and are weak all the same, for certificates and account keys alike.

| check         | what                                                             | source             |
|---------------|------------------------------------------------------------------|--------------------|
| small factors | an RSA modulus that a prime below 752 divides                    | BR §6.1.1.3        |
| ROCA          | the fingerprint of the flawed Infineon generator                 | CVE-2017-15361     |
| close primes  | Fermat's method, 100 rounds                                      | CVE-2022-26320     |
| zero bits     | a modulus whose low half is mostly zeros                         | badkeys, `rsapoly` |
| small order   | an Ed25519 point for which signatures need no private key        | RFC 8032 §5.1      |
| published     | a private key that everybody has: `pkicore.weak_keys.published`  | BR §6.1.1.3        |

Sizes, curves and exponents are the algorithm table's to refuse (`pkicore.algorithms`). A P-256 key is looked at by type
alone; an RSA key costs some 60 µs.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from pkicore.weak_keys.edwards import check_order
from pkicore.weak_keys.moduli import check_modulus
from pkicore.weak_keys.published import PublishedKeys

__all__ = ["PublishedKeys", "check_strength"]


def check_strength(public_key: object) -> None:
    """Refuse keys that prove nothing, since others can find the private key or need none.

    Raises:
        BadKeyError: a weak RSA modulus, or an Ed25519 point of small order.
    """
    if isinstance(public_key, rsa.RSAPublicKey):
        check_modulus(public_key.public_numbers().n)
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        check_order(public_key.public_bytes_raw())
