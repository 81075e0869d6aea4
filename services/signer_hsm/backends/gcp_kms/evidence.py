"""What KMS says about how a key is held.

The attestation of an HSM key is stored as it comes. Verifying it takes the roots of Marvell and Google and a format
that its maker changes at will: Google's own script does that, outside this service. Nothing here says "verified".
"""

import hashlib
import zlib
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from google.cloud.kms_v1 import CryptoKeyVersion, KeyOperationAttestation

from pkicore.clock import unix
from services.signer_hsm.backends import Attestation, Fact, Facts
from services.signer_hsm.errors import BadAnswerError

MAX_STATEMENT: Final = 1024 * 1024
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_Format = KeyOperationAttestation.AttestationFormat
_FORMATS: Final[Mapping[int, str]] = MappingProxyType(
    {_Format.CAVIUM_V1_COMPRESSED: "gcp-cavium-v1", _Format.CAVIUM_V2_COMPRESSED: "gcp-cavium-v2"}
)


def evidence_of(version: CryptoKeyVersion) -> Facts:
    """Protection level, algorithm, origin and times (Unix seconds) of a version."""
    return {
        "protection_level": word(version.protection_level),
        "kms_algorithm": word(version.algorithm),
        "state": word(version.state),
        "created_at": _seconds(version.create_time),
        "generated_at": _seconds(version.generate_time),
        "imported": bool(version.import_job or version.import_time),
        "import_job": version.import_job or None,
        "reimport_eligible": version.reimport_eligible,
        "attestation": _FORMATS.get(version.attestation.format),
    }


def destruction_of(version: CryptoKeyVersion, observed_at: datetime) -> Facts:
    """What there is to show for a destruction: KMS's own state and times, and when we saw them."""
    return {
        "key_version": version.name,
        "state": word(version.state),
        "destroy_time": _seconds(version.destroy_time),
        "destroy_event_time": _seconds(version.destroy_event_time),
        "observed_at": unix(observed_at),
    }


def attestation_of(version: CryptoKeyVersion) -> Attestation:
    """The HSM's statement about a version, or KMS's bare word where there is none.

    The chain holds the maker's certificates, then the card's, then the partition's; the claims count each.

    Raises:
        BadAnswerError: the statement or a certificate is garbage.
    """
    given = version.attestation
    form = _FORMATS.get(given.format)
    if form is None:
        return Attestation("attributes", by="cloud", verified=False, claims=evidence_of(version))
    chains = given.cert_chains
    claims: dict[str, Fact] = {
        **evidence_of(version),
        "statement_sha256": hashlib.sha256(_unpacked(given.content)).hexdigest(),
        "cavium_certs": len(chains.cavium_certs),
        "google_card_certs": len(chains.google_card_certs),
        "google_partition_certs": len(chains.google_partition_certs),
    }
    texts = (*chains.cavium_certs, *chains.google_card_certs, *chains.google_partition_certs)
    return Attestation(
        form, by="device", verified=False, claims=claims, statement=given.content, chain=tuple(map(_der, texts))
    )


def word(value: object) -> str:
    """The name of one of KMS's enumerated values; a value newer than the SDK has none."""
    return str(getattr(value, "name", "UNKNOWN"))


def _unpacked(content: bytes) -> bytes:
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        statement = unpacker.decompress(content, MAX_STATEMENT)
    except zlib.error as error:
        raise BadAnswerError("the attestation from KMS is not what it is said to be") from error
    if not unpacker.eof:
        raise BadAnswerError("the attestation from KMS is cut off or too long")
    return statement


def _der(pem: str) -> bytes:
    try:
        return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
    except ValueError as error:
        raise BadAnswerError("the attestation from KMS comes with what is no certificate") from error


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else unix(moment)
