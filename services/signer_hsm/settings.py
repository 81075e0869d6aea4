"""What signer-hsm can be told: a TOML file, then the environment as PQCPKI_SIGNER_HSM_<FIELD>."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from services.chassis.settings import AbsolutePath, PlainKeyUri, Port, ServiceSettings, for_service
from services.signer_hsm.backends.settings import AnyBackendSettings
from services.signer_hsm.policy import OidcIssuerSettings


def _base_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError("must be scheme://host[:port] without a path")
    return url.rstrip("/")


BaseUrl = Annotated[str, AfterValidator(_base_url)]


class SignerSettings(ServiceSettings):
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

    ca_url: BaseUrl = Field(description="base URL of the CA's internal API, e.g. https://127.0.0.1:5000")
    ca_status_url: BaseUrl = Field(description="base URL of the CA's CRL and OCSP listener, e.g. http://127.0.0.1:5080")
    trust_bundle: AbsolutePath = Field(description="PEM file with every root")
    issuers_directory: AbsolutePath = Field(
        description="directory with the issuing CAs' certificates, each a PEM file named after the issuer's id"
    )
    tls_certificate: AbsolutePath = Field(description="PEM chain of this service's mTLS identity")
    tls_key: AbsolutePath = Field(description="its private key, PKCS#8 PEM, mode 0600")
    audit_key: PlainKeyUri = Field(description="URI of the key that signs audit checkpoints")
    passphrase_file: AbsolutePath = Field(description="file with the passphrase of the audit key, mode 0600")
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
