"""How Cloud KMS holds a key: protection levels and attestations."""

from __future__ import annotations

import pytest
from google.cloud import kms_v1

from pkicore.algorithms import ALGORITHMS
from services.signer_hsm.backends import Backend, KeyLabel
from services.signer_hsm.errors import BadAnswerError, NotOfferedError, WrongStateError
from tests.support.gcp_kms_faults import LABEL, P256, altered, opened, sign
from tests.support.gcp_kms_simulator import GcpKmsSimulator


async def test_ml_dsa_where_the_location_has_no_such_hsm(server: GcpKmsSimulator) -> None:
    """A location that does not make the algorithm in its HSM is a typed refusal that names level and algorithm."""
    async with opened(server, software_algorithms=()) as backend:
        with pytest.raises(NotOfferedError, match="PQ_SIGN_ML_DSA_65_EXTERNAL_MU at the protection level HSM"):
            await backend.create(LABEL, ALGORITHMS["ml-dsa-65"])


async def test_a_key_made_at_another_protection_level_is_not_handed_out(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """A version in software where the HSM was asked for is refused for good, not looked for again and then taken."""
    change = altered(protection_level=kms_v1.ProtectionLevel.SOFTWARE)
    server.faults.change_next("GetCryptoKeyVersion", change)
    with pytest.raises(NotOfferedError, match="at SOFTWARE, not EC_SIGN_P256_SHA256 at HSM"):
        await backend.create(LABEL, P256)


async def test_new_keys_are_at_the_level_that_is_set_now_and_old_ones_at_their_own(server: GcpKmsSimulator) -> None:
    """After a change of the settings the next version is in the HSM; a retried creation of the old one is refused."""
    async with opened(server, protection_level="SOFTWARE") as backend:
        await backend.create(LABEL, P256)
    async with opened(server) as backend:
        with pytest.raises(
            WrongStateError, match="level SOFTWARE, not for EC_SIGN_P256_SHA256 at the protection level HSM"
        ):
            await backend.create(LABEL, P256)
        found = await backend.find(LABEL)
        assert found is not None
        assert found.evidence["protection_level"] == "SOFTWARE"
        await sign(backend, found)
        following = await backend.create(KeyLabel("ca", "issuing", 2), P256)
        assert following.evidence["protection_level"] == "HSM"


async def test_the_attestation_of_an_hsm_key_is_kept_as_it_comes_and_not_called_verified(
    server: GcpKmsSimulator, backend: Backend
) -> None:
    """Statement and chains are handed on with their format; nobody here has checked them, and the record says so."""
    key = await backend.create(LABEL, P256)
    attestation = await backend.attest(key.handle)
    given = server.resources.version(key.handle).message.attestation
    assert (attestation.format, attestation.by, attestation.verified) == ("gcp-cavium-v2", "device", False)
    assert attestation.statement == given.content
    assert len(attestation.chain) == 4
    assert attestation.claims["cavium_certs"] == 2
    assert attestation.claims["protection_level"] == "HSM"


@pytest.mark.parametrize("content", [b"", b"not gzip", b"\x1f\x8b\x08"])
async def test_a_garbled_attestation_is_a_bad_answer(server: GcpKmsSimulator, backend: Backend, content: bytes) -> None:
    """A statement that is no gzip, or is cut off, is not stored."""
    key = await backend.create(LABEL, P256)
    server.resources.version(key.handle).message.attestation.content = content
    with pytest.raises(BadAnswerError):
        await backend.attest(key.handle)


async def test_a_certificate_that_is_none_is_a_bad_answer(server: GcpKmsSimulator, backend: Backend) -> None:
    """Each certificate of the chains must be one."""
    key = await backend.create(LABEL, P256)
    server.resources.version(key.handle).message.attestation.cert_chains.cavium_certs = ["garbage"]
    with pytest.raises(BadAnswerError):
        await backend.attest(key.handle)
