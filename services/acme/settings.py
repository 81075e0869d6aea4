"""The ACME server's settings: `PQCPKI_ACME_<FIELD>` or the field's name in the TOML file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from services.acme.challenges import CHALLENGE_TYPES
from services.acme.perspectives.settings import CorroborationSettings
from services.acme.profiles.profiles import BUILT_IN, DEFAULT, Profile
from services.acme.profiles.settings import ProfileName, ProfileTable
from services.acme.rate_limits.settings import LimitSettings
from services.acme.validation_settings import ValidationSettings
from services.ca.client.settings import BesideCaSettings
from services.chassis.settings import AbsolutePath, Port, Texts, base_url, for_service

_PLAIN: Final = re.compile(r"[!-;=?-~]+", re.ASCII)


def _page(url: str) -> str:
    parts = urlsplit(url)
    if url and (parts.scheme not in {"http", "https"} or not parts.hostname or not _PLAIN.fullmatch(url)):
        raise ValueError("must be an http or https URL, without blanks and angle brackets")
    return url


Page = Annotated[str, AfterValidator(_page)]
"""The URL of something to read; it stands in headers (RFC 8288 §3)."""


class AcmeSettings(ValidationSettings, CorroborationSettings, LimitSettings, BesideCaSettings):
    """One frozen object, read once at start."""

    model_config = for_service("acme")

    port: Port = Field(4000, description="public TLS port; 0 takes a free one")
    admin_port: Port = Field(4001, description="mTLS port for operators; 0 takes a free one")
    ops_port: Port = Field(4090, description="plain HTTP port for health and metrics; 0 takes a free one")
    external_url: str = Field("", description="scheme and authority clients use; empty: https://localhost:<port>")

    challenges: Texts = Field(
        ("http-01", "dns-01", "tls-alpn-01", "dns-account-01"),
        description="challenge types that are offered; dns-persist-01 is the one that must be asked for",
        min_length=1,
    )
    tls_names: Texts = Field(
        ("localhost", "127.0.0.1", "::1"), description="names and addresses of the public certificate"
    )
    terms_of_service: Page = Field(
        "", description="URL clients must agree to, another one for each version of the terms; empty: none"
    )
    website: Page = Field("", description="URL about this CA, for the directory")
    external_account_required: bool = Field(
        default=False, description="make accounts only for clients with an external account (`ztca eab create`)"
    )
    eab_secret_file: AbsolutePath | None = Field(
        None,
        description="file with the secret of external accounts, mode 0600, made at first use, the same for every "
        "replica; None: eab-secret in the state directory",
    )

    hold_seconds: Annotated[float, Field(ge=0, le=30)] = Field(
        2.0, description="how long a challenge or finalize request waits for its final state before it says processing"
    )
    order_lifetime_seconds: Annotated[int, Field(ge=60, le=90 * 86400)] = Field(
        7 * 86400, description="how long an order and its authorizations may be used"
    )
    authorization_reuse_seconds: Annotated[int, Field(ge=0, le=90 * 86400)] = Field(
        8 * 3600, description="how long after its proof an authorization serves new orders of its account; 0: never"
    )
    profiles: Mapping[ProfileName, ProfileTable] = Field(
        {}, description="profiles that orders may name, beside the built-in ones: tables [profiles.NAME]", max_length=50
    )
    default_profile: ProfileName = Field(DEFAULT, description="the profile of orders that name none")
    max_identifiers: Annotated[int, Field(ge=1, le=200)] = Field(100, description="names in one order")
    max_contacts: Annotated[int, Field(ge=1, le=100)] = Field(10, description="contacts of one account")
    published_keys_file: AbsolutePath | None = Field(
        None, description="keys that everybody has: the `blocklist.dat` of badkeys; None: no list"
    )
    max_pending_orders: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        1000, description="orders of one account that are neither finished nor expired"
    )

    @field_validator("challenges")
    @classmethod
    def _challenges(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not set(value) <= set(CHALLENGE_TYPES):
            raise ValueError(f"must be among {', '.join(CHALLENGE_TYPES)}")
        return value

    @model_validator(mode="after")
    def _named_where_persistent(self) -> Self:
        if "dns-persist-01" in self.challenges and not self.caa_identities:
            raise ValueError("challenges: dns-persist-01 needs caa_identities, the names that its records name")
        return self

    @model_validator(mode="after")
    def _known_default(self) -> Self:
        if self.default_profile not in self.all_profiles():
            raise ValueError(f"default_profile must be one of {', '.join(self.all_profiles())}")
        return self

    def all_profiles(self) -> Mapping[str, Profile]:
        """The built-in profiles and those of the tables, by name."""
        return {**BUILT_IN, **{name: table.profile(name) for name, table in self.profiles.items()}}

    @field_validator("external_url")
    @classmethod
    def _external_url(cls, value: str) -> str:
        return base_url(value) if value else value
