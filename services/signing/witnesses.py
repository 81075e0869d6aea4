"""What makes a signature believed later: its time, and its place in the log."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from pkicore.errors import KeyAccessError, TimestampRefusedError
from services.chassis.errors import ChassisError
from services.signing.errors import SignerDownError
from services.signing.formats import LogEntry, SignedWith


class Timestamps(Protocol):
    """Our time-stamping authority."""

    async def timestamp(self, imprint_of: bytes) -> bytes:
        """A TimeStampResp in DER over these octets; TimestampRefusedError or KeyAccessError where there is none."""
        ...


class Log(Protocol):
    """Our transparency log."""

    @property
    def origin(self) -> str:
        """The first line of its checkpoints."""
        ...

    async def enter(self, signed: SignedWith, digest: bytes) -> LogEntry:
        """Enter a signature over what has this digest (under the hash of the signature's algorithm)."""
        ...

    async def size(self) -> int:
        """How many entries it has, covered by a checkpoint or not."""
        ...


@dataclass(frozen=True, slots=True)
class Witnesses:
    """Those that this deployment has; None: there is none."""

    timestamps: Timestamps | None = None
    log: Log | None = None

    async def witnessed(self, signed: SignedWith, digest: bytes | None, *, timestamp: bool, log: bool) -> SignedWith:
        """The signature with what was asked for: first the time-stamp over its octets, then the log entry.

        Args:
            signed: a verified signature.
            digest: of what was signed, as the log entry names it; None: it is not entered.
            timestamp: whether a time-stamp is wanted.
            log: whether a log entry is wanted.

        Raises:
            SignerDownError: the witness cannot do it now.
        """
        try:
            if timestamp and self.timestamps is not None:
                signed = replace(signed, timestamp=await self.timestamps.timestamp(signed.signature))
            if log and self.log is not None and digest is not None:
                signed = replace(signed, log_entry=await self.log.enter(signed, digest))
        except TimestampRefusedError as error:
            raise SignerDownError(f"the time-stamping authority does not answer: {error}") from error
        except (KeyAccessError, ChassisError) as error:
            raise SignerDownError("the time-stamp or log entry cannot be made now") from error
        return signed
