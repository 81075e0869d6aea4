"""The tables `[profiles.NAME]` of the ACME server's settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pkicore.algorithms import ALGORITHMS
from services.acme.challenges import CHALLENGE_TYPES
from services.acme.profiles.profiles import Profile

ProfileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class ProfileTable(BaseModel):
    """One profile; a table of a built-in profile's name replaces that."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = Field("", max_length=500)
    ca_profile: str = Field(min_length=1, max_length=64)
    keys: tuple[str, ...] = ()
    validity_seconds: Annotated[int, Field(ge=2 * 3600, le=10 * 366 * 86400)] | None = None
    accounts: tuple[str, ...] = ()
    external_accounts: tuple[str, ...] = ()
    challenges: tuple[str, ...] = ()
    identifiers: tuple[Literal["dns", "ip"], ...] = Field(("dns", "ip"), min_length=1)
    wildcards: bool = True
    max_names: Annotated[int, Field(ge=1, le=200)] = 100

    @field_validator("keys")
    @classmethod
    def _keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        known = [name for name, algorithm in ALGORITHMS.items() if algorithm.certificates]
        if not set(value) <= set(known):
            raise ValueError(f"must be some of {', '.join(known)}")
        return value

    @field_validator("challenges")
    @classmethod
    def _challenges(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not set(value) <= set(CHALLENGE_TYPES):
            raise ValueError(f"must be some of {', '.join(CHALLENGE_TYPES)}")
        return value

    def profile(self, name: str) -> Profile:
        """The profile that the table describes."""
        values = self.model_dump() | {"description": self.description or f"profile {self.ca_profile} of the CA"}
        return Profile(name=name, **values)
