"""Chains of certificates of keys that stay: whether one hangs together, and may follow another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from pkicore.errors import BadCertificateError

Chain: TypeAlias = tuple[x509.Certificate, ...]
"""A certificate, those above it, and the root."""


def check_successor(chain: Chain, former: Chain, roots: Sequence[x509.Certificate]) -> None:
    """A chain is for the same use as another, and one of the roots vouches for it.

    Raises:
        BadCertificateError: it is not.
    """
    if not chain or _usage(chain[0]) != _usage(former[0]):
        raise BadCertificateError("the certificate is for another use")
    if chain[-1] not in roots:
        raise BadCertificateError("the chain does not end in a root of ours")
    for below, above in zip(chain, (*chain[1:], chain[-1]), strict=True):
        check_issued(below, above)


def check_issued(below: x509.Certificate, above: x509.Certificate) -> None:
    """One certificate was issued by the holder of the other.

    Raises:
        BadCertificateError: it was not.
    """
    try:
        below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise BadCertificateError("the chain does not hang together up to its root") from error


def _usage(certificate: x509.Certificate) -> tuple[bool, list[x509.ObjectIdentifier]]:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except (x509.ExtensionNotFound, ValueError) as error:
        raise BadCertificateError("the certificate does not say what it is for") from error
    return usage.critical, list(usage.value)
