"""What the ceremony makes for the signing service: its keys and the first tenant's, and their certificates.

Verifiers find the public halves below `trust/signing`, and so need not ask the service for what they trust it with.
"""

import secrets
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.encoding import write_atomically
from pkicore.identity import SpiffeId
from pkicore.keys import SigningKey
from pkicore.keys.remote import RemoteKey
from pkicore.x509.certificate import load_chain, to_pem
from services.ca.client.csr import make_csr
from services.ca.issuance import Issuance
from services.ca.layout import Layout
from services.ca.remote_keys import RemoteKeyMaker
from services.ca.signing_settings import KEYS
from services.ca.wire import CertificateRequest, IssuedCertificate


class KeyCertificate(NamedTuple):
    """What is asked for: the profile, the name of its subject, and the file that it goes to."""

    profile: str
    common_name: str
    path: Path


def timestamp_certificate(name: str, layout: Layout) -> KeyCertificate:
    """That of the time-stamping authority of a deployment of this name."""
    return KeyCertificate("timestamping", f"{name} time-stamping", layout.timestamp_chain)


def artefact_certificate(key_id: str, layout: Layout) -> KeyCertificate:
    """That of a tenant's key, which names the key."""
    return KeyCertificate("artefact-signing", f"key {key_id}", layout.signing_chain(key_id))


async def make_signing_keys(maker: RemoteKeyMaker, layout: Layout) -> dict[str, RemoteKey]:
    """Every key, by its id; each in the first back end that offers its algorithm.

    Raises:
        NotOfferedError: no back end offers an algorithm.
        KeyAccessError: signer-hsm or its back end refuses, or does not answer.
    """
    made: dict[str, RemoteKey] = {}
    for key_id, algorithm in KEYS.items():
        tenant, _, name = key_id.partition(".")
        made[key_id] = key = await maker.make(name, algorithm, tenant=tenant)
        pem = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        write_atomically(layout.signing_public_key(key_id), pem, 0o644)
    return made


async def certify_key(
    issuance: Issuance, caller: SpiffeId, wanted: KeyCertificate, key: SigningKey, layout: Layout
) -> IssuedCertificate:
    """A certificate for a key, with its whole chain, the root included, in a file.

    Raises:
        PkiError, CaServiceError, DatabaseError: it could not be issued.
    """
    request = CertificateRequest(
        csr=await make_csr(key, common_name=wanted.common_name),
        profile=wanted.profile,
        identifiers=(),
        idempotency_key=f"ceremony-{wanted.profile}-{secrets.token_hex(8)}",
        requester={"ceremony": "init"},
    )
    issued = (await issuance.issue(caller, request)).answer
    chain = load_chain(issued.chain.encode())
    write_atomically(wanted.path, to_pem([*chain, _root_above(chain[-1], layout)]), 0o644)
    return issued


def _root_above(issuer: x509.Certificate, layout: Layout) -> x509.Certificate:
    roots = load_chain(layout.trust_bundle.read_bytes())
    return next(root for root in roots if root.subject == issuer.issuer)
