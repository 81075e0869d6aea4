"""Public keys that may go into a certificate: of the algorithm table, and not weak."""

from __future__ import annotations

from pkicore.algorithms import Algorithm, algorithm_of
from pkicore.errors import BadKeyError, UnsupportedError
from pkicore.weak_keys import check_strength


def check_certificate_key(public_key: object) -> Algorithm:
    """The table row of a key that may go into a certificate.

    Raises:
        BadKeyError: not offered for certificates, or weak.
    """
    try:
        algorithm = algorithm_of(public_key)
    except UnsupportedError as error:
        raise BadKeyError(str(error)) from error
    if not algorithm.certificates:
        raise BadKeyError(f"keys of type {algorithm.name} are not offered for certificates")
    check_strength(public_key)
    return algorithm
