"""What the signing service is told, and what others are told about it. Written once, then the operator's.

Its own keys and the first tenant's are at signer-hsm. It may sign with exactly these and read their public halves;
whoever adds a key to a profile adds it to the key policy as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pkicore.identity import SpiffeId
from services.ca.layout import SIGNER, SIGNING, Layout
from services.ca.signer_settings import callers, operator_rules, rule
from services.ca.toml_text import lines, table

FIRST_TENANT: Final = "default"
LOG_KEY: Final = f"{SIGNING}.log"
TIMESTAMP_KEY: Final = f"{SIGNING}.tsa"
KEYS: Final[Mapping[str, str]] = {
    LOG_KEY: "ecdsa-p256",
    TIMESTAMP_KEY: "ecdsa-p256",
    f"{FIRST_TENANT}.artefact-es256": "ecdsa-p256",
    f"{FIRST_TENANT}.artefact-mldsa65": "ml-dsa-65",
    f"{FIRST_TENANT}.attestation-es256": "ecdsa-p256",
    f"{FIRST_TENANT}.attestation-mldsa65": "ml-dsa-65",
}
"""The keys that the ceremony makes: id and algorithm."""
ARTEFACT_KEYS: Final = tuple(key_id for key_id in KEYS if key_id.startswith(f"{FIRST_TENANT}.artefact-"))
ATTESTATION_KEYS: Final = tuple(key_id for key_id in KEYS if key_id.startswith(f"{FIRST_TENANT}.attestation-"))
TENANTS: Final = (SIGNING, FIRST_TENANT)
_AT_THE_CA: Final = (
    "POST /v1/certificates",
    "GET /v1/certificates/{serial}",
    "GET /v1/revocations",
    "GET /v1/issuers",
)
_AT_SIGNER_HSM: Final = ("GET /v1/keys/{id}/pubkey", "POST /v1/keys/{id}/sign")


@dataclass(frozen=True)
class SigningFacts:
    """What the ceremony settles for the signing service, beside what every service is told.

    Attributes:
        ca_url, ca_status_url, signer_url: where the others are.
        host, port, ops_port: its listeners.
        database_url: its database.
        passphrase_file: of its audit key.
    """

    ca_url: str
    ca_status_url: str
    signer_url: str
    host: str
    port: int
    ops_port: int
    database_url: str
    passphrase_file: Path


def signing_callers(trust_domain: str) -> str:
    """What the signing service may ask of the CA and of signer-hsm."""
    path = f"/service/{SIGNING}"
    return callers(trust_domain, "ca", {path: _AT_THE_CA}) + callers(trust_domain, SIGNER, {path: _AT_SIGNER_HSM})


def signing_key_rules(trust_domain: str, kinds: Mapping[str, str]) -> list[dict[str, object]]:
    """The rules of the key policy about the signing service's tenants; `kinds` has each key's payload kind by id."""
    caller = str(SpiffeId.service(trust_domain, SIGNING))
    found = []
    for tenant in TENANTS:
        for kind in sorted(set(kinds.values())):
            names = [
                key_id.partition(".")[2] for key_id in KEYS if key_id.startswith(f"{tenant}.") and kinds[key_id] == kind
            ]
            if names:
                name = f"signing-signs-{tenant}-{kind}"
                found.append(rule(name, [caller], ["sign"], kinds=[kind], tenant=tenant, keys=names))
        everything = [key_id.partition(".")[2] for key_id in KEYS if key_id.startswith(f"{tenant}.")]
        found.append(rule(f"signing-reads-{tenant}", [caller], ["pubkey"], tenant=tenant, keys=everything))
        found += operator_rules(trust_domain, tenant)
    return found


def signing_policies() -> dict[str, str]:
    """The first Cedar policies and their cases, by file name."""
    directory = resources.files("services.ca").joinpath("signing_policies")
    return {
        file.name: file.read_text(encoding="utf-8")
        for file in directory.iterdir()
        if file.name.endswith((".cedar", ".test.toml"))
    }


def signing_toml(final: Layout, trust_domain: str, facts: SigningFacts) -> str:
    """The settings file."""
    tls = final.identity(SIGNING)
    settings: dict[str, object] = {
        "trust_domain": trust_domain,
        "host": facts.host,
        "port": facts.port,
        "ops_port": facts.ops_port,
        "state_dir": final.state(SIGNING),
        "database_url": facts.database_url,
        "policy_file": final.policy,
        "policies_directory": final.signing_policies,
        "ca_url": facts.ca_url,
        "ca_status_url": facts.ca_status_url,
        "signer_url": facts.signer_url,
        "trust_bundle": final.trust_bundle,
        "issuers_directory": final.issuers,
        "tls_certificate": tls / "cert.pem",
        "tls_key": tls / "key.pem",
        "audit_key": f"file:{final.key(SIGNING, 'audit')}",
        "passphrase_file": facts.passphrase_file,
        "log_key": f"{LOG_KEY}/1",
        "log_public_key": final.signing_public_key(LOG_KEY),
        "timestamp_key": f"{TIMESTAMP_KEY}/1",
        "timestamp_certificate": final.timestamp_chain,
        "certificate_profile": "code-signing",
        "ct_log_public_key": final.ct_log_public_key,
    }
    heading = (
        "# The signing service's settings; docs/operations/settings.md explains each. The environment\n"
        "# (PQCPKI_SIGNING_<FIELD>) wins.\n"
    )
    return (
        heading + lines(settings) + table("profiles", _profile(final)) + table("mtls_callers", _operators(trust_domain))
    )


def _profile(final: Layout) -> dict[str, Any]:
    return {
        "id": "default",
        "tenant": FIRST_TENANT,
        "keys": ARTEFACT_KEYS,
        "attestation_keys": ATTESTATION_KEYS,
        "certificates": {key_id: final.signing_chain(key_id) for key_id in ARTEFACT_KEYS},
        "formats": ["raw", "dsse", "bundle"],
        "timestamp": True,
        "log": True,
    }


def _operators(trust_domain: str) -> dict[str, str]:
    return {"spiffe_id": f"spiffe://{trust_domain}/operator/*", "tenant": FIRST_TENANT}
