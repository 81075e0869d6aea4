"""SPDX 2.2 and 2.3 JSON: parsed and validated by spdx-tools, element by element.

The library validates a whole document in quadratic time (each reference looks through all elements: 8 s for 2000
packages). So its parsers and validators get one element at a time, with an excerpt of the document that has no more
than what this element refers to. Three rules of whole documents are ours, in its words: ids are unique, something is
described, and a package whose files were not analysed contains none.

Not checked: members that SPDX does not know (the library ignores them), other documents that are referred to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from spdx_tools.spdx.parser.error import SPDXParsingError
from spdx_tools.spdx.parser.jsonlikedict.annotation_parser import AnnotationParser
from spdx_tools.spdx.parser.jsonlikedict.creation_info_parser import CreationInfoParser
from spdx_tools.spdx.parser.jsonlikedict.extracted_licensing_info_parser import ExtractedLicensingInfoParser
from spdx_tools.spdx.parser.jsonlikedict.file_parser import FileParser
from spdx_tools.spdx.parser.jsonlikedict.package_parser import PackageParser
from spdx_tools.spdx.parser.jsonlikedict.relationship_parser import RelationshipParser
from spdx_tools.spdx.parser.jsonlikedict.snippet_parser import SnippetParser
from spdx_tools.spdx.validation.annotation_validator import validate_annotation
from spdx_tools.spdx.validation.creation_info_validator import validate_creation_info
from spdx_tools.spdx.validation.extracted_licensing_info_validator import validate_extracted_licensing_info
from spdx_tools.spdx.validation.file_validator import validate_file_within_document
from spdx_tools.spdx.validation.package_validator import validate_package_within_document
from spdx_tools.spdx.validation.relationship_validator import validate_relationship
from spdx_tools.spdx.validation.snippet_validator import validate_snippet_within_document

from services.signing.sbom.description import described
from services.signing.sbom.errors import MAX_PROBLEMS, Problem

Parser = Callable[[Any], Any]
Rule = Callable[[Any, Any], list[Any]]
_LISTS: Final = (
    "packages",
    "files",
    "snippets",
    "relationships",
    "annotations",
    "revieweds",
    "hasExtractedLicensingInfos",
    "externalDocumentRefs",
)
_ELEMENTS: Final = ("packages", "files", "snippets")
_REFERENCES: Final = ("spdxElementId", "relatedSpdxElement", "snippetFromFile")  # members that name another element


@dataclass(frozen=True, slots=True)
class _Id:
    """As much of an element as the library looks at when it only asks whether it exists."""

    spdx_id: str


@dataclass(frozen=True, slots=True)
class _Excerpt:
    """What the library's validators read of a document."""

    creation_info: Any
    extracted_licensing_info: list[Any]
    files: list[_Id]
    packages: tuple[_Id, ...] = ()
    snippets: tuple[_Id, ...] = ()
    relationships: tuple[Any, ...] = ()


def problems(document: Mapping[str, Any], version: str) -> Iterator[Problem]:
    """What breaks the format, found one by one."""
    shapes = list(islice(_misshapen(document), MAX_PROBLEMS))
    yield from shapes
    if shapes:
        return
    try:
        creation_info = _made(CreationInfoParser).parse_creation_info(document)
        licences = [
            ExtractedLicensingInfoParser.parse_extracted_licensing_info(item)
            for item in _list(document, "hasExtractedLicensingInfos")
        ]
    except _FAULTS as error:
        yield from _faults("$", error)
        return
    yield from _messages("$", validate_creation_info(creation_info, f"SPDX-{version}"))
    for licence in licences:
        yield from _messages("$.hasExtractedLicensingInfos", validate_extracted_licensing_info(licence))
    yield from _Elements(document, f"SPDX-{version}", _Excerpt(creation_info, licences, [])).problems()


class _Elements:
    """The elements of a document, one after the other."""

    def __init__(self, document: Mapping[str, Any], version: str, excerpt: _Excerpt) -> None:
        self._document = document
        self._version = version
        self._excerpt = excerpt
        self._ids: set[str] = {document["SPDXID"]}
        self._file_ids = {file["SPDXID"] for file in _list(document, "files")}
        self._holders = self._packages_with_files()

    def problems(self) -> Iterator[Problem]:
        for member in _ELEMENTS:
            yield from self._unique(member)
        snippets, annotations = _made(SnippetParser), _made(AnnotationParser)
        document_id = self._document["SPDXID"]
        yield from self._each("packages", _made(PackageParser).parse_package, self._package)
        yield from self._each("files", _made(FileParser).parse_file, self._with_version(validate_file_within_document))
        yield from self._each("snippets", snippets.parse_snippet, self._with_version(validate_snippet_within_document))
        yield from self._each(
            "relationships", _made(RelationshipParser).parse_relationship, self._with_version(validate_relationship)
        )
        yield from self._each(
            "annotations", lambda one: annotations.parse_annotation(one, document_id), validate_annotation
        )
        yield from self._each("revieweds", lambda one: annotations.parse_review(one, document_id), validate_annotation)
        yield from self._annotations_of_elements(annotations)
        yield from self._held_files()
        yield from self._described()

    def _with_version(self, validate: Callable[..., list[Any]]) -> Rule:
        return lambda element, excerpt: validate(element, self._version, excerpt)

    def _each(self, member: str, parse: Parser, validate: Rule) -> Iterator[Problem]:
        for index, item in enumerate(_list(self._document, member)):
            yield from self._one(f"$.{member}[{index}]", item, parse, validate)

    def _one(
        self,
        path: str,
        item: Mapping[str, Any],
        parse: Parser,
        validate: Rule,
    ) -> Iterator[Problem]:
        try:
            yield from _messages(path, validate(parse(item), self._excerpt_for(item)))
        except _FAULTS as error:
            yield from _faults(path, error)

    def _excerpt_for(self, item: Mapping[str, Any]) -> _Excerpt:
        names = [item[name] for name in _REFERENCES if isinstance(item.get(name), str)]
        return replace(
            self._excerpt,
            files=[_Id(name) for name in names if name in self._file_ids],
            packages=tuple(_Id(name) for name in (*names, item.get("SPDXID")) if name in self._ids),
        )

    def _package(self, package: Any, excerpt: _Excerpt) -> list[Any]:  # noqa: ANN401 - the library's, see the imports
        messages = self._with_version(validate_package_within_document)(package, excerpt)
        if not package.files_analyzed and package.spdx_id in self._holders:
            return [*messages, "package must contain no elements if files_analyzed is False"]
        return messages

    def _unique(self, member: str) -> Iterator[Problem]:
        for index, element in enumerate(_list(self._document, member)):
            if element["SPDXID"] in self._ids:
                yield Problem.at(f"$.{member}[{index}].SPDXID", f"is used before: {element['SPDXID']}")
            self._ids.add(element["SPDXID"])

    def _annotations_of_elements(self, parser: Any) -> Iterator[Problem]:  # noqa: ANN401 - the library's
        for member in _ELEMENTS:
            for index, element in enumerate(_list(self._document, member)):
                for annotation in element.get("annotations") or ():
                    owned = {"SPDXID": element["SPDXID"], **annotation}
                    yield from self._one(
                        f"$.{member}[{index}].annotations", owned, parser.parse_annotation, validate_annotation
                    )

    def _held_files(self) -> Iterator[Problem]:
        for index, package in enumerate(_list(self._document, "packages")):
            for name in package.get("hasFiles") or ():
                if name not in self._file_ids:
                    yield Problem.at(
                        f"$.packages[{index}].hasFiles", f"did not find the file {name} in the SPDX document"
                    )

    def _described(self) -> Iterator[Problem]:
        for name in self._document.get("documentDescribes") or ():
            if name not in self._ids:
                yield Problem.at(
                    "$.documentDescribes", f"did not find the referenced spdx_id {name} in the SPDX document"
                )
        alone = len(_list(self._document, "packages")) == 1 and not (
            _list(self._document, "files") or _list(self._document, "snippets")
        )
        if not alone and next(described(self._document), None) is None:
            yield Problem.at(
                "$", "describes nothing: a relationship DESCRIBES or DESCRIBED_BY of the document is missing"
            )

    def _packages_with_files(self) -> set[str]:
        holders = {package["SPDXID"] for package in _list(self._document, "packages") if package.get("hasFiles")}
        for relationship in _list(self._document, "relationships"):
            holder, held = relationship.get("spdxElementId"), relationship.get("relatedSpdxElement")
            if relationship.get("relationshipType") == "CONTAINED_BY":
                holder, held = held, holder
            elif relationship.get("relationshipType") != "CONTAINS":
                continue
            if isinstance(holder, str) and isinstance(held, str) and held in self._file_ids:
                holders.add(holder)
        return holders


_FAULTS: Final = (
    SPDXParsingError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
)  # the last four: of another shape than the library takes for granted


def _made(parser: type[Any]) -> Any:  # noqa: ANN401 - the library types no constructor
    return parser()


def _faults(path: str, error: Exception) -> Iterator[Problem]:
    if isinstance(error, SPDXParsingError):
        for message in error.messages:
            yield Problem.at(path, message)
    else:
        yield Problem.at(path, "is not of the shape that SPDX gives it")


def _messages(path: str, found: list[Any]) -> Iterator[Problem]:
    for one in found:
        yield Problem.at(path, one if isinstance(one, str) else one.validation_message)


def _misshapen(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Members that everything else takes to be ids, objects and lists of these."""
    for member in _LISTS:
        items = document.get(member)
        if not _is_list_of(dict, items):
            yield Problem.at(f"$.{member}", "is not a list of objects")
        elif member in _ELEMENTS:
            for index, item in enumerate(items or ()):
                yield from _misshapen_element(f"$.{member}[{index}]", item)
    if not isinstance(document.get("SPDXID"), str):
        yield Problem.at("$", "lacks the member 'SPDXID'")
    if not _is_list_of(str, document.get("documentDescribes")):
        yield Problem.at("$.documentDescribes", "is not a list of ids")
    if not isinstance(document.get("creationInfo"), dict):
        yield Problem.at("$.creationInfo", "is not an object")


def _misshapen_element(path: str, element: Mapping[str, Any]) -> Iterator[Problem]:
    if not isinstance(element.get("SPDXID"), str):
        yield Problem.at(path, "lacks the member 'SPDXID'")
    if not _is_list_of(str, element.get("hasFiles")):
        yield Problem.at(f"{path}.hasFiles", "is not a list of ids")
    if not _is_list_of(dict, element.get("annotations")):
        yield Problem.at(f"{path}.annotations", "is not a list of objects")


def _is_list_of(kind: type, value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, kind) for item in value))


def _list(document: Mapping[str, Any], member: str) -> list[Any]:
    return document.get(member) or []
