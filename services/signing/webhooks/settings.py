"""What the operator says about webhooks: `[webhooks]` of the service's settings."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from pydantic import BaseModel, ConfigDict, Field, field_validator

from services.chassis.outbound.resolver import parse_server
from services.chassis.settings import AbsolutePath


class WebhookSettings(BaseModel):
    """Where deliveries may go, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(), max_length=64, description="otherwise reserved address ranges (CIDR) that deliveries may dial"
    )
    plain_http: bool = Field(
        default=False,
        description="let receivers be http at loopback addresses that allowed_networks hold; for tests",
    )
    resolver: str = Field(default="", description="host:port of the resolver for receivers' names; empty: the system's")
    ca_file: AbsolutePath | None = Field(
        default=None, description="PEM file with the roots of receivers' certificates; left out: the usual public ones"
    )
    per_tenant: int = Field(
        default=16, ge=0, le=256, description="webhooks of a tenant, with four connections each at most"
    )
    attempt_seconds: float = Field(default=15.0, gt=0, le=30, description="one attempt, look-up and TLS included")

    @field_validator("resolver")
    @classmethod
    def _resolver(cls, value: str) -> str:
        if value:
            parse_server(value)
        return value
