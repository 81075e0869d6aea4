"""What of a deployment is still classical: gathered from those who know, put into one report.

Nobody's database is read: the CA is asked over its API, signer-hsm over its own, the listeners by a handshake, and the
ACME server's accounts by the numbers that its ops listener shows to anybody on the machine; keys in files are seen in
their public halves in `trust/`. Who does not answer stands in the report as not asked.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from pkicore.algorithms import ALGORITHMS, algorithm_of
from pkicore.errors import PkiError
from pkicore.mtls import INTERNAL, PUBLIC
from services.ca.cli.connection import connected, service_id
from services.ca.cli.ledger_text import moment
from services.ca.client import CaError
from services.ca.ct.opening import read_public_key
from services.ca.deployment import recorded_settings
from services.ca.errors import CaServiceError
from services.ca.layout import SIGNER, Layout
from services.ca.own_policy import is_json
from services.chassis.cli.deployed import Deployed
from services.chassis.errors import ChassisError
from services.chassis.public_http import public_client
from services.signer_hsm.client import SignerClient

_ACCOUNTS: Final = "pqcpki_acme_accounts"
_OPS_SECONDS: Final = 5.0
_OPS_OCTETS: Final = 4 * 1024 * 1024
_LISTENERS: Final = {
    "ca_internal": "ca",
    "signer_hsm": SIGNER,
    "acme_directory": None,
    "acme_admin": "acme",
    "signing": None,
}
"""Endpoint to the service whose SPIFFE ID it must show; None where the host name is checked."""
_UNREACHABLE: Final = (PkiError, ChassisError, CaError, CaServiceError, OSError, httpx.HTTPError, ValueError)


@dataclass(frozen=True)
class Finding:
    """One thing, or so many alike, and the algorithm that it stands on.

    Attributes:
        what: what it is.
        algorithm: as far as it is known.
        classical: whether a quantum computer ends it.
        count: how many.
        detail: more for people.
    """

    what: str
    algorithm: str
    classical: bool
    count: int = 1
    detail: str = ""


@dataclass
class Report:
    """Findings by area, and the areas that could not be looked at, with the reason."""

    issuers: list[Finding] = field(default_factory=list)
    certificates: list[Finding] = field(default_factory=list)
    accounts: list[Finding] = field(default_factory=list)
    listeners: list[Finding] = field(default_factory=list)
    keys: list[Finding] = field(default_factory=list)
    not_asked: dict[str, str] = field(default_factory=dict)

    @property
    def areas(self) -> dict[str, list[Finding]]:
        """The findings by the name of their area."""
        return {
            "issuers": self.issuers,
            "certificates": self.certificates,
            "accounts": self.accounts,
            "listeners": self.listeners,
            "keys": self.keys,
        }

    @property
    def classical(self) -> int:
        """How many things are classical."""
        return sum(finding.count for found in self.areas.values() for finding in found if finding.classical)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        found = {name: [asdict(finding) for finding in area] for name, area in self.areas.items()}
        return {"classical": self.classical, **found, "not_asked": self.not_asked}


def is_classical(algorithm: str) -> bool:
    """Whether a quantum computer ends an algorithm; what is not in our table is taken to be classical."""
    row = ALGORITHMS.get(algorithm.lower())
    return row is None or not row.quantum_safe


async def gather(deployed: Deployed) -> Report:
    """Ask everybody; whoever does not answer is named."""
    report = Report()
    areas: Sequence[tuple[str, Callable[[Deployed, Report], Awaitable[None]]]] = (
        ("issuers and certificates", _ask_ca),
        ("accounts", _ask_acme),
        ("keys at signer-hsm", _ask_signer),
        ("published keys", look_at_published),
    )
    for area, ask in areas:
        try:
            await ask(deployed, report)
        except _UNREACHABLE as error:
            report.not_asked[area] = str(error) or type(error).__name__
    await _probe(deployed, report)
    return report


async def _ask_ca(deployed: Deployed, report: Report) -> None:
    async with connected(deployed.directory) as ca:
        inventory = await ca.inventory()
    report.issuers += [
        Finding(
            issuer.id, issuer.algorithm, is_classical(issuer.algorithm), detail=f"{issuer.role}, key: {issuer.place}"
        )
        for issuer in inventory.issuers
    ]
    report.certificates += [
        Finding(
            f"profile {live.profile}",
            live.algorithm or "unknown",
            is_classical(live.algorithm),
            live.count,
            f"the oldest of {moment(live.oldest)}",
        )
        for live in inventory.certificates
    ]


async def _ask_acme(deployed: Deployed, report: Report) -> None:
    if "acme_directory" not in deployed.endpoints:
        return
    base = deployed.endpoints["ops"]["acme"]
    url = f"{base}/metrics"
    async with public_client(base, _OPS_SECONDS) as http:
        answer = (await http.get("/metrics")).raise_for_status()
    if len(answer.content) > _OPS_OCTETS:
        raise ValueError(f"{url} answers too much")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    if _ACCOUNTS not in families:
        raise ValueError(f"{url} does not show {_ACCOUNTS}: the ACME server is of an older version")
    for sample in families[_ACCOUNTS].samples:
        algorithm = sample.labels["algorithm"]
        report.accounts.append(Finding("ACME accounts", algorithm, is_classical(algorithm), int(sample.value)))


async def _ask_signer(deployed: Deployed, report: Report) -> None:
    if "signer_hsm" not in deployed.endpoints:
        return
    async with _signer(deployed) as signer:
        for tenant in _tenants(deployed):
            after: str | None = None
            while True:
                page = await signer.keys(tenant, after=after)
                report.keys += [
                    Finding(key.id, key.algorithm, is_classical(key.algorithm), detail=f"{key.state}, {key.backend}")
                    for key in page.keys
                ]
                after = page.next
                if after is None:
                    break


async def look_at_published(deployed: Deployed, report: Report) -> None:
    """The keys of the audit logs' checkpoints, and the CT log's; those at signer-hsm were listed there.

    Raises:
        ValueError: the audit keys are not in this copy of the deployment's trust.
    """
    layout = Layout(deployed.directory)
    audit = {path.stem: path for path in sorted((layout.trust / "audit").glob("*.pem"))}
    report.keys += [
        _published(path, f"audit checkpoints of {service}")
        for service, path in audit.items()
        if not _is_at_signer(layout, service, "audit_key")
    ]
    if layout.ct_log_public_key.exists() and not _is_at_signer(layout, "ca", "ct_log_key"):
        report.keys.append(_published(layout.ct_log_public_key, "CT log"))
    if missing := [service for service in layout.services if service not in audit]:
        raise ValueError(f"the deployment's trust/audit has no key of {', '.join(missing)}")


def _published(path: Path, what: str) -> Finding:
    algorithm = algorithm_of(read_public_key(path)).name
    return Finding(what, algorithm, is_classical(algorithm), detail=str(path))


def _is_at_signer(layout: Layout, service: str, setting: str) -> bool:
    if not layout.settings(service).is_file():  # a copy of the trust alone
        return False
    return str(recorded_settings(layout, service).get(setting, "")).startswith(f"{SIGNER}:")


@asynccontextmanager
async def _signer(deployed: Deployed) -> AsyncIterator[SignerClient]:
    client = await deployed.client(INTERNAL, deployed.operator_certificate, deployed.operator_key, require_staple=True)
    async with client.http1(service_id(deployed, SIGNER), deployed.endpoints["signer_hsm"]) as http:
        yield SignerClient(http)


def _tenants(deployed: Deployed) -> list[str]:
    """The tenants of the key policy."""
    text = Layout(deployed.directory).key_policy.read_text()
    document = json.loads(text) if is_json(text) else tomllib.loads(text)
    return [str(tenant["id"]) for tenant in document.get("tenants", ())]


async def _probe(deployed: Deployed, report: Report) -> None:
    """Shake hands with every listener as an operator: which group is negotiated, which key answers."""
    client = await deployed.client(PUBLIC, deployed.operator_certificate, deployed.operator_key, require_staple=False)
    for name, service in _LISTENERS.items():
        url = deployed.endpoints.get(name)
        if not isinstance(url, str):
            continue
        try:
            seen = await client.probe(url, None if service is None else service_id(deployed, service))
        except _UNREACHABLE as error:
            report.not_asked[f"listener {name}"] = str(error)
            continue
        group, key = seen.group or "unknown", seen.key_algorithm or "unknown"
        report.listeners.append(Finding(f"{name} key exchange", group, "MLKEM" not in group.upper(), detail=url))
        report.listeners.append(Finding(f"{name} certificate", key, is_classical(key), detail=url))
