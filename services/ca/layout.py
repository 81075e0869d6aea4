"""Where everything lies below one state directory; `ztca init` makes it, `ztca up` and the services read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

FAMILIES: Final = ("ecdsa", "rsa", "mldsa")
"""Families of roots and issuing CAs."""
NEEDED_FAMILIES: Final = ("ecdsa", "mldsa")
"""Public listeners show ECDSA chains; the services know each other by ML-DSA."""
PUBLIC_FAMILIES: Final = frozenset({"ecdsa", "rsa"})
"""Those of the chains that public listeners show."""
SIGNER: Final = "signer-hsm"
SIGNING: Final = "signing"
SERVICES: Final = (SIGNER, "ca", "acme", SIGNING)  # in the order of their start; those without settings are left out


@dataclass(frozen=True)
class Layout:
    """The paths below `root`; `offline` may be on another mount."""

    root: Path
    offline_directory: Path | None = None

    @property
    def offline(self) -> Path:
        """Where the roots' keys lie."""
        return self.offline_directory or self.root / "offline"

    @property
    def config(self) -> Path:
        """Settings of the services, policy and profiles."""
        return self.root / "config"

    @property
    def services(self) -> tuple[str, ...]:
        """The services of this deployment: those with a settings file, in the order of their start."""
        return tuple(service for service in SERVICES if self.settings(service).is_file())

    def settings(self, service: str) -> Path:
        """The settings file of a service."""
        return self.config / f"{service}.toml"

    @property
    def key_policy(self) -> Path:
        """Who may do what with which key of signer-hsm."""
        return self.config / "keys.toml"

    @property
    def policy(self) -> Path:
        """Who may call which endpoint."""
        return self.config / "policy.toml"

    @property
    def profiles(self) -> Path:
        """The certificate profiles."""
        return self.config / "profiles.toml"

    @property
    def passphrase(self) -> Path:
        """The passphrase of the key files, unless the operator keeps it elsewhere."""
        return self.root / "secrets" / "passphrase"

    @property
    def trust(self) -> Path:
        """Roots and issuing certificates."""
        return self.root / "trust"

    @property
    def trust_bundle(self) -> Path:
        """All roots."""
        return self.trust / "roots.pem"

    @property
    def tls_ca_bundle(self) -> Path:
        """The root that the public listeners' certificates chain to."""
        return self.trust / "tls.pem"

    @property
    def issuers(self) -> Path:
        """The issuing CAs' certificates, one file each."""
        return self.trust / "issuers"

    @property
    def cross(self) -> Path:
        """Certificates of roots' keys by other roots."""
        return self.trust / "cross"

    @property
    def ct_log_public_key(self) -> Path:
        """The public key of the CT log, which verifies its timestamps and checkpoints, PEM."""
        return self.trust / "ct-log.pem"

    @property
    def database(self) -> Path:
        """The CA's SQLite database."""
        return self.state("ca") / "ca.sqlite3"

    @property
    def signer_database(self) -> Path:
        """signer-hsm's SQLite database."""
        return self.state(SIGNER) / "signer-hsm.sqlite3"

    @property
    def signer_keys(self) -> Path:
        """Where the file back end of signer-hsm keeps its keys, if there is one."""
        return self.state(SIGNER) / "keys" / "backend"

    @property
    def signing_database(self) -> Path:
        """The signing service's SQLite database."""
        return self.state(SIGNING) / "signing.sqlite3"

    @property
    def signing_policies(self) -> Path:
        """The signing service's Cedar policies, and their cases."""
        return self.config / "signing-policies"

    @property
    def signing_trust(self) -> Path:
        """What verifiers of signatures need: public keys and the time-stamping chain."""
        return self.trust / SIGNING

    @property
    def timestamp_chain(self) -> Path:
        """The time-stamping authority's certificate and those above it, the root included."""
        return self.signing_trust / "timestamping.pem"

    @property
    def operator(self) -> Path:
        """The operator's identity."""
        return self.root / "operator"

    @property
    def operator_certificate(self) -> Path:
        """The operator's chain, PEM."""
        return self.operator / "cert.pem"

    @property
    def operator_key(self) -> Path:
        """The operator's key, plain PKCS#8 PEM."""
        return self.operator / "key.pem"

    @property
    def logs(self) -> Path:
        """One log file per service."""
        return self.root / "logs"

    @property
    def endpoints(self) -> Path:
        """What is reachable where, while `ztca up` runs."""
        return self.root / "endpoints.json"

    def signing_chain(self, key_id: str) -> Path:
        """The certificate of a key that signs artefacts and those above it, the root included."""
        return self.signing_trust / f"{key_id}.chain.pem"

    def signing_public_key(self, key_id: str) -> Path:
        """The public half of a key that the signing service signs with."""
        return self.signing_trust / f"{key_id}.pem"

    def state(self, service: str) -> Path:
        """The state directory of a service."""
        return self.root / service

    def key(self, service: str, name: str) -> Path:
        """A sealed key file of a service."""
        return self.state(service) / "keys" / f"{name}.key"

    def root_certificate(self, family: str) -> Path:
        """The certificate of a family's root."""
        return self.trust / f"root-{family}.pem"

    def root_key(self, family: str) -> Path:
        """The sealed key of a family's first root."""
        return self.root_key_of(f"root-{family}")

    def root_key_of(self, root: str) -> Path:
        """The sealed key of a root, by its id."""
        return self.offline / f"{root}.key"

    def issuer_certificate(self, family: str) -> Path:
        """The certificate of a family's issuing CA."""
        return self.issuers / f"issuing-{family}.pem"

    def own_certificate(self, issuer: str) -> Path:
        """Where the CA keeps the certificate of an issuing CA, or of a root, that came after the ceremony."""
        return self.state("ca") / "issuers" / f"{issuer}.pem"

    def audit_public_key(self, service: str) -> Path:
        """The public key that verifies a service's audit checkpoints, PEM."""
        return self.trust / "audit" / f"{service}.pem"

    def identity(self, service: str) -> Path:
        """Where a service's mTLS identity lies: cert.pem and key.pem."""
        return self.state(service) / "tls" / "internal"
