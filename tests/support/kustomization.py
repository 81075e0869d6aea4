"""Kustomize as far as `deploy/` uses it: resources, patches, generated ConfigMaps; what is not known is an error."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped] # ships no types

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
_KNOWN: Final = {"apiVersion", "kind", "namespace", "resources", "patches", "images", "configMapGenerator"}

Resource = dict[str, Any]


@functools.cache
def _read(path: Path) -> list[Resource]:
    return [found for found in yaml.load_all(path.read_text(), yaml.CSafeLoader) if found]


def read(path: Path) -> list[Resource]:
    """The documents of a YAML file; the caller may change them."""
    return copy.deepcopy(_read(path))


def build(directory: Path) -> list[Resource]:
    """What a kustomization makes of its resources.

    Raises:
        AssertionError: something named in it is missing, twice there, or matches nothing.
    """
    (plan,) = read(directory / "kustomization.yaml")
    assert plan.keys() <= _KNOWN, plan.keys() - _KNOWN
    found: list[Resource] = []
    for name in plan["resources"]:
        path = directory / name
        assert path.exists(), f"{directory}: {name} is missing"
        found += build(path) if path.is_dir() else read(path)
    for generated in plan.get("configMapGenerator", ()):
        data = {name: (directory / name).read_text() for name in generated["files"]}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generated["name"]}, "data": data})
    names = [(item["kind"], item["metadata"]["name"]) for item in found]
    assert len(names) == len(set(names)), f"{directory}: {[name for name in names if names.count(name) > 1]} twice"
    for patch in plan.get("patches", ()):
        _apply(directory, patch, found)
    return found


def of_kind(resources: list[Resource], *kinds: str) -> list[Resource]:
    """The resources of these kinds."""
    return [item for item in resources if item["kind"] in kinds]


def _apply(directory: Path, patch: Mapping[str, Any], resources: list[Resource]) -> None:
    if "target" not in patch:
        for change in read(directory / patch["path"]):
            (one,) = [item for item in resources if _name(item) == _name(change)]
            _merge(one, change)
        return
    matching = [item for item in resources if _is_target(patch["target"], item)]
    assert matching, f"{directory}: no resource is {patch['target']}"
    for operation in yaml.load(patch["patch"], yaml.CSafeLoader):
        for item in matching:
            _operate(item, copy.deepcopy(operation))


def _name(resource: Resource) -> tuple[str, str]:
    return resource["kind"], resource["metadata"]["name"]


def _is_target(target: Mapping[str, str], resource: Resource) -> bool:
    key, _, value = target.get("labelSelector", "=").partition("=")
    labels = resource["metadata"].get("labels", {})
    kind, name = target.get("kind", ".*"), target.get("name", ".*")
    return (
        re.fullmatch(kind, resource["kind"]) is not None
        and re.fullmatch(name, resource["metadata"]["name"]) is not None
        and (not key or labels.get(key) == value)
    )


def _merge(resource: Any, change: Any) -> None:  # noqa: ANN401 - YAML
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(resource.get(key), dict):
            _merge(resource[key], value)
        else:
            resource[key] = value


def _operate(resource: Any, operation: Mapping[str, Any]) -> None:  # noqa: ANN401 - YAML
    *steps, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    place = resource
    for step in steps:
        place = place[int(step)] if isinstance(place, list) else place[step]
    assert operation["op"] in {"add", "replace"}, operation
    if isinstance(place, list) and last == "-":
        place.append(operation["value"])
    elif isinstance(place, list):
        place[int(last)] = operation["value"]
    else:
        assert operation["op"] == "add" or last in place, f"{operation['path']} is not in {_name(resource)}"
        place[last] = operation["value"]
