import copy
from collections.abc import Callable
from typing import Any

import pytest
import spdx_python_model

from services.signing.sbom.spdx3 import problems
from tests.support.sboms import spdx3


def _found(document: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in problems(document)]


def test_a_valid_document_has_no_problems() -> None:
    """Element by element or loaded as a whole by the library, a good document is good."""
    assert _found(spdx3()) == []
    _, objects = spdx_python_model.load_data(spdx3())
    assert len(list(objects.foreach_type("software_Package"))) == 2


Change = Callable[[dict[str, Any]], object]
_BROKEN: dict[str, tuple[Change, str]] = {
    "no graph": (lambda d: d.pop("@graph"), "$.@graph: is not a list of objects"),
    "graph of texts": (lambda d: d["@graph"].append("x"), "$.@graph: is not a list of objects"),
    "other members": (lambda d: d.update(extra=1), "$.extra: is a member unknown to SPDX"),
    "no document": (lambda d: d["@graph"].pop(2), "$.@graph: has none or several elements SpdxDocument"),
    "no type": (lambda d: d["@graph"][3].pop("type"), "$.@graph[3].type: is not a class of SPDX"),
    "another type": (lambda d: d["@graph"][3].update(type="software_Thing"), "$.@graph[3].type: is not a class"),
    "a type that is none": (lambda d: d["@graph"][3].update(type=["Hash"]), "$.@graph[3].type: is not a class"),
    "two types": (lambda d: d["@graph"][3].update({"@type": "Hash"}), "$.@graph[3].type: is not a class"),
    "abstract": (lambda d: d["@graph"][3].update(type="Element"), "$.@graph[3]: "),
    "no id": (lambda d: d["@graph"][3].pop("spdxId"), "$.@graph[3]: Object is missing required IRI"),
    "same id": (
        lambda d: d["@graph"][4].update(spdxId="https://example.com/package-0"),
        "$.@graph[4].spdxId: is used before",
    ),
    "no creation": (lambda d: d["@graph"][3].pop("creationInfo"), "$.@graph[3]: lacks the member 'creationInfo'"),
    "unknown member": (lambda d: d["@graph"][3].update(colour="red"), "$.@graph[3]: Unknown property 'colour'"),
    "name is a number": (lambda d: d["@graph"][3].update(name=1), "$.@graph[3]: "),
    "algorithm": (lambda d: d["@graph"][3]["verifiedUsing"][0].update(algorithm="rot13"), "$.@graph[3]: "),
    "hash without value": (
        lambda d: d["@graph"][3]["verifiedUsing"][0].pop("hashValue"),
        "$.@graph[3]: lacks the member",
    ),
    "relation of nothing": (lambda d: d["@graph"][5].pop("from"), "$.@graph[5]: lacks the member 'from'"),
    "relation to nothing": (lambda d: d["@graph"][5].update(to=[]), "$.@graph[5]: lacks the member 'to'"),
    "kind of relation": (lambda d: d["@graph"][5].update(relationshipType="likes"), "$.@graph[5]: "),
    "created yesterday": (lambda d: d["@graph"][0].update(created="yesterday"), "$.@graph[0]: "),
}


@pytest.mark.parametrize("name", _BROKEN)
def test_a_problem_has_its_path(name: str) -> None:
    """What the model forbids is told by place and in one bounded sentence."""
    change, problem = _BROKEN[name]
    document = copy.deepcopy(spdx3())
    change(document)
    found = _found(document)
    assert any(one.startswith(problem) for one in found), found
    assert all(len(one) < 400 for one in found)
