"""What validation is told, at the ACME server and at its remote perspectives alike."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from services.acme.caa import ISSUER_NAME
from services.chassis.outbound.resolver import parse_server
from services.chassis.settings import ProcessSettings, Texts

TargetPort = Annotated[int, Field(ge=1, le=65535)]


def _networks(value: object) -> object:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise ValueError("must be a list of address ranges such as 127.0.0.0/8")  # noqa: TRY004 - pydantic's way
    return tuple(ip_network(str(item).strip()) for item in items if str(item).strip())


_LONGEST_NAME = 253  # octets of a domain name as text
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode, BeforeValidator(_networks)]


class ValidationSettings(ProcessSettings):
    """Whom validation asks and where it connects to."""

    resolver: str = Field("", description="host:port of the resolver for validation; empty: the system's")
    resolvers: Mapping[str, str] = Field(
        {}, description="resolvers of zones that have their own, host:port by zone (split horizon)", max_length=100
    )
    caa_identities: Texts = Field(
        (),
        description="issuer domain names that stand for this server in DNS: CAA records, dns-persist-01",
        max_length=10,
    )
    caa: bool = Field(
        True, description="whether CAA records are checked (RFC 8659), where caa_identities names this server"
    )
    http01_port: TargetPort = Field(80, description="port that http-01 dials")
    tlsalpn01_port: TargetPort = Field(443, description="port that tls-alpn-01 dials")
    allowed_networks: Networks = Field(
        (), description="otherwise reserved address ranges (CIDR, comma separated) that validation may dial"
    )
    validation_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        10.0, description="one deadline for a whole validation attempt, look-ups and redirects included"
    )

    @field_validator("resolver")
    @classmethod
    def _resolver(cls, value: str) -> str:
        if value and (not value.rpartition(":")[0] or not value.rpartition(":")[2].isdigit()):
            raise ValueError("must be host:port, or empty for the system's resolver")
        return value

    @field_validator("resolvers")
    @classmethod
    def _resolvers(cls, value: Mapping[str, str]) -> Mapping[str, str]:
        for server in value.values():
            parse_server(server)
        return {zone.lower().strip("."): server for zone, server in value.items()}

    @field_validator("caa_identities")
    @classmethod
    def _identities(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if len(name) > _LONGEST_NAME or not ISSUER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a domain name that a CAA record can have")
        return tuple(name.lower() for name in value)
