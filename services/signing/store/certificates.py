"""The SQL of certificates for keys that stay: all there ever were, and requests for the next ones.

A request is kept before the CA is asked, one for each certificate that is renewed. So a process that asks again after a
crash, and every other process of the service, sends the same octets, for which the CA gives the same certificate.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.x509.certificate import to_pem
from services.chassis.database import AuditEvent, Database, Unit, Write
from services.signing.schema import certificate_requests, key_certificates

_MAX_CHAINS: Final = 60  # of one key; a trusted root has room for 64 authorities


@dataclass(frozen=True, slots=True)
class StoredChain:
    """A certificate of a key.

    Attributes:
        sha256: of the certificate, lower-case hexadecimal.
        chain: PEM, the certificate first, the root last.
    """

    sha256: str
    chain: bytes


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """What the CA is asked with.

    Attributes:
        csr: PKCS#10 in DER.
        requested_at: Unix seconds.
    """

    csr: bytes
    requested_at: int


class CertificateStore:
    """Every statement is compiled once, here."""

    def __init__(self, database: Database) -> None:
        self._database = database
        prepare = database.prepare
        of_key = sa.bindparam("of_key", type_=sa.Text)
        asked = (certificate_requests.c.key_id == of_key, certificate_requests.c.renews == sa.bindparam("of_renews"))
        self._insert = prepare(_insert(key_certificates))
        self._chains = prepare(
            sa.select(key_certificates.c.sha256, key_certificates.c.chain)
            .where(key_certificates.c.key_id == of_key)
            .order_by(key_certificates.c.not_after.desc())
            .limit(sa.bindparam("most"))
        )
        self._request = prepare(
            sa.select(certificate_requests.c.csr, certificate_requests.c.requested_at).where(*asked)
        )
        self._insert_request = prepare(_insert(certificate_requests))
        self._replace_request = prepare(
            sa.update(certificate_requests)
            .where(*asked, certificate_requests.c.requested_at == sa.bindparam("of_requested_at"))
            .values(csr=sa.bindparam("csr"), requested_at=sa.bindparam("requested_at"))
        )

    async def chains(self, key_id: str) -> list[StoredChain]:
        """The certificates of a key, the one that ends last first."""
        rows = await self._database.fetch_all(self._chains, of_key=key_id, most=_MAX_CHAINS)
        return [StoredChain(row["sha256"], row["chain"]) for row in rows]

    async def keep(self, key_id: str, chain: tuple[x509.Certificate, ...], at: int, event: AuditEvent) -> None:
        """Keep a certificate of a key.

        Raises:
            DuplicateError: it is there; nothing was written.
        """
        leaf = chain[0]
        row = {
            "key_id": key_id,
            "sha256": fingerprint(leaf),
            "not_after": int(leaf.not_valid_after_utc.timestamp()),
            "chain": to_pem(chain),
            "recorded_at": at,
        }
        await self._database.commit(Unit("key certificate", [Write(self._insert, row, 1)], [event]))

    async def request(self, key_id: str, renews: str) -> StoredRequest | None:
        """The request for a certificate in place of the one with this serial."""
        row = await self._database.fetch_one(self._request, of_key=key_id, of_renews=renews)
        return None if row is None else StoredRequest(row["csr"], row["requested_at"])

    async def begin(self, key_id: str, renews: str, request: StoredRequest) -> None:
        """Keep a request before it is sent.

        Raises:
            DuplicateError: there is one, perhaps another process's.
        """
        row = {"key_id": key_id, "renews": renews, "csr": request.csr, "requested_at": request.requested_at}
        await self._database.commit(Unit("certificate request", [Write(self._insert_request, row, 1)]))

    async def begin_anew(self, key_id: str, renews: str, old: StoredRequest, new: StoredRequest) -> None:
        """Put a request in the place of one that came to nothing.

        Raises:
            ConflictError: another process has done so.
        """
        row = {"of_key": key_id, "of_renews": renews, "of_requested_at": old.requested_at}
        params = row | {"csr": new.csr, "requested_at": new.requested_at}
        await self._database.commit(Unit("certificate request", [Write(self._replace_request, params, 1)]))


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, lower-case hexadecimal."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def _insert(table: sa.Table) -> sa.Insert:
    return sa.insert(table).values({column.name: sa.bindparam(column.name) for column in table.c})
