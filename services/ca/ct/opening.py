"""Opening the CT log as the settings have it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pkicore.algorithms import PublicKey, known_public_key
from pkicore.clock import Clock
from pkicore.errors import KeyNotFoundError, MalformedError
from services.ca.ct.log import CertificateLog
from services.ca.hierarchy import KeyRing
from services.ca.settings import CaSettings
from services.chassis.database import Database


@asynccontextmanager
async def opened_certificate_log(
    settings: CaSettings, database: Database, ring: KeyRing, clock: Clock
) -> AsyncIterator[CertificateLog | None]:
    """The log that the settings name, closed at the end; None where they name none.

    Raises:
        KeyAccessError: its key is missing, locked, or another than its public key says.
        MalformedError, UnsupportedError: a file that does not parse, or a key that no log has.
        ForkedLogError, DatabaseError: what is stored is not this log, or cannot be read.
    """
    if not settings.ct_log_key or settings.ct_log_public_key is None:
        yield None
        return
    public_key = read_public_key(settings.ct_log_public_key)
    key = await ring.open_for(settings.ct_log_key, public_key, f"the CT log's, {settings.ct_log_public_key}")
    kept = settings.state_dir / "ct-checkpoint"
    log = await CertificateLog.open(database, key, settings.trust_domain, clock, kept)
    try:
        yield log
    finally:
        await log.close()


def read_public_key(path: Path) -> PublicKey:
    """The public key in a PEM file.

    Raises:
        KeyNotFoundError: the file is not there.
        MalformedError: it does not parse.
        UnsupportedError: a kind of key that is not offered.
    """
    try:
        return known_public_key(load_pem_public_key(path.read_bytes()))
    except FileNotFoundError as error:
        raise KeyNotFoundError(f"there is no public key {path}") from error
    except ValueError as error:
        raise MalformedError(f"{path} is no public key in PEM") from error
