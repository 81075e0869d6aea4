"""What the CA can be told: a TOML file, then the environment as PQCPKI_CA_<FIELD>."""

from datetime import timedelta
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pkicore.errors import UnsupportedError
from pkicore.keys.remote import REMOTE_SCHEME, KeyUri
from services.chassis.settings import AbsolutePath, PlainKeyUri, Port, ServiceSettings, for_service, plain_key_uri


def base_url(url: str) -> str:
    """The URL without a slash at its end.

    Raises:
        ValueError: it is more than scheme, host and port.
    """
    parts = urlsplit(url)
    if url and (parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query):
        raise ValueError("must be http://host[:port], without a path")
    return url.rstrip("/")


BaseUrl = Annotated[str, AfterValidator(base_url)]


def is_remote(uri: str) -> bool:
    """Whether a key is held by signer-hsm."""
    return uri.partition(":")[0] == REMOTE_SCHEME


def _key_reference(uri: str) -> str:
    if is_remote(uri):
        try:
            version = KeyUri.parse(uri).version
        except UnsupportedError as error:
            raise ValueError(str(error)) from error
        if version is None:
            raise ValueError(f"{uri} needs a version, since it belongs to a certificate: add /1")
    return plain_key_uri(uri)


KeyReference = Annotated[str, AfterValidator(_key_reference)]


IssuerState: TypeAlias = Literal["prepared", "active", "retired"]
"""A prepared issuing CA publishes its CRL and answers OCSP; an active one issues; a retired one does so no more."""
RootState: TypeAlias = Literal["prepared", "active", "superseded", "retired"]
"""A prepared root is trusted; an active one certifies issuing CAs; a superseded one is still trusted, a retired not."""


class IssuerSettings(BaseModel):
    """One issuing CA and the delegated OCSP responder that answers for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="Stable name, part of the CRL and AIA URLs.", pattern=r"^[a-z0-9-]{1,64}$")
    family: Literal["ecdsa", "rsa", "mldsa"] = Field(description="Family of its key.")
    root: str = Field(description="Id of the root above it.", pattern=r"^[a-z0-9-]{1,64}$")
    certificate: AbsolutePath = Field(description="Its certificate, PEM.")
    key: KeyReference = Field(
        description="URI of its key: file:/path, or signer-hsm:TENANT.NAME/VERSION, for which signer_url must be set."
    )
    previous_key: PlainKeyUri = Field(
        "", description="URI of the same key before its last migration; `ztca keys rollback` puts it in force again."
    )
    previous_responder_key: PlainKeyUri = Field(
        "", description="URI of a retired OCSP responder's key that `ztca keys destroy-files` is about to destroy."
    )
    migrated_at: int = Field(0, ge=0, description="When `ztca keys migrate` changed the key, Unix time; 0: never.")
    state: IssuerState = Field(
        "active",
        description="prepared: publishes its CRL and answers OCSP. active: issues, too; one of each family. "
        "retired: issues nothing any more, but its CRL and OCSP answers go on.",
    )
    replaces: str = Field("", description="Id of the issuing CA in whose place it came, where it came by a roll.")
    crl_shards: int = Field(
        1,
        ge=1,
        le=1024,
        description="Shards of its CRL for certificates issued from now on; those issued before stay in theirs.",
    )
    responder_key: KeyReference = Field(description="URI of its OCSP responder's key, as a rule a local one.")

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, values: object) -> object:
        """They had `retired = true`."""
        if not isinstance(values, dict) or "retired" not in values:
            return values
        rest = {name: value for name, value in values.items() if name != "retired"}
        return {"state": "retired" if values["retired"] is True else "active", **rest}

    @property
    def retired(self) -> bool:
        """Whether it has issued, and does so no more."""
        return self.state == "retired"


class RootSettings(BaseModel):
    """One root. Its key is not here, and never is. Of each family, one is active."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="Stable name, part of the CRL and AIA URLs.", pattern=r"^[a-z0-9-]{1,64}$")
    certificate: AbsolutePath = Field(description="Its certificate, PEM.")
    state: RootState = Field(
        "active",
        description="prepared: is trusted. active: certifies new issuing CAs, too. superseded: is trusted, and "
        "certifies none any more. retired: is not trusted any more; its CRL is published.",
    )
    cross: tuple[AbsolutePath, ...] = Field(
        (), description="Certificates of its key by other roots, PEM: for who trusts those alone."
    )


class IdentitySettings(BaseModel):
    """One identity beside the CA's own that it renews; whoever keeps the files elsewhere leaves it out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(description="Its SPIFFE ID.", pattern=r"^spiffe://")
    profile: Literal["client", "service"] = Field(
        description="client: an operator's, renewed in time. service: renewed at the CA's start where it has expired."
    )
    directory: AbsolutePath = Field(description="Holds its cert.pem and key.pem.")


class CaSettings(ServiceSettings):
    """The CA's settings; every lifetime in seconds."""

    model_config = for_service("ca")

    port: Port = Field(5000, description="Port of the mTLS listener; 0 takes a free one.")
    http_port: Port = Field(5080, description="Port of the CRL, OCSP and AIA listener; 0 takes a free one.")
    ops_port: Port = Field(5090, description="Port of the ops listener; 0 takes a free one.")
    status_url: BaseUrl = Field(
        "",
        description="Where verifiers reach the HTTP listener; stands in certificates. Empty: the listener's address.",
    )
    issuers: tuple[IssuerSettings, ...] = Field(description="The issuing CAs, the default one first.", min_length=1)
    roots: tuple[RootSettings, ...] = Field(description="The roots above them.", min_length=1)
    identities: tuple[IdentitySettings, ...] = Field((), description="Identities that the CA renews beside its own.")
    signer_url: BaseUrl = Field(
        "", description="Base URL of signer-hsm, e.g. https://localhost:6000; needed where a key is held by signer-hsm."
    )
    signer_timeout_seconds: float = Field(
        10.0, gt=0, le=25, description="One answer of signer-hsm; our own callers wait for 30 s."
    )
    signer_start_seconds: float = Field(
        15.0, ge=0, le=600, description="How long the start waits for signer-hsm; then the CA starts without it."
    )
    ct_log_key: KeyReference = Field(
        "", description="URI of the CT log's key, ecdsa-p256. Empty: there is no log, and no certificate with its mark."
    )
    ct_log_public_key: AbsolutePath | None = Field(None, description="The log's public key, PEM; what verifiers trust.")
    passphrase_file: AbsolutePath = Field(description="File with the passphrase of the key files, mode 0600.")
    profiles_file: AbsolutePath = Field(description="The certificate profiles (TOML).")
    published_keys_file: AbsolutePath | None = Field(
        None, description="Keys that everybody has: the `blocklist.dat` of badkeys. None: no list."
    )
    tls_certificate: AbsolutePath = Field(description="PEM chain of the mTLS identity.")
    tls_key: AbsolutePath = Field(description="Its private key, PKCS#8 PEM, mode 0600.")
    audit_key: PlainKeyUri = Field(description="URI of the key that signs audit checkpoints.")
    crl_lifetime_seconds: int = Field(
        86_400, ge=600, le=864_000, description="Life of a CRL; a new one comes at half of it. Ten days at most."
    )
    ocsp_lifetime_seconds: int = Field(
        43_200, ge=600, le=864_000, description="Life of an OCSP answer; kept for half of it. Ten days at most."
    )
    ocsp_archive_seconds: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="OCSP answers say that certificates are answered for so long after their end (RFC 6960 §4.4.4).",
    )
    http_max_age_seconds: int = Field(
        60, ge=0, le=86_400, description="How long caches may keep CRLs and OCSP answers, and so hide a revocation."
    )
    ocsp_cache_entries: int = Field(
        20_000, ge=0, le=1_000_000, description="OCSP answers kept in memory, 1-10 kB each (ML-DSA: 9), at most."
    )
    ocsp_cache_mebibytes: int = Field(
        128, ge=1, le=16_384, description="MiB that they may have together; those that nobody asks for go first."
    )
    crl_max_staleness_seconds: int = Field(
        3600, ge=60, le=864_000, description="Without news of the CRLs for this long, no client is let in."
    )
    refusal_days: int = Field(
        90, ge=1, le=3650, description="How long the ledger keeps refused requests, a million at most."
    )

    @model_validator(mode="after")
    def _knows_the_signer(self) -> "CaSettings":
        if self.has_remote_keys and not self.signer_url:
            raise ValueError("a key is held by signer-hsm, and signer_url does not say where that is")
        return self

    @model_validator(mode="after")
    def _knows_the_log(self) -> "CaSettings":
        if bool(self.ct_log_key) != (self.ct_log_public_key is not None):
            raise ValueError("a CT log needs both ct_log_key and ct_log_public_key; without a log, leave out both")
        return self

    @model_validator(mode="after")
    def _one_issues(self) -> "CaSettings":
        active = [item.family for item in self.issuers if item.state == "active"]
        twice = sorted({family for family in active if active.count(family) > 1})
        if twice:
            raise ValueError(f"two issuing CAs of the family {twice[0]} issue: set state = 'retired' in one of them")
        if not active:
            raise ValueError("no issuing CA is active, so that nothing could be issued: `ztca ca activate`")
        return self

    @property
    def has_remote_keys(self) -> bool:
        """Whether any key is held by signer-hsm."""
        issuing = any(is_remote(item.key) or is_remote(item.responder_key) for item in self.issuers)
        return issuing or is_remote(self.ct_log_key)

    @property
    def crl_lifetime(self) -> timedelta:
        """Life of a CRL."""
        return timedelta(seconds=self.crl_lifetime_seconds)

    @property
    def ocsp_lifetime(self) -> timedelta:
        """Life of an OCSP answer."""
        return timedelta(seconds=self.ocsp_lifetime_seconds)
