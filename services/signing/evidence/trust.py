"""What an archive says about whom to trust: the trusted root, and its time-stamping authorities for openssl."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from services.signing.evidence.archive import ArchiveFile
from services.signing.trusted_root import TrustedRoot

TSA_ROOTS: Final = "tsa/roots.pem"
TSA_CHAIN: Final = "tsa/chain.pem"


def trust_files(trusted_root: bytes) -> list[ArchiveFile]:
    """The trusted root as it is served, and the authorities' roots and other certificates, where there are some.

    Raises:
        PkiError: it is no trusted root.
    """
    chains = [authority.chain for authority in TrustedRoot.parse(trusted_root).timestamp_authorities]
    files = [ArchiveFile.of("trusted_root.json", trusted_root)]
    if chains:
        files.append(ArchiveFile.of(TSA_ROOTS, _pem(chain[-1] for chain in chains)))
        files.append(ArchiveFile.of(TSA_CHAIN, _pem(one for chain in chains for one in chain[:-1])))
    return files


def _pem(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(dict.fromkeys(one.public_bytes(Encoding.PEM) for one in certificates))
