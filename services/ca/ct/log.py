"""The CT log of this CA: what enters it, what it promises, and what anybody may read of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509

from pkicore.clock import Clock, unix
from pkicore.ct import (
    PrecertificateEntry,
    SignedCertificateTimestamp,
    embed,
    encode_leaf_index,
    log_id,
    verify_embedded_sct,
    verify_sct,
)
from pkicore.ct.sct import signature_algorithm
from pkicore.errors import BadSignatureError
from pkicore.keys import SigningKey
from pkicore.keys.remote import RemoteKey
from services.ca.errors import WrongSignatureError
from services.ca.schema import ct_tables
from services.chassis.asgi import Route
from services.chassis.database import Database
from services.chassis.tlog import TileLog, log_routes

PREFIX: Final = "/ct"
_MILLISECONDS: Final = 1000


@dataclass(frozen=True, slots=True)
class Entered:
    """The to-be-signed bytes with the log's timestamp in them, and where the log has them."""

    tbs: bytes
    log_id: bytes
    index: int


class CertificateLog:
    """The log, and the key that signs its timestamps and its checkpoints."""

    def __init__(self, log: TileLog, key: SigningKey, clock: Clock) -> None:
        self._log = log
        self._key = key
        self._clock = clock

    @classmethod
    async def open(
        cls, database: Database, key: SigningKey, trust_domain: str, clock: Clock, kept: Path | None = None
    ) -> Self:
        """Open the log in the CA's database; the key is not used yet. `kept`: file of the last checkpoint.

        Raises:
            UnsupportedError: a log of RFC 6962 has no such key.
            ForkedLogError, DatabaseError: as `TileLog.open`.
        """
        signature_algorithm(key.public_key)
        log = await TileLog.open(database, ct_tables, key=key, origin=f"{trust_domain}{PREFIX}", kept=kept)
        return cls(log, key, clock)

    async def close(self) -> None:
        """End the log's tasks."""
        await self._log.close()

    @property
    def remote_keys(self) -> list[RemoteKey]:
        """The log's key, if signer-hsm holds it."""
        return [self._key] if isinstance(self._key, RemoteKey) else []

    def routes(self) -> list[Route]:
        """What the status listener answers for it."""
        return log_routes(self._log, PREFIX)

    async def enter(self, tbs: bytes, issuer_certificate: x509.Certificate) -> Entered:
        """Have the log remember a certificate that is about to be issued; durable when this returns.

        Args:
            tbs: its to-be-signed bytes, linted.
            issuer_certificate: of whoever will sign it.

        Raises:
            KeyAccessError, WrongSignatureError: the log's key gave no timestamp.
            TileLogError, DatabaseError: it was not entered.
        """
        entry, timestamp = PrecertificateEntry.of(tbs, issuer_certificate), unix(self._clock.now()) * _MILLISECONDS
        entered = await self._log.append(lambda index: entry.leaf(timestamp, encode_leaf_index(index)))
        extensions, public_key = encode_leaf_index(entered.index), self._key.public_key
        signature = await self._key.sign(entry.message(timestamp, extensions))
        sct = SignedCertificateTimestamp.assemble(public_key, timestamp, extensions, signature)
        try:
            verify_sct(sct, entry, public_key)
        except BadSignatureError as error:
            raise WrongSignatureError("the key of the CT log made no valid signature; try again") from error
        return Entered(embed(tbs, [sct]), log_id(public_key), entered.index)

    def verify(self, certificate: x509.Certificate, issuer_certificate: x509.Certificate) -> None:
        """Believe that this log has seen the certificate.

        Raises:
            MalformedError, ProofError, BadSignatureError: it has not.
        """
        verify_embedded_sct(certificate, issuer_certificate, self._key.public_key, self._clock.now())
