"""What a service is given at its beginning: an identity, a key for its audit checkpoints, the name of its staple."""

import secrets
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.clock import Clock
from pkicore.encoding import write_atomically, write_new
from pkicore.identity import SpiffeId
from pkicore.keys import open_key
from pkicore.keys.file import FileKey, create_file_key
from pkicore.x509.names import Names
from services.ca.client.csr import make_csr
from services.ca.issuance import Issuance
from services.ca.layout import Layout
from services.ca.plain_keys import plain_pem
from services.ca.wire import CertificateRequest, Identifier, IssuedCertificate
from services.chassis.audit import CHECKPOINTS_FILE, Checkpointer
from services.chassis.database import Database

IDENTITY_KEY: Final = "ml-dsa-65"
AUDIT_KEY: Final = "ed25519"


async def issue_identity(
    issuance: Issuance, identity: SpiffeId, profile: str, directory: Path, pool: Executor
) -> IssuedCertificate:
    """A new key and a certificate for it, in `key.pem` and `cert.pem` of a directory.

    Raises:
        PkiError, CaServiceError, DatabaseError, OSError: it could not be issued or written.
    """
    private_key = generate_private_key(ALGORITHMS[IDENTITY_KEY])
    write_new(directory / "key.pem", plain_pem(private_key), 0o600)
    csr = await make_csr(FileKey("ceremony:identity", private_key, pool), names=Names.build(uri=[str(identity)]))
    wanted = CertificateRequest(
        csr=csr,
        profile=profile,
        identifiers=(Identifier("uri", str(identity)),),
        idempotency_key=f"ceremony-{identity.path}-{secrets.token_hex(8)}",
        requester={"ceremony": "init"},
    )
    issued = (await issuance.issue(identity, wanted)).answer
    write_atomically(directory / "cert.pem", issued.chain.encode(), 0o644)
    return issued


def write_audit_key(layout: Layout, service: str, passphrase: bytes) -> None:
    """The key of a service's audit checkpoints, sealed, and its public half among what is trusted."""
    algorithm = ALGORITHMS[AUDIT_KEY]
    public_key = create_file_key(layout.key(service, "audit"), algorithm, passphrase)
    pem = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_atomically(layout.audit_public_key(service), pem, 0o644)


async def begin_checkpoints(
    layout: Layout, service: str, passphrase: bytes, url: str, *, clock: Clock, pool: Executor
) -> None:
    """The first checkpoint of a log that begins before its service runs: without one, a log that is cut is whole.

    Raises:
        KeyAccessError, DatabaseError, OSError: it could not be written.
    """
    path = layout.state(service) / CHECKPOINTS_FILE
    path.unlink(missing_ok=True)  # of an attempt that was cut short, signed with another key
    key = await open_key(f"file:{layout.key(service, 'audit')}", secrets=lambda _uri: passphrase, pool=pool)
    database = await Database.open(url, clock=clock)
    try:
        await Checkpointer(database, key, path, clock).write()
    finally:
        await database.close()


def staple_name(certificate: x509.Certificate) -> str:
    """The file that `pkicore.mtls.StapleCache` looks for."""
    return f"{certificate.fingerprint(hashes.SHA256()).hex()[:32]}.ocsp"
