"""What signer-hsm can be told: a TOML file, then the environment as PQCPKI_SIGNER_HSM_<FIELD>."""

from __future__ import annotations

from pydantic import Field, model_validator

from services.ca.client.settings import BesideCaSettings
from services.chassis.oidc import OidcIssuerSettings
from services.chassis.settings import AbsolutePath, Port, for_service
from services.signer_hsm.backends.settings import AnyBackendSettings


class SignerSettings(BesideCaSettings):
    """One frozen object, read once at start."""

    model_config = for_service("signer-hsm")

    port: Port = Field(6000, description="mTLS port; 0 takes a free one")
    ops_port: Port = Field(6090, description="plain HTTP port for health and metrics; 0 takes a free one")
    backends: tuple[AnyBackendSettings, ...] = Field(
        min_length=1, max_length=32, description="the back ends, the default one first"
    )
    keys_policy_file: AbsolutePath = Field(description="who may do what with which key (TOML or JSON)")

    keys_policy_may_go_back: bool = Field(
        False, description="let the key policy have a lower version than one that was in force; for a ceremony alone"
    )
    oidc_issuers: tuple[OidcIssuerSettings, ...] = Field(
        (), max_length=32, description="issuers whose bearer tokens callers may show"
    )

    attestation_roots: AbsolutePath | None = Field(
        None, description="PEM file with the device makers' roots that attestations are verified against"
    )

    crl_max_staleness_seconds: int = Field(
        86_400,
        ge=60,
        le=864_000,
        description="without news of the CRLs for this long, no client is let in; the CA needs this service to start",
    )
    idempotency_days: int = Field(
        7, ge=1, le=365, description="how long an idempotency key is remembered, and its signatures with it"
    )
    approval_hours: int = Field(24, ge=1, le=720, description="how long an approval of a life-cycle act is good")

    @model_validator(mode="after")
    def _names_differ(self) -> SignerSettings:
        names = [backend.name for backend in self.backends]
        if len(set(names)) < len(names):
            raise ValueError(f"each of backends needs a name of its own, not {', '.join(names)}")
        return self
