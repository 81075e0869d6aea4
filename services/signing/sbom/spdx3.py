"""SPDX 3.0 JSON-LD, read by the model that the SPDX project generates from its ontology (spdx-python-model).

Checked, element by element: the context is SPDX's own, types and members are known, values have the type, pattern or
enumeration of the model, and what must be there is there. 3.0.0 is held to 3.0.1, which corrects it.
Not checked: that references lead to an element of the right class (elements are not kept, for memory), rules across
elements, SHACL shapes beyond these, and extensions. So this is a schema check, and no more is claimed.
Nothing is fetched: the context is compared as a string, `import` and `ExternalMap` locations are not followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from spdx_python_model.bindings.v3_0_1 import model

from services.signing.sbom.errors import Problem

_FAULTS: Final = (TypeError, ValueError, KeyError, AttributeError, NotImplementedError, AssertionError)


def problems(document: Mapping[str, Any]) -> Iterator[Problem]:
    """What breaks the model, found one by one; of each element the first problem."""
    graph = document.get("@graph")
    if not isinstance(graph, list) or not all(isinstance(element, dict) for element in graph):
        yield Problem.at("$.@graph", "is not a list of objects")
        return
    for name in document.keys() - {"@context", "@graph"}:
        yield Problem.at(f"$.{name}", "is a member unknown to SPDX")
    if sum(1 for element in graph if element.get("type") == "SpdxDocument") != 1:
        yield Problem.at("$.@graph", "has none or several elements SpdxDocument")
    ids: set[str] = set()
    for index, element in enumerate(graph):
        yield from _element_problems(f"$.@graph[{index}]", element)
        name = element.get("spdxId")
        if isinstance(name, str) and name in ids:
            yield Problem.at(f"$.@graph[{index}].spdxId", f"is used before: {name}")
        ids.add(str(name))


class _Found(model.SHACLObjectSet):
    """The objects of one element; the model's own set files each of them under a hundred classes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[model.SHACLObject] = []

    def add_index(self, obj: model.SHACLObject) -> None:
        self.found.append(obj)


def _element_problems(path: str, element: Mapping[str, Any]) -> Iterator[Problem]:
    name = element.get("type")
    if not isinstance(name, str) or "@type" in element or name not in model.SHACLObject.CLASSES:
        yield Problem.at(f"{path}.type", "is not a class of SPDX")
        return
    objects = _Found()
    try:
        model.SHACLExtensibleObject.decode(model.JSONLDDecoder(element), model.DecodeState(objects))  # type: ignore[attr-defined,call-arg]  # the stub lacks them
    except _FAULTS as error:
        yield Problem.at(path, str(error.args[0]) if error.args else "is not of the shape that SPDX gives it")
        return
    for one in objects.found:
        yield from _missing(path, one)


def _missing(path: str, one: model.SHACLObject) -> Iterator[Problem]:
    for member in one._OBJ_PY_PROPS.values():  # type: ignore[attr-defined]  # noqa: SLF001 - no public name says what is required
        value = getattr(one, member.pyname)
        if member.min_count and (value is None or not member.prop.check_min_count(value, member.min_count)):
            yield Problem.at(path, f"lacks the member {member.compact or member.iri!r}")
