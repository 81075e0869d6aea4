"""What the signing service can be told: a TOML file, then the environment as PQCPKI_SIGNING_<FIELD>."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.ca.client.settings import BesideCaSettings
from services.chassis.settings import AbsolutePath, BaseUrl, Port, Texts, base_url, for_service
from services.signing.callers import MtlsBinding, SigningIssuerSettings
from services.signing.callers.tenants import TenantName
from services.signing.domain import OWN_TENANT
from services.signing.retention import RetentionRule
from services.signing.timestamps import DEFAULT_POLICY
from services.signing.webhooks.settings import WebhookSettings
from services.signing.wire import FORMATS, OF_ARTEFACTS, OF_STATEMENTS, Format

_MIB = 1024 * 1024
_PinnedKey = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\.[a-z0-9][a-z0-9-]{0,62}(/[1-9][0-9]{0,6})?$")]
_KeyId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\.[a-z0-9][a-z0-9-]{0,62}$")]


class ProfileSettings(BaseModel):
    """What a caller signs with when it names the profile: keys, and what is made with them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="its name, one of its own per tenant", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    tenant: TenantName = Field(description="whose it is")
    keys: tuple[_KeyId, ...] = Field(
        (),
        max_length=8,
        description="ids at signer-hsm, TENANT.NAME, one per algorithm, that sign artefacts by the digests that are "
        "given: raw signatures, message bundles, CMS",
    )
    attestation_keys: tuple[_KeyId, ...] = Field(
        (),
        max_length=8,
        description="likewise, that sign the statements that this service makes: DSSE, bundles of these, JWS, "
        "composite; never the same keys, since whoever has any digest signed can have a forged statement's signed",
    )
    formats: tuple[Format, ...] = Field(
        ("raw", "dsse", "bundle"), min_length=1, description=f"formats where a request names none: {', '.join(FORMATS)}"
    )
    certificates: dict[_KeyId, AbsolutePath] = Field(
        {}, description="PEM files of keys that have a certificate, with those above it; CMS needs one"
    )
    timestamp: bool = Field(False, description="whether signatures are time-stamped by our own authority")
    log: bool = Field(False, description="whether signatures are entered in our own transparency log")

    @model_validator(mode="after")
    def _own_keys(self) -> ProfileSettings:
        keys = (*self.keys, *self.attestation_keys)
        foreign = [key for key in keys if key.partition(".")[0] != self.tenant]
        if foreign:
            raise ValueError(
                f"profile {self.id} has the key {foreign[0]}, which is not one of the tenant {self.tenant}"
            )
        if len(set(keys)) < len(keys) or len(set(self.formats)) < len(self.formats):
            raise ValueError(f"profile {self.id} has a key or format twice")
        for name in self.formats:
            if not (self.keys and name in OF_ARTEFACTS) and not (self.attestation_keys and name in OF_STATEMENTS):
                role = "keys" if name in OF_ARTEFACTS else "attestation_keys"
                raise ValueError(f"profile {self.id} has the format {name}, and no {role} that sign in it")
        return self


class QuotaSettings(BaseModel):
    """What one tenant may take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    per_second: float = Field(default=500.0, gt=0, le=1_000_000, description="requests to sign, in the long run")
    burst: int = Field(default=1000, ge=1, le=1_000_000, description="requests to sign at once")
    in_flight: int = Field(default=128, ge=1, le=10_000, description="requests to sign under way")
    bytes_per_day: int = Field(
        default=20 * 1024 * _MIB, ge=0, description="octets of uploads and signatures in a day (UTC)"
    )


class TenantQuotaSettings(QuotaSettings):
    """The quota of one tenant that has another than the others."""

    tenant: TenantName = Field(description="whose it is")


class SigningSettings(BesideCaSettings):
    """One frozen object, read once at start."""

    model_config = for_service("signing")

    port: Port = Field(7000, description="TLS port, client certificate optional; 0 takes a free one")
    ops_port: Port = Field(7090, description="plain HTTP port for health and metrics; 0 takes a free one")
    external_url: str = Field("", description="scheme and authority clients use; empty: https://localhost:<port>")
    tls_names: Texts = Field(
        ("localhost", "127.0.0.1", "::1"), description="names and addresses of the public certificate"
    )

    signer_url: BaseUrl = Field(description="base URL of signer-hsm, e.g. https://127.0.0.1:6000")
    signer_timeout_seconds: float = Field(10.0, gt=0, le=60, description="one answer of signer-hsm")
    keys_fresh_seconds: float = Field(
        10.0, gt=0, le=3600, description="how long a key's current version is believed before signer-hsm is asked again"
    )

    policies_directory: AbsolutePath = Field(description="directory of the Cedar policies (*.cedar) and their cases")
    profiles: tuple[ProfileSettings, ...] = Field((), max_length=1000, description="what can be signed with")
    mtls_callers: tuple[MtlsBinding, ...] = Field(
        (), max_length=1000, description="SPIFFE IDs that may call, and their tenants"
    )
    oidc_issuers: tuple[SigningIssuerSettings, ...] = Field(
        (), max_length=32, description="issuers whose tokens callers may show, and whose identities are of which tenant"
    )
    quota: QuotaSettings = Field(QuotaSettings(), description="what each tenant may take")
    tenant_quotas: tuple[TenantQuotaSettings, ...] = Field(
        (), max_length=1000, description="tenants that may take something else"
    )

    log_key: _PinnedKey | None = Field(
        None,
        description="signer-hsm's key of the transparency log, TENANT.NAME/VERSION, version 1 if none is named; "
        "none: there is no log",
    )
    log_public_key: AbsolutePath | None = Field(
        None, description="PEM file with its public half; none: the start waits until signer-hsm tells it"
    )
    log_origin: str = Field(
        "",
        pattern=r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$",
        description="the log's name in its checkpoints, a host name in lower case without port; empty: the host of "
        "external_url; a log keeps its first name, whatever external_url becomes",
    )
    timestamp_key: _PinnedKey | None = Field(
        None, description="signer-hsm's key of the time-stamp authority, likewise; none: there is no authority"
    )
    timestamp_certificate: AbsolutePath | None = Field(
        None, description="PEM file with the authority's certificate, those above it, and the root"
    )
    timestamp_policy: str = Field(
        DEFAULT_POLICY,
        pattern=r"^[0-2](\.(0|[1-9][0-9]{0,8})){1,20}$",
        description="OID of its policy, small arcs",
    )
    timestamps_per_second: float = Field(
        50.0, gt=0, le=100_000, description="time-stamps for whoever asks, all together; our own signatures not counted"
    )
    ct_log_public_key: AbsolutePath | None = Field(
        None, description="PEM file with the public half of the CA's certificate log, for short-lived certificates"
    )
    certificate_renewal_days: int = Field(
        60,
        ge=1,
        le=300,
        description="how long before its end the certificate of a key that stays (time-stamps, artefacts) is renewed; "
        "the new one is in trusted_root.json at once, and used when half of this time is over",
    )
    certificate_profile: str = Field(
        "", max_length=64, description="the CA's profile of short-lived certificates; empty: none are made"
    )

    webhooks: WebhookSettings = Field(WebhookSettings(), description="where events may be delivered to")
    retention: tuple[RetentionRule, ...] = Field(
        (), max_length=1000, description="how long signatures are kept, by tenant; without a rule, for ever"
    )
    idempotency_days: int = Field(7, ge=1, le=365, description="how long an idempotency key is remembered")
    upload_seconds: float = Field(300.0, gt=0, le=3600, description="time for a whole upload to arrive")
    crl_max_staleness_seconds: int = Field(
        3600, ge=60, le=864_000, description="without news of the CRLs for this long, no client certificate is believed"
    )

    @model_validator(mode="after")
    def _roles_differ(self) -> SigningSettings:
        artefacts = {key for profile in self.profiles for key in profile.keys}
        both = artefacts & {key for profile in self.profiles for key in profile.attestation_keys}
        if both:
            raise ValueError(
                f"{min(both)} has two roles, among keys and among attestation_keys: whoever may have any digest signed "
                "by it could have a forged statement's signed; give statements keys of their own"
            )
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> SigningSettings:
        names = [(profile.tenant, profile.id) for profile in self.profiles]
        if len(set(names)) < len(names):
            raise ValueError("profiles has one twice for a tenant")
        tenants = [quota.tenant for quota in self.tenant_quotas]
        if len(set(tenants)) < len(tenants):
            raise ValueError("tenant_quotas has a tenant twice")
        return self

    @model_validator(mode="after")
    def _retention_fits(self) -> SigningSettings:
        tenants = [rule.tenant for rule in self.retention]
        if len(set(tenants)) < len(tenants):
            raise ValueError("retention has a tenant twice")
        if any(rule.days < self.idempotency_days for rule in self.retention):
            raise ValueError(
                "retention keeps signatures for less than idempotency_days, during which they are asked for"
            )
        return self

    @model_validator(mode="after")
    def _nobody_is_the_service(self) -> SigningSettings:
        tenants = [profile.tenant for profile in self.profiles]
        tenants += [binding.tenant for binding in self.mtls_callers]
        tenants += [binding.tenant for issuer in self.oidc_issuers for binding in issuer.bindings()]
        if OWN_TENANT in tenants:
            raise ValueError(f"the tenant {OWN_TENANT} is the service's own; no caller or profile belongs to it")
        return self

    @model_validator(mode="after")
    def _goes_together(self) -> SigningSettings:
        if self.external_url:
            base_url(self.external_url)
        if (self.timestamp_key is None) != (self.timestamp_certificate is None):
            raise ValueError("timestamp_key and timestamp_certificate go together")
        if self.certificate_profile and self.ct_log_public_key is None:
            raise ValueError("certificate_profile goes with ct_log_public_key: verifiers ask for that log's word")
        if self.timestamp_key is None and any(profile.timestamp for profile in self.profiles):
            raise ValueError("a profile wants time-stamps, and timestamp_key does not say who makes them")
        if self.log_key is None and any(profile.log for profile in self.profiles):
            raise ValueError("a profile wants log entries, and log_key does not say who keeps the log")
        return self
