"""The ACME server's settings: `PQCPKI_ACME_<FIELD>` or the field's name in the TOML file."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from services.ca.client.settings import BesideCaSettings
from services.chassis.settings import AbsolutePath, Port, Texts, base_url, for_service

TargetPort = Annotated[int, Field(ge=1, le=65535)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode]


class AcmeSettings(BesideCaSettings):
    """One frozen object, read once at start."""

    model_config = for_service("acme")

    port: Port = Field(4000, description="public TLS port; 0 takes a free one")
    ops_port: Port = Field(4090, description="plain HTTP port for health and metrics; 0 takes a free one")
    external_url: str = Field("", description="scheme and authority clients use; empty: https://localhost:<port>")

    resolver: str = Field("", description="host:port of the resolver for validation; empty: the system's")
    http01_port: TargetPort = Field(80, description="port that http-01 dials")
    tlsalpn01_port: TargetPort = Field(443, description="port that tls-alpn-01 dials")
    allowed_networks: Networks = Field(
        (), description="otherwise reserved address ranges (CIDR, comma separated) that validation may dial"
    )
    validation_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        10.0, description="one deadline for a whole validation attempt, look-ups and redirects included"
    )
    tls_names: Texts = Field(
        ("localhost", "127.0.0.1", "::1"), description="names and addresses of the public certificate"
    )
    terms_of_service: str = Field("", description="URL clients must agree to; empty: none")

    hold_seconds: Annotated[float, Field(ge=0, le=30)] = Field(
        2.0, description="how long a challenge or finalize request waits for its final state before it says processing"
    )
    order_lifetime_seconds: Annotated[int, Field(ge=60, le=90 * 86400)] = Field(
        7 * 86400, description="how long an order and its authorizations may be used"
    )
    max_identifiers: Annotated[int, Field(ge=1, le=200)] = Field(100, description="names in one order")
    max_contacts: Annotated[int, Field(ge=1, le=100)] = Field(10, description="contacts of one account")
    published_keys_file: AbsolutePath | None = Field(
        None, description="keys that everybody has: the `blocklist.dat` of badkeys; None: no list"
    )
    max_pending_orders: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        1000, description="orders of one account that are neither finished nor expired"
    )

    @field_validator("allowed_networks", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            raise ValueError("must be a list of address ranges such as 127.0.0.0/8")  # noqa: TRY004 - pydantic's way
        return tuple(ip_network(str(item).strip()) for item in items if str(item).strip())

    @field_validator("external_url")
    @classmethod
    def _external_url(cls, value: str) -> str:
        return base_url(value) if value else value

    @field_validator("resolver")
    @classmethod
    def _resolver(cls, value: str) -> str:
        if value and (not value.rpartition(":")[0] or not value.rpartition(":")[2].isdigit()):
            raise ValueError("must be host:port, or empty for the system's resolver")
        return value
