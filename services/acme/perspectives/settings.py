"""What a perspective is told, and what the ACME server is told about its perspectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from pkicore.identity import SpiffeId
from services.acme.validation_settings import ValidationSettings
from services.ca.client.settings import WayToCaSettings
from services.chassis.settings import BaseUrl, Port, ProcessSettings, for_service

SERVICE = "perspective"
_FEW = 5  # perspectives, of which one may disagree
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")]


class RemotePerspective(BaseModel):
    """A perspective as the ACME server knows it: `[perspectives.NAME]` of its settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: BaseUrl = Field(description="where it answers, e.g. https://oslo.example:4100")
    spiffe_id: str = Field("", description="the identity it must have; empty: /service/perspective-NAME")

    @model_validator(mode="after")
    def _checked(self) -> RemotePerspective:
        if not self.url.startswith("https://"):
            raise ValueError("the url of a perspective must begin with https://")
        if self.spiffe_id:
            SpiffeId.parse(self.spiffe_id)
        return self

    def identity(self, name: str, trust_domain: str) -> SpiffeId:
        """The identity it must have."""
        return SpiffeId.parse(self.spiffe_id) if self.spiffe_id else identity_of(name, trust_domain)


class CorroborationSettings(ProcessSettings):
    """Whom the ACME server asks besides itself."""

    perspectives: Mapping[Name, RemotePerspective] = Field(
        {}, description="remote perspectives by name: where each answers, and its SPIFFE ID", max_length=20
    )
    perspective_quorum: int | None = Field(
        None,
        ge=1,
        le=20,
        description="how many remote perspectives must see the same proof; None: all of one, all but one of two to "
        "five, all but two of more",
    )
    perspective_timeout_seconds: Annotated[float, Field(gt=0, le=120)] = Field(
        15.0, description="how long a remote perspective may take over one validation; then it counts as failed"
    )

    @model_validator(mode="after")
    def _reachable(self) -> CorroborationSettings:
        if (self.perspective_quorum or 0) > len(self.perspectives):
            raise ValueError("perspective_quorum is more than there are perspectives: nothing would ever be valid")
        return self

    @property
    def quorum(self) -> int:
        """How many remote perspectives must corroborate."""
        return usual_quorum(len(self.perspectives)) if self.perspective_quorum is None else self.perspective_quorum


class PerspectiveSettings(ValidationSettings, WayToCaSettings):
    """A perspective's own: one frozen object, read once at start."""

    model_config = for_service(SERVICE)

    port: Port = Field(4100, description="mTLS port; 0 takes a free one")
    ops_port: Port = Field(4190, description="plain HTTP port for health and metrics; 0 takes a free one")


def usual_quorum(perspectives: int) -> int:
    """How many of so many must corroborate (CA/Browser Forum, Baseline Requirements §3.2.2.9), and the one of one."""
    if perspectives <= 1:
        return perspectives
    return perspectives - 1 if perspectives <= _FEW else perspectives - 2


def identity_of(name: str, trust_domain: str) -> SpiffeId:
    """The identity that `ztca perspective create` gives to a perspective."""
    return SpiffeId.service(trust_domain, f"{SERVICE}-{name}")
