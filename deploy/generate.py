"""Writes the manifests that follow from other files; run it after a change of those: `python deploy/generate.py`.

istio/base/authorization.yaml    from the caller policy: that of `ztca init`, or the one that is given as argument
k8s/base/prometheus-rules.yaml   from prometheus/*.rules.yaml
"""  # noqa: INP001 - a command, not a package

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped] # ships no types

from services.ca.deployment import Deployment, Ports, policy_toml

HERE: Final = Path(__file__).parent
SERVICES: Final = ("acme", "ca", "signer-hsm", "signing")
POLICED: Final[Mapping[str, int]] = {"acme": 4001, "ca": 5000, "signer-hsm": 6000}
"""The listeners that the caller policy is about."""
OPEN: Final[Mapping[str, int]] = {"acme": 4000, "ca": 5080, "signing": 7000}
"""The listeners for everybody: they know their callers by other means, or need not."""
OPS: Final[Mapping[str, int]] = {"acme": 4090, "ca": 5090, "signer-hsm": 6090, "signing": 7090}
_NAMESPACE: Final = "pqcpki"
_MONITORING: Final = "monitoring"
_HEADING: Final = "# Written by `python deploy/generate.py` from {source}; not to be edited.\n"


def default_policy() -> str:
    """The caller policy of a new deployment with all four services."""
    ports = Ports(ca=5000, ca_http=5080, ca_ops=5090, acme=4000, acme_ops=4090)
    backends = ({"name": "file", "type": "file"},)
    return policy_toml(Deployment("pqcpki", "pqcpki.internal", "127.0.0.1", ports, backends=backends, signing=True))


def accounts_of(caller: str, callee: str) -> list[str]:
    """The service accounts in the mesh that may be this caller of the policy."""
    kind, name = caller.split("/")[-2:]
    if kind == "operator":
        return ["operator"]
    return [service for service in SERVICES if name in {"*", service} and service != callee]


def authorization(policy: str) -> list[dict[str, Any]]:
    """Which service account may reach which port. Endpoints are inside our own TLS, and judged there."""
    callers: dict[str, set[str]] = {service: set() for service in SERVICES}
    for entry in tomllib.loads(policy)["allow"]:
        callers[entry["service"]].update(accounts_of(entry["caller"], entry["service"]))
    return [_policy("nothing-else", {}), *(_of_service(service, sorted(callers[service])) for service in SERVICES)]


def _of_service(service: str, callers: list[str]) -> dict[str, Any]:
    rules: list[dict[str, Any]] = []
    if service in POLICED:
        principals = [f"cluster.local/ns/{_NAMESPACE}/sa/{account}" for account in callers]
        rules.append({"from": [{"source": {"principals": principals}}], "to": _port(POLICED[service])})
    if service in OPEN:
        rules.append({"to": _port(OPEN[service])})
    rules.append({"from": [{"source": {"namespaces": [_MONITORING]}}], "to": _port(OPS[service])})
    selector = {"matchLabels": {"app.kubernetes.io/name": service}}
    return _policy(service, {"selector": selector, "action": "ALLOW", "rules": rules})


def _port(number: int) -> list[dict[str, Any]]:
    return [{"operation": {"ports": [str(number)]}}]


def _policy(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": _NAMESPACE}
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": metadata,
        "spec": dict(spec),
    }


def prometheus_rules() -> list[dict[str, Any]]:
    """One resource for each file of rules."""
    found = []
    for path in sorted((HERE / "prometheus").glob("*.rules.yaml")):
        metadata = {"name": f"pqcpki-{path.name.removesuffix('.rules.yaml')}"}
        spec = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        found.append(
            {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": metadata, "spec": spec}
        )
    return found


def files(policy: str) -> dict[Path, str]:
    """Every file that this writes, with its content."""
    return {
        HERE / "istio/base/authorization.yaml": _text("the caller policy", authorization(policy)),
        HERE / "k8s/base/prometheus-rules.yaml": _text("deploy/prometheus", prometheus_rules()),
    }


def _text(source: str, documents: list[dict[str, Any]]) -> str:
    return _HEADING.format(source=source) + str(
        yaml.dump_all(documents, Dumper=yaml.CSafeDumper, sort_keys=False, width=120)
    )


def main() -> None:
    """Write them."""
    policy = Path(sys.argv[1]).read_text(encoding="utf-8") if len(sys.argv) > 1 else default_policy()
    for path, text in files(policy).items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
