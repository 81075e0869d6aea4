from __future__ import annotations

import gzip
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from google.cloud.kms_v1 import CryptoKeyVersion

from services.signer_hsm.backends.gcp_kms.evidence import (
    MAX_STATEMENT,
    attestation_of,
    destruction_of,
    evidence_of,
    word,
)
from services.signer_hsm.errors import BadAnswerError
from tests.support.tls_pki import Authority

AT = datetime(2030, 1, 1, tzinfo=UTC)
AUTHORITY = Authority.make("maker", "ecdsa")
PEM = AUTHORITY.certificate.public_bytes(Encoding.PEM).decode()
DER = AUTHORITY.certificate.public_bytes(Encoding.DER)


def version(**changes: Any) -> CryptoKeyVersion:  # noqa: ANN401 - fields of any type
    """A version in an HSM, generated there."""
    given = {"name": "n", "state": 1, "protection_level": 2, "algorithm": 12, "create_time": AT, "generate_time": AT}
    return CryptoKeyVersion(given | changes)


def attested(content: bytes, certificates: list[str], form: int = 4) -> CryptoKeyVersion:
    """A version with a statement."""
    return version(
        attestation={"format": form, "content": content, "cert_chains": {"google_partition_certs": certificates}}
    )


def test_a_key_generated_in_the_hsm() -> None:
    """Words and Unix seconds, nothing of the SDK's own types."""
    assert evidence_of(version()) == {
        "protection_level": "HSM",
        "kms_algorithm": "EC_SIGN_P256_SHA256",
        "state": "ENABLED",
        "created_at": 1893456000,
        "generated_at": 1893456000,
        "imported": False,
        "import_job": None,
        "reimport_eligible": False,
        "attestation": None,
    }


@pytest.mark.parametrize("changes", [{"import_job": "job"}, {"import_time": AT}])
def test_an_imported_key_is_called_one(changes: dict[str, Any]) -> None:
    """Job or time of an import: the key was elsewhere before."""
    assert evidence_of(version(**changes))["imported"] is True


def test_a_value_newer_than_the_sdk_has_no_name() -> None:
    """A protection level that the SDK does not know is unknown, not an error."""
    assert word(99) == "UNKNOWN"


def test_the_proof_of_a_destruction() -> None:
    """State, times and when they were seen."""
    scheduled = version(state=4, destroy_time=AT)
    assert destruction_of(scheduled, AT) == {
        "key_version": "n",
        "state": "DESTROY_SCHEDULED",
        "destroy_time": 1893456000,
        "destroy_event_time": None,
        "observed_at": 1893456000,
    }


@pytest.mark.parametrize(("form", "name"), [(3, "gcp-cavium-v1"), (4, "gcp-cavium-v2")])
def test_a_statement_is_kept_as_it_came(form: int, name: str) -> None:
    """Format, octets and certificates are handed on, unverified."""
    content = gzip.compress(b"statement")
    attestation = attestation_of(attested(content, [PEM], form))
    assert (attestation.format, attestation.by, attestation.verified) == (name, "device", False)
    assert (attestation.statement, attestation.chain) == (content, (DER,))
    assert attestation.claims["google_partition_certs"] == 1
    assert attestation.claims["cavium_certs"] == 0


def test_without_a_statement_it_is_the_clouds_word() -> None:
    """No statement, no device that vouches."""
    attestation = attestation_of(version())
    assert (attestation.format, attestation.by, attestation.verified) == ("attributes", "cloud", False)


@pytest.mark.parametrize(
    "content",
    [b"", b"plain", gzip.compress(b"statement")[:-1], gzip.compress(bytes(MAX_STATEMENT + 1))],
    ids=["empty", "plain", "cut off", "too long"],
)
def test_a_statement_that_does_not_unpack_is_refused(content: bytes) -> None:
    """What cannot be unpacked within the limit is no statement; a bomb is not unpacked."""
    with pytest.raises(BadAnswerError):
        attestation_of(attested(content, [PEM]))


def test_a_certificate_that_is_none_is_refused() -> None:
    """Each certificate must parse."""
    with pytest.raises(BadAnswerError):
        attestation_of(attested(gzip.compress(b"statement"), [PEM, "garbage"]))
