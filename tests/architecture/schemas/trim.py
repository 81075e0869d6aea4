"""Makes `schemas.json.gz` from what README.md names: the kinds that `deploy/` uses, without prose.

python trim.py KUBERNETES_DEFINITIONS COMPOSE_SCHEMA CRD.yaml...
"""

import gzip
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped] # ships no types

KINDS: Final = {
    "io.k8s.api.core.v1": ("v1", ["ConfigMap", "Namespace", "PersistentVolumeClaim", "Service", "ServiceAccount"]),
    "io.k8s.api.apps.v1": ("apps/v1", ["Deployment"]),
    "io.k8s.api.batch.v1": ("batch/v1", ["CronJob", "Job"]),
    "io.k8s.api.policy.v1": ("policy/v1", ["PodDisruptionBudget"]),
    "io.k8s.api.autoscaling.v2": ("autoscaling/v2", ["HorizontalPodAutoscaler"]),
    "io.k8s.api.networking.v1": ("networking.k8s.io/v1", ["NetworkPolicy"]),
}
CUSTOM: Final = {
    *("Certificate", "ClusterIssuer", "ServiceMonitor", "PrometheusRule", "ExternalSecret", "Gateway"),
    *("VirtualService", "DestinationRule", "PeerAuthentication", "AuthorizationPolicy"),
    *("Cluster", "Database", "ScheduledBackup"),
}
_PROSE: Final = {"description", "title", "example", "examples", "default", "$schema"}
_OPEN: Final = "x-kubernetes-preserve-unknown-fields"


def trimmed(schema: Any, *, named: bool = False) -> Any:  # noqa: ANN401 - JSON
    """A schema without prose; `named` says that its keys are names of properties. Objects take no unknown members."""
    if isinstance(schema, list):
        return [trimmed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if named:
        return {key: trimmed(value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    kept = {
        key: trimmed(value, named=key in {"properties", "patternProperties"})
        for key, value in schema.items()
        if key not in _PROSE and not key.startswith("x-") and not (key == "pattern" and not _compiles(value))
    }
    if "properties" in kept and "additionalProperties" not in kept and not schema.get(_OPEN):
        kept["additionalProperties"] = False
    if isinstance(kept.get("$ref"), str):
        kept["$ref"] = f"#/definitions/{kept['$ref'].rpartition('/')[2]}"
    if kept.pop("nullable", False) and isinstance(kept.get("type"), str):
        kept["type"] = [kept["type"], "null"]
    return kept


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:  # Go's syntax, which is not Python's
        return False
    return True


def _references(schema: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    if isinstance(schema, list):
        for item in schema:
            yield from _references(item)
    elif isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from _references(value)


def kubernetes(definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Schemas by "apiVersion kind", and below "definitions" what they refer to."""
    found: dict[str, Any] = {}
    tops = {f"{api} {kind}": f"{prefix}.{kind}" for prefix, (api, kinds) in KINDS.items() for kind in kinds}
    waiting = list(tops.values())
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = trimmed(definitions[name])
            waiting += _references(found[name])
    return {"kinds": {kind: {"$ref": f"#/definitions/{name}"} for kind, name in tops.items()}, "definitions": found}


def _without_prose(schema: Any, *, named: bool = False) -> Any:  # noqa: ANN401 - JSON
    if isinstance(schema, list):
        return [_without_prose(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_prose(value, named=key == "properties")
        for key, value in schema.items()
        if named or not (key in _PROSE or key.startswith("x-"))
    }


def custom(paths: list[str]) -> dict[str, Any]:
    """Schemas of custom resources by "apiVersion kind"."""
    found = {}
    for path in paths:
        for document in yaml.load_all(Path(path).read_text(encoding="utf-8"), yaml.CSafeLoader):
            if not document or document["spec"]["names"]["kind"] not in CUSTOM:
                continue
            for version in document["spec"]["versions"]:
                if not version["served"] or "alpha" in version["name"] or "beta" in version["name"]:
                    continue
                schema = trimmed(version["schema"]["openAPIV3Schema"])
                schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}}
                name = f"{document['spec']['group']}/{version['name']} {document['spec']['names']['kind']}"
                found[name] = schema
    return found


def main() -> None:
    """Write the file beside this one."""
    definitions, compose, *crds = sys.argv[1:]
    kinds = kubernetes(json.loads(Path(definitions).read_text(encoding="utf-8"))["$defs"])
    everything = {
        "compose": _without_prose(json.loads(Path(compose).read_text(encoding="utf-8"))),
        "definitions": kinds["definitions"],
        "kinds": kinds["kinds"] | custom(crds),
    }
    text = json.dumps(everything, sort_keys=True, separators=(",", ":")).encode()
    Path(__file__).with_name("schemas.json.gz").write_bytes(gzip.compress(text, 9, mtime=0))
    sys.stdout.write("\n".join(sorted(everything["kinds"])) + f"\n{len(text)} bytes\n")


if __name__ == "__main__":
    main()
