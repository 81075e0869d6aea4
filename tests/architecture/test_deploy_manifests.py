"""Manifests that no cluster has seen here are at least what Kubernetes and its operators would take."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped] # ships no types

from tests.support.deploy_generator import generator
from tests.support.json_schema import Schemas
from tests.support.kustomization import DEPLOY, Resource, build, of_kind, read

SCHEMAS = json.loads(gzip.decompress((Path(__file__).parent / "schemas/schemas.json.gz").read_bytes()))
SERVICES = {"acme", "ca", "signer-hsm", "signing"}
BUILDS = ["k8s/overlays/dev", "k8s/overlays/prod", "istio/overlays/originate", "istio/overlays/passthrough"]


def pod_specs(resources: list[Resource]) -> list[tuple[str, dict[str, Any]]]:
    """Every pod that the resources make, with the name of its maker."""
    found = []
    for item in of_kind(resources, "Deployment", "Job", "CronJob"):
        spec = item["spec"]["jobTemplate"]["spec"] if item["kind"] == "CronJob" else item["spec"]
        found.append((f"{item['kind']} {item['metadata']['name']}", spec["template"]["spec"]))
    assert found
    return found


@pytest.mark.parametrize("place", BUILDS)
def test_every_resource_fits_its_schema(place: str) -> None:
    """Each resource of each overlay has the members, types and values that its kind's schema has, and no others."""
    schemas = Schemas(SCHEMAS)
    for item in build(DEPLOY / place):
        schema = SCHEMAS["kinds"][f"{item['apiVersion']} {item['kind']}"]
        assert list(schemas.faults(schema, item, f"{item['kind']} {item['metadata']['name']}")) == []


def test_a_misspelt_member_would_be_seen() -> None:
    """The check of schemas finds a wrong name, a wrong type and a wrong value."""
    (service,) = of_kind(read(DEPLOY / "k8s/base/ca.yaml"), "Service")
    service["spec"]["selektor"] = {}
    service["spec"]["ports"][0]["port"] = "5000"
    service["spec"]["type"] = 7
    found = list(Schemas(SCHEMAS).faults(SCHEMAS["kinds"]["v1 Service"], service))
    assert len(found) == 3, found


@pytest.mark.parametrize("place", BUILDS)
def test_kustomize_builds_the_same(place: str) -> None:
    """Kustomize itself makes of each overlay what the other tests look at."""
    kustomize, kubectl = shutil.which("kustomize"), shutil.which("kubectl")
    if not kustomize and not kubectl:
        pytest.skip("not run: kustomize missing (kubectl has it, too)")
    words = [kustomize, "build"] if kustomize else [str(kubectl), "kustomize"]
    done = subprocess.run([*words, str(DEPLOY / place)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    theirs = {_key(item): item.get("spec") for item in yaml.load_all(done.stdout, yaml.CSafeLoader)}
    ours = {_key(item): item.get("spec") for item in build(DEPLOY / place)}
    assert {key for key in theirs if "/databases" not in key} == {key for key in ours if "/databases" not in key}
    for kind in ("DestinationRule", "NetworkPolicy", "HorizontalPodAutoscaler"):
        assert {key: theirs[key] for key in theirs if key.startswith(kind)} == {
            key: ours[key] for key in ours if key.startswith(kind)
        }


def _key(resource: Resource) -> str:
    return f"{resource['kind']}/{resource['metadata']['name']}"


def test_the_committed_manifests_are_what_the_generator_writes() -> None:
    """AuthorizationPolicies follow the caller policy, PrometheusRules the alert rules: run deploy/generate.py."""
    generate = generator()
    for path, text in generate.files(generate.default_policy()).items():
        assert path.read_text() == text, f"{path} is not what deploy/generate.py writes now: run it"


@pytest.mark.parametrize("place", BUILDS[:2])
def test_every_pod_is_restricted(place: str) -> None:
    """Pods run as nobody in particular, without token and privileges, on a file system that they cannot write."""
    for name, pod in pod_specs(build(DEPLOY / place)):
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            context = container["securityContext"]
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert context["readOnlyRootFilesystem"], name
            assert context["allowPrivilegeEscalation"] is False, name


@pytest.mark.parametrize("place", BUILDS[:2])
def test_what_pods_name_is_there(place: str) -> None:
    """Each account, ConfigMap, claim and volume that a pod names exists, and each port that a probe does."""
    resources = build(DEPLOY / place)
    names = {
        kind: {item["metadata"]["name"] for item in of_kind(resources, kind)}
        for kind in ("ConfigMap", "ServiceAccount", "PersistentVolumeClaim")
    }
    for name, pod in pod_specs(resources):
        assert pod.get("serviceAccountName") in {None, *names["ServiceAccount"]}, name
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in volumes.values():
            assert volume.get("configMap", {"name": "databases"})["name"] in names["ConfigMap"] | {"databases"}, name
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or claim["claimName"] in names["PersistentVolumeClaim"], name
        for container in [*pod.get("initContainers", ()), *pod["containers"]]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys(), name
            assert all(
                source["configMapRef"]["name"] in names["ConfigMap"] for source in container.get("envFrom", ())
            ), name
            ports = {port["name"] for port in container.get("ports", ())}
            probes = [value for key, value in container.items() if key.endswith("Probe") and "httpGet" in value]
            assert {probe["httpGet"]["port"] for probe in probes} <= ports, name


def test_every_service_outlives_a_node() -> None:
    """Each service has two replicas or more on different nodes, one of which an eviction leaves."""
    resources = build(DEPLOY / "k8s/overlays/prod")
    for name in SERVICES:
        mine = {item["kind"]: item.get("spec", {}) for item in resources if item["metadata"]["name"] == name}
        assert mine["Deployment"]["replicas"] >= 2
        assert mine["HorizontalPodAutoscaler"]["minReplicas"] >= 2
        assert mine["PodDisruptionBudget"]["minAvailable"] == 1
        spread = mine["Deployment"]["template"]["spec"]["topologySpreadConstraints"][0]
        assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "DoNotSchedule")
        assert mine["Deployment"]["selector"]["matchLabels"] == mine["PodDisruptionBudget"]["selector"]["matchLabels"]


def test_the_databases_are_made_alike_everywhere() -> None:
    """The script that makes the databases for a cluster is that of the compose file."""
    assert (DEPLOY / "k8s/overlays/dev/databases.sh").read_text() == (DEPLOY / "compose/databases.sh").read_text()
