"""What a deployment is told at its ceremony, and the settings files that say so to the services."""

import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pkicore.encoding import write_atomically
from services.ca.acme_settings import acme_callers, acme_toml
from services.ca.errors import CeremonyError
from services.ca.layout import NEEDED_FAMILIES, SIGNER, SIGNING, Layout
from services.ca.signer_settings import backend_names, callers, key_policy, signer_callers, signer_toml
from services.ca.signing_settings import (
    SigningFacts,
    signing_callers,
    signing_key_rules,
    signing_policies,
    signing_toml,
)
from services.ca.toml_text import lines, table
from services.chassis.paths import plain_path

OPERATOR: Final = "admin"
CT_LOG: Final = "ct-log"
"""Name of the CT log's key."""
_MAX_NAME: Final = 48  # characters; with " issuing ecdsa" behind it a common name has 64 at most
_OPERATOR_ENDPOINTS: Final = (
    "POST /v1/certificates",
    "GET /v1/certificates/{serial}",
    "POST /v1/revocations",
    "GET /v1/revocations",
    "POST /v1/crls",
    "POST /v1/blocked-keys",
    "GET /v1/blocked-keys",
    "DELETE /v1/blocked-keys/{key_hash}",
    "GET /v1/issuers",
    "GET /v1/ledger/certificates",
    "GET /v1/ledger/certificates/{serial}",
    "GET /v1/ledger/refusals",
    "GET /v1/ledger/inventory",
    "GET /v1/openapi.json",
)


@dataclass(frozen=True)
class Ports:
    """The recorded ports of every listener on loopback."""

    ca: int
    ca_http: int
    ca_ops: int
    acme: int
    acme_ops: int
    signer: int = 6000
    signer_ops: int = 6090
    signing: int = 7000
    signing_ops: int = 7090
    acme_admin: int = 4001


@dataclass(frozen=True)
class Deployment:
    """Names and addresses of one PKI.

    Attributes:
        name: begins the names of roots and issuing CAs.
        trust_domain: of its SPIFFE IDs.
        host: address of every listener.
        ports: their recorded ports.
        database_urls: of those services that do not use SQLite below the state directory.
        public_status_url: where verifiers reach the status listener, if not at its own address.
        issuing_keys: URIs by issuer, where they are not files below the state directory.
        responder_keys: likewise, of the OCSP responders.
        ct_log_key: likewise, of the CT log.
        backends: those of signer-hsm; none where there is no signer-hsm.
        remote_responders: whether the responders' keys are made by signer-hsm, too.
        payload_kinds: what the CA's keys in signer-hsm take; the key policy allows nothing else.
        signing: whether there is a signing service; it needs signer-hsm.
        signing_kinds: what its keys take, by their ids.
        families: those that have a root and an issuing CA.
        issuing_algorithms: of the issuing CAs' keys, by family, where they are not the usual ones.
    """

    name: str
    trust_domain: str
    host: str
    ports: Ports
    database_urls: Mapping[str, str] = field(default_factory=dict)
    public_status_url: str = ""
    issuing_keys: Mapping[str, str] = field(default_factory=dict)
    responder_keys: Mapping[str, str] = field(default_factory=dict)
    ct_log_key: str = ""
    backends: tuple[Mapping[str, Any], ...] = ()
    remote_responders: bool = False
    payload_kinds: frozenset[str] = frozenset({"digest", "mu"})
    signing: bool = False
    signing_kinds: Mapping[str, str] = field(default_factory=dict)
    families: tuple[str, ...] = NEEDED_FAMILIES
    issuing_algorithms: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from services.chassis.database import parse_url  # slow to load, and `ztca up` has no use for it

        if not self.name.isprintable() or self.name != self.name.strip() or not 0 < len(self.name) <= _MAX_NAME:
            raise CeremonyError(f"--name must be 1 to {_MAX_NAME} printable characters, without spaces around them")
        if self.signing and not self.backends:
            raise CeremonyError("the signing service has its keys at signer-hsm: --signing goes with --keys signer-hsm")
        missing = [family for family in NEEDED_FAMILIES if family not in self.families]
        if missing:
            raise CeremonyError(
                f"--families needs {missing[0]}: public listeners show ECDSA chains, services know each other by ML-DSA"
            )
        for service, url in self.database_urls.items():
            if parse_url(url).password:
                raise CeremonyError(
                    f"the database URL of {service} has a password, which would be written to its settings: "
                    "leave it out, and keep it in a file that PGPASSFILE names"
                )

    @property
    def services(self) -> tuple[str, ...]:
        """The services of this deployment, in the order of their start."""
        first = (SIGNER,) if self.backends else ()
        return (*first, "ca", "acme", *((SIGNING,) if self.signing else ()))

    @property
    def status_listener(self) -> str:
        """The address of the status listener, for services on this machine."""
        return f"http://{self.host}:{self.ports.ca_http}"

    @property
    def status_url(self) -> str:
        """Where verifiers find CRLs, OCSP and issuers: stands in every certificate."""
        return self.public_status_url or self.status_listener


def is_free(host: str, port: int) -> bool:
    """Whether a listener could have this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(host: str) -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def choose_ports(host: str, wanted: Mapping[str, int]) -> Ports:
    """The wanted ports where they are free, else free ones; 0 always takes a free one."""
    held: list[socket.socket] = []
    try:
        return Ports(**{name: _choose(host, port, held) for name, port in wanted.items()})
    finally:
        for holder in held:
            holder.close()


def _choose(host: str, port: int, held: list[socket.socket]) -> int:
    """Holds the port until all are chosen, so that no two listeners get the same."""
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.append(holder)
    try:
        holder.bind((host, port))
    except OSError:
        holder.bind((host, 0))
    return int(holder.getsockname()[1])


def write_settings(staging: Layout, final: Layout, deployment: Deployment, passphrase_file: Path | None) -> None:
    """Write the services' settings, the caller policy and the profiles; every path is that of the final place."""
    files = {
        staging.settings("ca"): _ca_toml(final, deployment, passphrase_file or final.passphrase),
        staging.settings("acme"): _acme_toml(final, deployment, passphrase_file or final.passphrase),
        staging.policy: policy_toml(deployment),
        staging.profiles: packaged_profiles(),
    }
    if deployment.backends:
        files |= signer_files(staging, final, deployment, passphrase_file or final.passphrase)
    if deployment.signing:
        files |= _signing_files(staging, final, deployment, passphrase_file or final.passphrase)
    for path, text in files.items():
        write_atomically(path, text.encode(), 0o600)


def _signing_files(staging: Layout, final: Layout, deployment: Deployment, passphrase_file: Path) -> dict[Path, str]:
    ports = deployment.ports
    facts = SigningFacts(
        ca_url=f"https://localhost:{ports.ca}",
        ca_status_url=deployment.status_listener,
        signer_url=f"https://localhost:{ports.signer}",
        host=deployment.host,
        port=ports.signing,
        ops_port=ports.signing_ops,
        database_url=deployment.database_urls.get(SIGNING, f"sqlite:///{final.signing_database}"),
        passphrase_file=passphrase_file,
    )
    policies = {staging.signing_policies / name: text for name, text in signing_policies().items()}
    return policies | {staging.settings(SIGNING): signing_toml(final, deployment.trust_domain, facts)}


def signer_files(staging: Layout, final: Layout, deployment: Deployment, passphrase_file: Path) -> dict[Path, str]:
    """The settings of signer-hsm and its key policy, by the file that each belongs in."""
    more = signing_key_rules(deployment.trust_domain, deployment.signing_kinds) if deployment.signing else ()
    policy = key_policy(deployment.trust_domain, backend_names(deployment.backends), deployment.payload_kinds, more)
    return {staging.key_policy: policy, staging.settings(SIGNER): _signer_toml(final, deployment, passphrase_file)}


def database_url(layout: Layout, service: str, environment: Mapping[str, str]) -> str:
    """The database that a service of this deployment uses, by its settings file; the environment wins.

    Raises:
        CeremonyError: the settings file is missing, is not TOML, or names none.
    """
    variable = f"PQCPKI_{service.upper().replace('-', '_')}_DATABASE_URL"
    return environment.get(variable) or _recorded(layout, service, "database_url")


def present_place(layout: Layout, service: str, path: Path) -> Path:
    """Where a path of a service's settings is now: below `layout`, if its directory was moved there, or is a copy.

    Raises:
        CeremonyError: the settings file is missing, is not TOML, or names no state directory.
    """
    state = plain_path(Path(_recorded(layout, service, "state_dir")))
    if state.name == service and path.is_relative_to(state.parent) and layout.state(service).is_dir():
        return layout.root / path.relative_to(state.parent)
    return path


def follow_move(layout: Layout) -> Path | None:
    """Rewrite the settings of a deployment whose directory was moved; the place it was moved from, None if it was not.

    Raises:
        CeremonyError: it is a copy, and the original is still there: two CAs with one key and two ledgers.
    """
    recorded = Path(_recorded(layout, "ca", "state_dir")).parent
    if recorded == layout.root or (recorded.exists() and recorded.samefile(layout.root)):
        return None
    if (recorded / "config").exists():
        raise CeremonyError(
            f"{layout.root} is a copy of {recorded}, which is still there: use that one, or remove it if this one is "
            "to take its place"
        )
    for path in layout.config.glob("*.toml"):
        text = path.read_text(encoding="utf-8")
        moved = re.sub(rf'("|"file:|"sqlite:///){re.escape(str(recorded))}/', rf"\g<1>{layout.root}/", text)
        write_atomically(path, moved.encode(), 0o600)
    return recorded


def recorded_settings(layout: Layout, service: str) -> dict[str, Any]:
    """What the settings file of a service says; it is checked by the service itself.

    Raises:
        CeremonyError: the file is missing, or is not TOML.
    """
    path = layout.settings(service)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CeremonyError(f"the settings file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CeremonyError(f"the settings file {path} is not TOML: {error}") from error


def _recorded(layout: Layout, service: str, name: str) -> str:
    value = recorded_settings(layout, service).get(name)
    if not isinstance(value, str):
        raise CeremonyError(f"{layout.config / f'{service}.toml'} does not set {name}")
    return value


def packaged_profiles() -> str:
    """The profiles of a new deployment."""
    return resources.files("services.ca").joinpath("profiles.toml").read_text(encoding="utf-8")


def _ca_toml(final: Layout, deployment: Deployment, passphrase_file: Path) -> str:
    ports, tls = deployment.ports, final.identity("ca")
    settings = {
        "trust_domain": deployment.trust_domain,
        "host": deployment.host,
        "port": ports.ca,
        "http_port": ports.ca_http,
        "ops_port": ports.ca_ops,
        "status_url": deployment.status_url,
        "state_dir": final.state("ca"),
        "database_url": deployment.database_urls.get("ca", f"sqlite:///{final.database}"),
        "policy_file": final.policy,
        "profiles_file": final.profiles,
        "passphrase_file": passphrase_file,
        "tls_certificate": tls / "cert.pem",
        "tls_key": tls / "key.pem",
        "audit_key": f"file:{final.key('ca', 'audit')}",
        "ct_log_key": deployment.ct_log_key or f"file:{final.key('ca', CT_LOG)}",
        "ct_log_public_key": final.ct_log_public_key,
    }
    if deployment.backends:
        settings["signer_url"] = f"https://localhost:{ports.signer}"
    tables = [table("issuers", _issuer(final, deployment, family)) for family in deployment.families]
    tables += [
        table("roots", {"id": f"root-{family}", "certificate": final.root_certificate(family)})
        for family in deployment.families
    ]
    others = [(f"/service/{name}", "service", final.identity(name)) for name in deployment.services if name != "ca"]
    for path, profile, directory in (*others, (f"/operator/{OPERATOR}", "client", final.operator)):
        identity = {"id": f"spiffe://{deployment.trust_domain}{path}", "profile": profile, "directory": directory}
        tables.append(table("identities", identity))
    heading = (
        "# The CA's settings; `services/ca/settings.py` explains each. The environment (PQCPKI_CA_<FIELD>) wins.\n"
    )
    return heading + lines(settings) + "".join(tables)


def _issuer(final: Layout, deployment: Deployment, family: str) -> dict[str, object]:
    name = f"issuing-{family}"
    return {
        "id": name,
        "family": family,
        "root": f"root-{family}",
        "certificate": final.issuer_certificate(family),
        "key": deployment.issuing_keys.get(name, f"file:{final.key('ca', name)}"),
        "responder_key": deployment.responder_keys.get(name, f"file:{final.key('ca', f'ocsp-{name}')}"),
    }


def _acme_toml(final: Layout, deployment: Deployment, passphrase_file: Path) -> str:
    ports = deployment.ports
    addresses: dict[str, object] = {
        "host": deployment.host,
        "port": ports.acme,
        "admin_port": ports.acme_admin,
        "ops_port": ports.acme_ops,
        "database_url": deployment.database_urls.get("acme", f"sqlite:///{final.state('acme') / 'acme.sqlite3'}"),
        "ca_url": f"https://localhost:{ports.ca}",
        "ca_status_url": deployment.status_listener,
    }
    return acme_toml(final, deployment.trust_domain, addresses, passphrase_file)


def _signer_toml(final: Layout, deployment: Deployment, passphrase_file: Path) -> str:
    ports, tls = deployment.ports, final.identity(SIGNER)
    settings = {
        "trust_domain": deployment.trust_domain,
        "host": deployment.host,
        "port": ports.signer,
        "ops_port": ports.signer_ops,
        "state_dir": final.state(SIGNER),
        "database_url": deployment.database_urls.get(SIGNER, f"sqlite:///{final.signer_database}"),
        "policy_file": final.policy,
        "keys_policy_file": final.key_policy,
        "ca_url": f"https://localhost:{ports.ca}",
        "ca_status_url": deployment.status_listener,
        "trust_bundle": final.trust_bundle,
        "issuers_directory": final.issuers,
        "tls_certificate": tls / "cert.pem",
        "tls_key": tls / "key.pem",
        "audit_key": f"file:{final.key(SIGNER, 'audit')}",
        "passphrase_file": passphrase_file,
    }
    return signer_toml(settings, deployment.backends)


def policy_toml(deployment: Deployment) -> str:
    """Who may call which endpoint; what is not named is refused."""
    heading = "# Who may call which endpoint of which service. What is not named here is refused.\n"
    text = heading + callers(deployment.trust_domain, "ca", {"/operator/*": _OPERATOR_ENDPOINTS})
    text += acme_callers(deployment.trust_domain)
    if deployment.backends:
        text += signer_callers(deployment.trust_domain)
    return text + signing_callers(deployment.trust_domain) if deployment.signing else text
