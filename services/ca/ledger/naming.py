"""Certificates of before migration 0004 get what they are found by: their names, and the algorithm of their key.

Both are read from the to-be-signed bytes in the row. It goes on in the background, some rows in a commit, and where it
was interrupted; when the last row has its names, it is over.
"""

import asyncio
from typing import Final

import structlog
from cryptography import x509
from cryptography.x509.oid import NameOID

from pkicore.algorithms import algorithm_of
from pkicore.errors import PkiError
from pkicore.x509 import PARSE_ERRORS
from pkicore.x509.lint import unsigned
from pkicore.x509.names import names_of
from services.ca.ledger.store.naming import Named, NamingStore, Unnamed
from services.chassis.errors import ConflictError, DatabaseError, DuplicateError

TOGETHER: Final = 100  # rows of a commit, which issuance waits for
UNKNOWN: Final = "unknown"  # the algorithm of a row that does not parse
_PAUSE: Final = 0.1  # seconds between commits
_RETRY: Final = 60.0

_log = structlog.get_logger(__name__)


class Naming:
    """Gives old rows their names."""

    def __init__(self, store: NamingStore) -> None:
        self._store = store

    async def run(self) -> None:
        """Do it until it is done."""
        done = 0
        while True:
            try:
                some = await self.step()
            except (ConflictError, DuplicateError):  # another replica does the same
                await asyncio.sleep(_PAUSE)
                continue
            except DatabaseError as error:
                _log.warning("certificates of before the index of names wait", error=str(error))
                await asyncio.sleep(_RETRY)
                continue
            if not some:
                break
            done += some
            await asyncio.sleep(_PAUSE)
        if done:
            _log.info("certificates of before the index of names are found by name now", certificates=done)

    async def step(self, most: int = TOGETHER) -> int:
        """Some rows, in one commit; how many they were.

        Raises:
            DatabaseError: the database cannot be read or written.
        """
        rows = await self._store.unnamed(most)
        if rows:
            await self._store.name([_named(row) for row in rows])
        return len(rows)


def _named(row: Unnamed) -> Named:
    try:
        certificate = x509.load_der_x509_certificate(unsigned(row.tbs))
        return Named(row, _found_by(certificate), algorithm_of(certificate.public_key()).name)
    except (PkiError, *PARSE_ERRORS) as error:
        _log.error("certificate not found by name", serial=row.serial, error=str(error))
        return Named(row, (), UNKNOWN)


def _found_by(certificate: x509.Certificate) -> list[tuple[str, str]]:
    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    found = [("common_name", str(attribute.value)) for attribute in common]
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return found
    names = names_of(alternatives)
    found += [("dns", name) for name in names.dns] + [("ip", str(name)) for name in names.ip]
    return found + [("uri", name) for name in names.uri] + [("email", name) for name in names.email]
