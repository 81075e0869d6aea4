"""The settings of each back end, `[[backends]]` in signer-hsm's settings file; no SDK is imported here.

Secrets are named by file or by environment variable, never written into the settings file.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.chassis.settings import AbsolutePath

CREATE_DEADLINES: Final = 12
"""Making a key may take so many times as long as anything else: a token takes up to a minute for an RSA key."""

Seconds: TypeAlias = Annotated[float, Field(gt=0, le=120)]


class BackendSettings(BaseModel):
    """What every back end can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="its name in policies, logs and metrics")
    deadline_seconds: Seconds = Field(5.0, description="one deadline for a whole operation, repetitions included")
    workers: int = Field(2, ge=1, le=64, description="threads (or requests at once) of this back end alone")
    queue: int = Field(256, ge=1, le=10_000, description="operations that may wait; more are refused at once")
    breaker_failures: int = Field(5, ge=1, le=1000, description="failures in a row that open the circuit breaker")
    breaker_seconds: Seconds = Field(5.0, description="how long the breaker stays open before one call may try")
    verify: bool = Field(False, description="verify each signature here too, beside the consumer's own check")


class FileSettings(BackendSettings):
    """Encrypted key files, for development and tests."""

    type: Literal["file"]
    directory: AbsolutePath = Field(description="where the sealed keys lie; made with mode 0700")
    passphrase_file: AbsolutePath = Field(description="file with the passphrase, mode 0600")


class Pkcs11Settings(BackendSettings):
    """A PKCS#11 token: SoftHSM2, YubiHSM2, NSS softokn, any Cryptoki 2.40 or later."""

    type: Literal["pkcs11"]
    module: AbsolutePath = Field(description="the module's shared object")
    preload: tuple[AbsolutePath, ...] = Field((), description="shared objects to load first, in this order")
    token_label: str = Field("", max_length=32, description="the token by its label")
    token_serial: str = Field("", max_length=16, description="the token by its serial number")
    pin_file: AbsolutePath | None = Field(None, description="file with the user PIN, mode 0600")
    pin_variable: str = Field("", description="environment variable with the user PIN, instead of a file")
    environment: dict[str, str] = Field({}, description="variables that the module reads when it is loaded")
    allow_import: bool = Field(False, description="whether private keys may be brought in")

    @model_validator(mode="after")
    def _one_of_each(self) -> Pkcs11Settings:
        if bool(self.token_label) == bool(self.token_serial):
            raise ValueError("give token_label or token_serial")
        if (self.pin_file is None) == (not self.pin_variable):
            raise ValueError("give pin_file or pin_variable")
        return self


class VaultSettings(BackendSettings):
    """HashiCorp Vault or OpenBao, Transit engine."""

    type: Literal["vault"]
    address: str = Field(pattern=r"^https?://", description="e.g. https://vault.internal:8200")
    ca_file: AbsolutePath | None = Field(None, description="PEM roots that vouch for the server; else the system's")
    allow_plain_http: bool = Field(False, description="let address be http:// (a sidecar or agent on this machine)")
    namespace: str = Field("", description="enterprise or OpenBao namespace")
    mount: str = Field("transit", description="mount path of the Transit engine")
    approle_mount: str = Field("approle", description="mount path of the AppRole method")
    role_id_file: AbsolutePath | None = Field(None, description="file with the role id")
    secret_id_file: AbsolutePath | None = Field(None, description="file with the secret id, mode 0600")
    token_file: AbsolutePath | None = Field(None, description="file with a token, mode 0600, instead of AppRole")
    timeout_seconds: Seconds = Field(2.0, description="one request")
    allow_import: bool = Field(False, description="whether private keys may be brought in")
    verify: bool = True

    @model_validator(mode="after")
    def _one_login(self) -> VaultSettings:
        if (self.token_file is None) == (self.role_id_file is None):
            raise ValueError("give token_file, or role_id_file and secret_id_file")
        if (self.role_id_file is None) != (self.secret_id_file is None):
            raise ValueError("role_id_file and secret_id_file go together")
        if self.address.startswith("http://") and not self.allow_plain_http:
            raise ValueError("address is http://; set allow_plain_http if nobody listens between here and there")
        return self


class AwsKmsSettings(BackendSettings):
    """AWS KMS; credentials come the SDK's usual ways (profile, environment, instance role)."""

    type: Literal["aws_kms"]
    region: str = Field(description="e.g. eu-central-1")
    endpoint_url: str = Field("", description="another endpoint, such as a VPC's")
    ca_file: AbsolutePath | None = Field(None, description="PEM roots that vouch for the endpoint")
    alias_prefix: str = Field("pqcpki", pattern=r"^[a-zA-Z0-9_-]{1,64}$", description="aliases are alias/PREFIX/...")
    connect_timeout_seconds: Seconds = Field(1.0, description="one connection attempt")
    timeout_seconds: Seconds = Field(2.0, description="one request")
    attempts: int = Field(2, ge=1, le=5, description="of a request, by the SDK, where it is safe")
    deletion_window_days: int = Field(30, ge=7, le=30, description="KMS waits so long before a key is gone")
    verify: bool = True


class GcpKmsSettings(BackendSettings):
    """Google Cloud KMS; credentials are the application default ones."""

    type: Literal["gcp_kms"]
    project: str = Field(description="project id")
    location: str = Field(description="e.g. europe-west3")
    key_ring_prefix: str = Field("pqcpki", pattern=r"^[a-zA-Z0-9_-]{1,30}$", description="rings are PREFIX-TENANT")
    protection_level: Literal["SOFTWARE", "HSM"] = Field("HSM", description="of new keys")
    software_algorithms: tuple[str, ...] = Field((), description="algorithms whose new keys are SOFTWARE")
    rsa_scheme: Literal["RS256", "PS256"] = Field("RS256", description="of new RSA keys; KMS binds it to the key")
    endpoint: str = Field("", description="host:port of another endpoint")
    ca_file: AbsolutePath | None = Field(None, description="PEM roots that vouch for the endpoint")
    insecure_channel: bool = Field(False, description="no TLS, no credentials: for a simulator on this machine")
    timeout_seconds: Seconds = Field(2.0, description="one request")
    verify: bool = True


AnyBackendSettings: TypeAlias = Annotated[
    FileSettings | Pkcs11Settings | VaultSettings | AwsKmsSettings | GcpKmsSettings, Field(discriminator="type")
]
