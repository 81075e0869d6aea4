"""What a service must be told to stand beside the CA."""

from __future__ import annotations

from pydantic import Field

from services.chassis.settings import AbsolutePath, BaseUrl, PlainKeyUri, ProcessSettings, ServiceSettings


class WayToCaSettings(ProcessSettings):
    """Where the CA is, whom to trust, and the service's own identity."""

    ca_url: BaseUrl = Field(description="base URL of the CA's internal API, e.g. https://127.0.0.1:5000")
    ca_status_url: BaseUrl = Field(description="base URL of the CA's CRL and OCSP listener, e.g. http://127.0.0.1:5080")
    trust_bundle: AbsolutePath = Field(description="PEM file with every root")
    issuers_directory: AbsolutePath = Field(
        description="directory with the issuing CAs' certificates, each a PEM file named after the issuer's id"
    )
    tls_certificate: AbsolutePath = Field(description="PEM chain of this service's mTLS identity")
    tls_key: AbsolutePath = Field(description="its private key, PKCS#8 PEM, mode 0600")
    crls_by_certificate: bool = Field(
        default=False,
        description="hold those CRLs or shards that peers' certificates name, from when the first such peer comes, "
        "instead of the complete CRL of each issuing CA",
    )


class BesideCaSettings(WayToCaSettings, ServiceSettings):
    """Likewise of a service with records, whose audit key the ceremony made."""

    audit_key: PlainKeyUri = Field(description="URI of the key that signs audit checkpoints")
    passphrase_file: AbsolutePath = Field(description="file with the passphrase of the audit key, mode 0600")
