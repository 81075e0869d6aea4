"""Names, ports, addresses and arrows in `deploy/` are those of the services' settings and of the caller policy."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import TypeAdapter

from services.acme.settings import AcmeSettings
from services.ca.settings import CaSettings
from services.chassis.settings import ServiceSettings
from services.signer_hsm.settings import SignerSettings
from services.signing.settings import SigningSettings
from tests.support.deploy_generator import generator
from tests.support.kustomization import DEPLOY, Resource, build, of_kind, read

SETTINGS: Mapping[str, type[ServiceSettings]] = {
    "acme": AcmeSettings,
    "ca": CaSettings,
    "signer-hsm": SignerSettings,
    "signing": SigningSettings,
}
PORTS: Mapping[str, set[int]] = {
    service: {field.default for name, field in cls.model_fields.items() if re.fullmatch(r"(.*_)?port", name)}
    - {80, 443}
    for service, cls in SETTINGS.items()
}
OPS: Mapping[str, int] = {service: cls.model_fields["ops_port"].default for service, cls in SETTINGS.items()}
COMPOSE: dict[str, Any] = read(DEPLOY / "compose.yaml")[0]["services"]
CLUSTER = build(DEPLOY / "k8s/overlays/dev")
ROOT = "/var/lib/pqcpki/pki"
NAME = "app.kubernetes.io/name"
Arrow = tuple[str, str, int]


def environments(service: str) -> dict[str, dict[str, str]]:
    """What a service is told by its environment, by where it is told so."""
    (config,) = [item for item in of_kind(CLUSTER, "ConfigMap") if item["metadata"]["name"] == service]
    compose = {name: _default(value) for name, value in COMPOSE[service]["environment"].items()}
    return {"compose.yaml": compose, "k8s": config["data"]}


def _default(value: str) -> str:
    """What Compose makes of `${NAME:-default}` where NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def arrows_of(place: str) -> set[Arrow]:
    """Who calls whom, at which port: each service has a URL of each that it calls."""
    found = set()
    for service in SETTINGS:
        for name, value in environments(service)[place].items():
            prefix = str(SETTINGS[service].model_config.get("env_prefix"))
            if name.removeprefix(prefix) in {"CA_URL", "CA_STATUS_URL", "SIGNER_URL"}:
                url = urlsplit(value)
                assert url.hostname is not None
                assert url.port is not None
                found.add((service, url.hostname, url.port))
    return found


@pytest.mark.parametrize("service", SETTINGS)
def test_every_variable_is_a_setting(service: str) -> None:
    """Each variable that a manifest sets for a service is one of its settings, which takes the value."""
    cls = SETTINGS[service]
    prefix = str(cls.model_config.get("env_prefix"))
    for place, variables in environments(service).items():
        for name, value in variables.items():
            if name == "PGPASSFILE":
                continue
            assert name.startswith(prefix), f"{place}: {name}"
            field = cls.model_fields[name.removeprefix(prefix).lower()]
            TypeAdapter(field.rebuild_annotation()).validate_python(json.loads(value) if value == "[]" else value)
        assert {f"{prefix}HOST", f"{prefix}OPS_HOST"} <= variables.keys(), f"{place}: it would listen on the loopback"


@pytest.mark.parametrize("service", SETTINGS)
def test_every_port_is_the_services_own(service: str) -> None:
    """Containers and Services have the ports that the service listens on by default; compose publishes such."""
    mine = {item["kind"]: item for item in CLUSTER if item["metadata"]["name"] == service}
    (container,) = mine["Deployment"]["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert set(ports.values()) == PORTS[service]
    assert ports["ops"] == OPS[service]
    assert {port["targetPort"]: port["port"] for port in mine["Service"]["spec"]["ports"]} == ports
    published = [str(port).rsplit(":", 1)[1] for port in COMPOSE[service].get("ports", ())]
    assert {int(port) for port in published} <= PORTS[service] - {OPS[service]}


def test_everything_is_where_the_image_looks() -> None:
    """Volumes lie where the image has its directories, and each service has a password file among its own."""
    for service in SETTINGS:
        compose = COMPOSE[service]
        places = {volume.split(":")[0]: volume.split(":")[1:] for volume in compose["volumes"]}
        assert places.pop(service) == [f"{ROOT}/{service}"]
        assert places == {part: [f"{ROOT}/{part}", "ro"] for part in ("config", "trust", "secrets")}
        assert compose["environment"]["PGPASSFILE"] == f"{ROOT}/{service}/pgpass"
        assert compose["read_only"]
        assert compose["cap_drop"] == ["ALL"]
    made = re.findall(rf"{ROOT}/([a-z-]+)", (DEPLOY / "Containerfile").read_text())
    parts = {volume.split(":")[1] for volume in COMPOSE["init"]["volumes"] if volume.split(":")[1].startswith(ROOT)}
    assert parts <= {f"{ROOT}/{part}" for part in made}, "a volume takes its owner from the image's directory"


def test_operators_find_the_services() -> None:
    """The endpoints that the operator's container is given name each service and its ports."""
    endpoints = json.loads((DEPLOY / "compose/endpoints.json").read_text())
    urls = [*endpoints.pop("ops").values(), *(value for value in endpoints.values() if value.startswith("http"))]
    found = {(urlsplit(url).hostname, urlsplit(url).port) for url in urls}
    assert found == {(service, port) for service, ports in PORTS.items() for port in ports}


def test_prometheus_scrapes_each_service() -> None:
    """The compose file's Prometheus asks the ops listener of every service, and a cluster's has the same job names."""
    (plan,) = read(DEPLOY / "compose/prometheus.yaml")
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in plan["scrape_configs"]}
    assert jobs == {service: [f"{service}:{port}"] for service, port in OPS.items()}
    (monitor,) = of_kind(CLUSTER, "ServiceMonitor")
    assert monitor["spec"]["endpoints"][0]["port"] == "ops"
    label = monitor["spec"]["jobLabel"]
    services = [item["metadata"] for item in of_kind(CLUSTER, "Service") if "labels" in item["metadata"]]
    assert {item["labels"][label] for item in services} == set(SETTINGS)


def test_both_ways_to_run_have_the_same_arrows() -> None:
    """The URLs that services are given agree in the compose file and in the cluster, and lead to real ports."""
    arrows = arrows_of("compose.yaml")
    assert arrows == arrows_of("k8s")
    assert all(port in PORTS[callee] for _, callee, port in arrows)


def test_the_caller_policy_follows_the_arrows() -> None:
    """Each service that the caller policy lets in somewhere has the URL of that place."""
    callers = tomllib.loads(generator().default_policy())["allow"]
    allowed = {
        (entry["caller"].rpartition("/")[2], entry["service"]) for entry in callers if "/service/" in entry["caller"]
    }
    assert {pair for pair in allowed if pair[0] != "*"} == {
        (caller, callee) for caller, callee, port in arrows_of("k8s") if port != 5080
    }


def test_compose_networks_are_the_arrows() -> None:
    """Two services share a network exactly where one calls the other; each has its database's network for itself."""
    networks = {service: set(COMPOSE[service]["networks"]) - {"operators", "observability"} for service in SETTINGS}
    shared = {frozenset(pair) for pair in combinations(SETTINGS, 2) if networks[pair[0]] & networks[pair[1]]}
    assert shared == {frozenset((caller, callee)) for caller, callee, _ in arrows_of("compose.yaml")}
    plan = read(DEPLOY / "compose.yaml")[0]["networks"]
    for service in SETTINGS:
        assert f"database-{service}" in networks[service]
        assert plan[f"database-{service}"]["internal"]
    assert set().union(*networks.values()) <= plan.keys()


def test_network_policies_are_the_arrows() -> None:
    """In the cluster each pod may be reached, and may reach, what the arrows say, and nothing else of ours."""
    arrows = arrows_of("k8s")
    policies = {item["metadata"]["name"]: item["spec"] for item in of_kind(CLUSTER, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    coming, going = set(), set()
    for service in SETTINGS:
        assert policies[service]["podSelector"] == {"matchLabels": {NAME: service}}
        coming |= {(peer, service, port) for peer, port in peers(policies[service]["ingress"], "from")}
        going |= {(service, peer, port) for peer, port in peers(policies[service]["egress"], "to")}
    assert going == arrows
    public = {("acme", 4000), ("ca", 5080), ("signing", 7000)}
    inner = {arrow for arrow in arrows if arrow[1:] not in public}
    operators = {("operator", "acme", 4001), ("operator", "ca", 5000), ("operator", "signer-hsm", 6000)}
    anybody = {("anybody", service, port) for service, port in public}
    reached = {("operator", peer, port) for peer, port in peers(policies["operator"]["egress"], "to")}
    assert reached == operators | {("operator", service, port) for service, port in public}
    assert coming == inner | operators | anybody | {("monitoring", service, port) for service, port in OPS.items()}


def peers(rules: list[Resource], side: str) -> Iterator[tuple[str, int]]:
    """Who is on the other side of a NetworkPolicy's rules, and the port; databases and the outside left out."""
    for rule in rules:
        for peer in rule.get(side, [{}]):
            labels = peer.get("podSelector", peer.get("namespaceSelector", {})).get("matchLabels", {})
            if "ipBlock" in peer or "pqcpki/database" in labels:
                continue
            name = labels.get(NAME) or labels.get("kubernetes.io/metadata.name") or "anybody"
            yield from ((name, port["port"]) for port in rule["ports"])


@pytest.mark.parametrize("place", ["originate", "passthrough"])
def test_the_gateway_leads_to_public_listeners(place: str) -> None:
    """What Istio's gateway takes from outside goes to the public listeners of acme, signing and CA alone."""
    resources = build(DEPLOY / "istio/overlays" / place)
    found = set()
    for item in of_kind(resources, "VirtualService"):
        for route in item["spec"].get("http", []) + item["spec"].get("tls", []):
            (way,) = route["route"]
            found.add((way["destination"]["host"].split(".")[0], way["destination"]["port"]["number"]))
    assert found == {("acme", 4000), ("signing", 7000), ("ca", 5080)}
    (public,) = [item for item in of_kind(resources, "Gateway") if item["metadata"]["name"] == "public"]
    (server,) = public["spec"]["servers"]
    assert server["port"]["number"] == 443
    assert server["tls"]["mode"] == {"originate": "MUTUAL", "passthrough": "PASSTHROUGH"}[place]
    assert ("credentialName" in server["tls"]) == (place == "originate")
    modes = {
        item["metadata"]["name"]: item["spec"]["mtls"]["mode"] for item in of_kind(resources, "PeerAuthentication")
    }
    assert set(modes.values()) == {"STRICT"}
