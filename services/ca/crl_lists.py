"""How an issuer's lists are called: ID is the complete one, ID/1, ID/2, ... its shards; with /delta, the delta."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from pkicore.x509.tbs import Issuer


@dataclass(frozen=True, slots=True)
class CrlList:
    """A list of an issuer; shard 0 is all of them, and what belongs to none."""

    issuer: str
    shard: int = 0

    @property
    def path(self) -> str:
        """Below /crl."""
        return f"{self.issuer}/{self.shard}" if self.shard else self.issuer

    @property
    def delta_path(self) -> str:
        """Of the delta to it."""
        return f"{self.path}/delta"

    @classmethod
    def parse(cls, path: str) -> Self | None:
        """The list of a path; None for that of a delta."""
        issuer, _, shard = path.partition("/")
        if not shard:
            return cls(issuer)
        return cls(issuer, int(shard)) if shard.isascii() and shard.isdigit() else None

    @classmethod
    def of(cls, name: str, issuer: Issuer) -> Iterator[Self]:
        """The lists of an issuer as it issues now."""
        yield cls(name)
        if issuer.crl_shards > 1:
            for shard in range(1, issuer.crl_shards + 1):
                yield cls(name, shard)
