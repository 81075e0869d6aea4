"""What the ACME server is told, and what others are told about it. Written once, then the operator's."""

from pathlib import Path
from typing import Final

from services.ca.layout import Layout
from services.ca.signer_settings import callers
from services.ca.toml_text import lines

OPERATOR_ENDPOINTS: Final = (
    "GET /v1/accounts",
    "GET /v1/accounts/{id}",
    "POST /v1/accounts/{id}/agreement",
    "POST /v1/accounts/{id}/deactivation",
    "GET /v1/external-accounts",
    "POST /v1/external-accounts",
    "GET /v1/external-accounts/{kid}",
    "POST /v1/external-accounts/{kid}/revocation",
    "GET /v1/incidents",
    "POST /v1/incidents",
    "GET /v1/incidents/{id}",
    "DELETE /v1/incidents/{id}",
    "POST /v1/incidents/{id}/certificates",
    "POST /v1/incidents/{id}/opening",
    "POST /v1/incidents/{id}/closure",
    "GET /v1/incidents/{id}/at-risk",
    "GET /v1/limits",
    "POST /v1/limits",
    "POST /v1/limits/reset",
    "GET /v1/openapi.json",
)
"""What operators may ask of the ACME server; `services.acme.wire` has the same list, for its sentences."""
_AT_THE_CA: Final = (
    "POST /v1/certificates",
    "GET /v1/certificates/{serial}",
    "POST /v1/revocations",
    "GET /v1/revocations",
    "GET /v1/blocked-keys/{key_hash}",
    "GET /v1/issuers",
)
_ANY_SERVICE_AT_THE_CA: Final = ("POST /v1/certificates", "GET /v1/revocations")
"""What a remote perspective needs to keep its own certificate and its trust fresh."""


def acme_callers(trust_domain: str) -> str:
    """What the ACME server and its perspectives may ask of the CA, and what operators may ask of the ACME server."""
    own = callers(trust_domain, "ca", {"/service/acme": _AT_THE_CA, "/service/*": _ANY_SERVICE_AT_THE_CA})
    return own + callers(trust_domain, "acme", {"/operator/*": OPERATOR_ENDPOINTS})


def acme_toml(final: Layout, trust_domain: str, addresses: dict[str, object], passphrase_file: Path) -> str:
    """The settings of the ACME server; `addresses` are those of its listeners, its database and the CA."""
    tls = final.identity("acme")
    settings = {
        "trust_domain": trust_domain,
        **addresses,
        "state_dir": final.state("acme"),
        "policy_file": final.policy,
        "trust_bundle": final.trust_bundle,
        "issuers_directory": final.issuers,
        "tls_certificate": tls / "cert.pem",
        "tls_key": tls / "key.pem",
        "audit_key": f"file:{final.key('acme', 'audit')}",
        "passphrase_file": passphrase_file,
    }
    heading = "# The ACME server's settings. The environment (PQCPKI_ACME_<FIELD>) wins.\n"
    return heading + lines(settings)
