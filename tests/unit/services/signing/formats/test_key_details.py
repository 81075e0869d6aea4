from __future__ import annotations

import pytest
from sigstore_models.common.v1 import HashAlgorithm, PublicKeyDetails

from pkicore.algorithms import ALGORITHMS
from pkicore.errors import UnsupportedError
from services.signing.formats.key_details import HASH_NAMES, hash_name, key_details


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"ml-dsa-44"}))
def test_every_algorithm_has_the_registry_s_name(name: str) -> None:
    """Sigstore's own enumeration has each name; ML_DSA_44 came later than this copy of it."""
    assert PublicKeyDetails(key_details(ALGORITHMS[name]))


def test_names_are_told_apart() -> None:
    """No two algorithms share a name, or a signature of the one could pass for the other's."""
    assert len({key_details(algorithm) for algorithm in ALGORITHMS.values()}) == len(ALGORITHMS)


def test_hashes_have_the_registry_s_names() -> None:
    """Sigstore's own enumeration has each of ours, and others are refused."""
    assert {HashAlgorithm(hash_name(name)).value for name in HASH_NAMES} == {"SHA2_256", "SHA2_384", "SHA2_512"}
    with pytest.raises(UnsupportedError):
        hash_name("md5")
