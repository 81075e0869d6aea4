import copy
import time
from collections.abc import Callable
from typing import Any

import pytest
from spdx_tools.spdx.parser.error import SPDXParsingError
from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from services.signing.sbom.spdx2 import problems
from tests.support.sboms import SPDX2_VERSIONS, spdx2


def _found(document: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in problems(document, document["spdxVersion"].removeprefix("SPDX-"))]


def _is_refused_by_the_library(document: dict[str, Any]) -> bool:
    """Whether the library's own way, which takes whole documents, finds anything."""
    parser: Any = JsonLikeDictParser
    try:
        return bool(validate_full_spdx_document(parser().parse(copy.deepcopy(document))))
    except (SPDXParsingError, AttributeError, KeyError, TypeError):
        return True


@pytest.mark.parametrize("version", SPDX2_VERSIONS)
def test_a_valid_document_has_no_problems(version: str) -> None:
    """Element by element or as a whole, a good document is good."""
    assert _found(spdx2(version)) == []
    assert not _is_refused_by_the_library(spdx2(version))


Change = Callable[[dict[str, Any]], object]
_BROKEN: dict[str, tuple[Change, str]] = {
    "no creation": (lambda d: d.pop("creationInfo"), "$.creationInfo: is not an object"),
    "creators": (lambda d: d["creationInfo"].update(creators=["nobody"]), "$: "),
    "namespace": (lambda d: d.update(documentNamespace="a b"), "$: document_namespace must be a valid URI"),
    "licence of data": (lambda d: d.update(dataLicense="MIT"), "$: data_license must be"),
    "package without name": (lambda d: d["packages"][1].pop("name"), "$.packages[1]: "),
    "no id": (lambda d: d["packages"][1].pop("SPDXID"), "$.packages[1]: lacks the member 'SPDXID'"),
    "bad id": (lambda d: d["packages"][1].update(SPDXID="SPDXRef-a_b"), "$.packages[1]: spdx_id must only contain"),
    "same id": (lambda d: d["packages"][1].update(SPDXID="SPDXRef-File"), "$.files[0].SPDXID: is used before"),
    "checksum": (
        lambda d: d["packages"][0]["checksums"][0].update(checksumValue="x"),
        "$.packages[0]: value of Checksum",
    ),
    "unknown licence": (
        lambda d: d["packages"][0].update(licenseConcluded="Own"),
        "$.packages[0]: Unrecognized license",
    ),
    "licence syntax": (lambda d: d["packages"][0].update(licenseConcluded="MIT AND"), "$.packages[0]: "),
    "relation to nothing": (
        lambda d: d["relationships"][1].update(relatedSpdxElement="SPDXRef-Gone"),
        "$.relationships[1]: did not find the referenced spdx_id",
    ),
    "kind of relation": (lambda d: d["relationships"][1].update(relationshipType="LIKES"), "$.relationships[1]: "),
    "snippet of nothing": (lambda d: d["snippets"][0].update(snippetFromFile="SPDXRef-Gone"), "$.snippets[0]: "),
    "describes nothing": (
        lambda d: (d.pop("documentDescribes"), d["relationships"].pop(0)),
        "$: describes nothing: ",
    ),
    "describes the unknown": (
        lambda d: d.update(documentDescribes=["SPDXRef-Gone"]),
        "$.documentDescribes: did not find",
    ),
    "annotation": (lambda d: d["packages"][0]["annotations"].append({}), "$.packages[0].annotations: "),
    "files of a package not analysed": (
        lambda d: d["relationships"].append(
            {"spdxElementId": "SPDXRef-Package-0", "relationshipType": "CONTAINS", "relatedSpdxElement": "SPDXRef-File"}
        ),
        "$.packages[0]: package must contain no elements",
    ),
    "holds what is not there": (
        lambda d: d["packages"][0].update(hasFiles=["SPDXRef-Gone"], filesAnalyzed=True),
        "$.packages[0].hasFiles: did not find the file SPDXRef-Gone",
    ),
    "holds what is no id": (lambda d: d["packages"][0].update(hasFiles=[{}]), "$.packages[0].hasFiles: is not a list"),
    "packages are no list": (lambda d: d.update(packages="abc"), "$.packages: is not a list of objects"),
    "a package is no object": (lambda d: d["packages"].append(1), "$.packages: is not a list of objects"),
    "annotations are no list": (lambda d: d["files"][0].update(annotations=7), "$.files[0].annotations: is not a list"),
}


@pytest.mark.parametrize("name", _BROKEN)
def test_a_problem_has_its_path_and_the_library_finds_it_too(name: str) -> None:
    """Each rule holds element by element as it does for whole documents."""
    change, problem = _BROKEN[name]
    document = copy.deepcopy(spdx2())
    change(document)
    found = _found(document)
    assert any(one.startswith(problem) for one in found), found
    assert all(len(one) < 400 for one in found)
    assert _is_refused_by_the_library(document)


def test_a_rule_of_one_version_alone_is_held_there() -> None:
    """SPDX 2.2 demands what 2.3 made optional."""
    document = spdx2("2.2")
    document["packages"][0].pop("copyrightText")
    assert _found(document)
    assert _found(document | {"spdxVersion": "SPDX-2.3"}) == []


def test_many_packages_take_linear_time() -> None:
    """1000 packages with as many relationships are validated in a fraction of what whole documents take."""
    document = spdx2(packages=1000)
    begun = time.process_time()
    assert _found(document) == []
    assert time.process_time() - begun < 4
