from __future__ import annotations

import pytest
from google.cloud.kms_v1 import CryptoKeyVersion

from pkicore.algorithms import ALGORITHMS
from services.signer_hsm.backends.gcp_kms.algorithms import TABLE, KmsAlgorithm, KmsName, new_key_rows, row_of
from services.signer_hsm.errors import NotOfferedError
from services.signer_hsm.schemes import SCHEMES, check_payload, scheme_of

SIZES = {"sha256": 32, "sha384": 48, "sha512": 64, "external_mu": 64, "data": 10}


def test_numbers_are_those_of_the_service() -> None:
    """The numbers on the wire are the published ones, whatever the SDK calls them."""
    numbers = {row.kms.name: int(row.kms) for row in TABLE.values()}
    assert numbers == {
        "EC_SIGN_P256_SHA256": 12,
        "EC_SIGN_P384_SHA384": 13,
        "EC_SIGN_ED25519": 40,
        "RSA_SIGN_PSS_2048_SHA256": 2,
        "RSA_SIGN_PSS_3072_SHA256": 3,
        "RSA_SIGN_PSS_4096_SHA256": 4,
        "RSA_SIGN_PSS_4096_SHA512": 15,
        "RSA_SIGN_PKCS1_2048_SHA256": 5,
        "RSA_SIGN_PKCS1_3072_SHA256": 6,
        "RSA_SIGN_PKCS1_4096_SHA256": 7,
        "RSA_SIGN_PKCS1_4096_SHA512": 16,
        "PQ_SIGN_ML_DSA_44": 68,
        "PQ_SIGN_ML_DSA_65": 56,
        "PQ_SIGN_ML_DSA_87": 69,
        "PQ_SIGN_ML_DSA_44_EXTERNAL_MU": 70,
        "PQ_SIGN_ML_DSA_65_EXTERNAL_MU": 67,
        "PQ_SIGN_ML_DSA_87_EXTERNAL_MU": 71,
    }


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.kms.name)
def test_each_row_is_sound(row: KmsAlgorithm) -> None:
    """Scheme, payload kind and request field of a row go together by the common rules of all back ends."""
    scheme = scheme_of(row.algorithm, row.scheme)
    check_payload(scheme, row.kind, bytes(SIZES[row.field]))
    if row.kind == "digest":
        assert row.field == scheme.hash
        assert row.kms.name.endswith(f"_{row.field.upper()}")
    if row.algorithm.family == "rsa":
        assert ("_PSS_" in row.kms.name) == (scheme.padding == "pss")
        assert f"_{row.algorithm.name.removeprefix('rsa-')}_" in row.kms.name


@pytest.mark.parametrize("rsa_scheme", ["RS256", "PS256"])
def test_new_keys_have_one_row_each(rsa_scheme: str) -> None:
    """New ML-DSA keys take mu, new RSA keys sign the scheme that is set, and everything but P-521 is there."""
    rows = new_key_rows(rsa_scheme)
    assert set(rows) == set(ALGORITHMS) - {"ecdsa-p521"}
    for name, row in rows.items():
        assert row.algorithm.name == name
        assert row.kind == row.algorithm.payload
        expected = rsa_scheme if row.algorithm.family == "rsa" else row.algorithm.jws
        assert row.scheme == expected
        assert SCHEMES[row.scheme].hash in {None, "sha256", "sha384"}


@pytest.mark.parametrize("number", [0, 1, 31, 8, 57, 28])
def test_other_algorithms_are_not_signed_with(number: int) -> None:
    """Encryption, other curves, SLH-DSA and raw RSA are not offered."""
    with pytest.raises(NotOfferedError):
        row_of(KmsName(number))


def test_a_version_without_an_algorithm() -> None:
    """An empty message has no row."""
    with pytest.raises(NotOfferedError):
        row_of(CryptoKeyVersion().algorithm)
