"""The checking process, its rules met in this one and its confinement in another."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.signing.sbom.check import answer, read_sbom
from services.signing.sbom.errors import MAX_PROBLEMS, BadSbomError
from services.signing.sbom.limits import Limits
from tests.support.sboms import conforming_cyclonedx, cyclonedx, spdx2, spdx3, written

_ODD: list[object] = [
    None,
    True,
    0,
    -1,
    1.5,
    "",
    "x",
    "SPDXRef-File",
    [],
    [[]],
    [{}],
    {},
    {"a": {"b": []}},
    [None, "x", 1],
]


@pytest.mark.parametrize(
    ("document", "expected"),
    [(cyclonedx(), ("cyclonedx", "1.6")), (spdx2("2.2"), ("spdx", "2.2")), (spdx3(), ("spdx", "3.0.1"))],
)
def test_an_sbom_is_recognised_checked_and_described(
    tmp_path: Path, document: dict[str, Any], expected: tuple[str, str]
) -> None:
    """From file to record in one call, for each family of formats."""
    sbom = read_sbom(written(tmp_path, document), "application/json", 1_000_000)
    assert (sbom.format, sbom.version) == expected
    assert sbom.description.components == 2
    assert sbom.bsi.findings


def test_an_sbom_without_findings_is_as_good_as_one_with_many(tmp_path: Path) -> None:
    """The report on the guideline decides nothing."""
    assert read_sbom(written(tmp_path, conforming_cyclonedx()), None, 1_000_000).bsi.findings == ()


@pytest.mark.parametrize("size", [1, 500])
def test_problems_are_bounded_in_number_and_length(tmp_path: Path, size: int) -> None:
    """However much is wrong, an answer has at most 10 problems and stays below 5000 characters."""
    broken = [{"type": "x" * 1000, "surprise" * 1000: 1} for _ in range(size)]
    found = answer(written(tmp_path, cyclonedx() | {"components": broken}), None, Limits())
    assert 1 <= len(found["refused"]) <= MAX_PROBLEMS
    assert len(json.dumps(found)) < 5000


@pytest.mark.parametrize("depth", [50, 400])
def test_components_may_be_nested_as_far_as_the_interpreter_goes(tmp_path: Path, depth: int) -> None:
    """Nesting within reason is validated, and beyond it refused; neither breaks the check."""
    inner: dict[str, Any] = {"type": "library", "name": "a"}
    for _ in range(depth):
        inner = {"type": "library", "name": "a", "components": [inner]}
    path = written(tmp_path, cyclonedx() | {"components": [inner]})
    if depth == 50:
        assert read_sbom(path, None, 1_000_000).description.components == 51
    else:
        with pytest.raises(BadSbomError, match="nested too deeply"):
            read_sbom(path, None, 1_000_000)


@pytest.mark.parametrize(
    "licence", ["(" * 5000 + "MIT" + ")" * 5000, "(" * 5000, "MIT AND " * 2000 + "MIT", "+" * 5000]
)
def test_a_licence_expression_of_any_length_is_answered(tmp_path: Path, licence: str) -> None:
    """Brackets, chains and nonsense without end are valid or refused, and do not break the check."""
    document = spdx2(packages=1)
    document["packages"][0]["licenseConcluded"] = licence
    assert answer(written(tmp_path, document), None, Limits()).keys() <= {"sbom", "refused"}


def _places(value: object, place: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The way to every value in a document."""
    if isinstance(value, dict):
        inner = [way for name, item in value.items() for way in _places(item, (*place, name))]
    elif isinstance(value, list):
        inner = [way for index, item in enumerate(value) for way in _places(item, (*place, index))]
    else:
        inner = []
    return [place, *inner] if place else inner


@pytest.mark.parametrize(
    "document", [conforming_cyclonedx(), spdx2("2.2"), spdx2(), spdx3()], ids=["cdx", "s22", "s23", "s3"]
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_value_of_any_other_kind_anywhere_is_refused_or_fine(
    tmp_path: Path, document: dict[str, Any], data: st.DataObject
) -> None:
    """Whatever stands in the place of a valid value, the check answers and does not break down."""
    changed = copy.deepcopy(document)
    *way, last = data.draw(st.sampled_from(_places(document)))
    holder: Any = changed
    for step in way:
        holder = holder[step]
    holder[last] = data.draw(st.sampled_from(_ODD))
    found = answer(written(tmp_path, changed), None, Limits())
    assert found.keys() <= {"sbom", "refused"}, found


def test_a_fault_is_named_without_content(tmp_path: Path) -> None:
    """What breaks the check is told by the error's name and place."""
    found = answer(tmp_path / "secret-name", None, Limits())
    assert found["failed"].startswith("FileNotFoundError at ")
    assert "secret-name" not in found["failed"]


_TRIES = """
import os, socket, subprocess, sys
from services.signing.sbom.check import confine
from services.signing.sbom.limits import Limits
confine(Limits(memory_bytes=256 * 1024 * 1024))
tries = {
    "connect": lambda: socket.create_connection(("127.0.0.1", 9)),
    "resolve": lambda: socket.getaddrinfo("localhost", 80),
    "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "run": lambda: subprocess.run(["true"]),
    "shell": lambda: os.system("true"),
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "write": lambda: open(sys.argv[1], "w"),
    "append": lambda: os.open(sys.argv[1], os.O_RDWR | os.O_CREAT),
    "memory": lambda: bytearray(512 * 1024 * 1024),
    "read": lambda: open("/dev/null", "rb").close(),
}
for name, attempt in tries.items():
    try:
        attempt()
        print(name, "done")
    except Exception as error:
        print(name, type(error).__name__)
"""


def test_a_confined_process_reaches_nothing(tmp_path: Path) -> None:
    """No network, no child, no file to write and no more memory than allowed; reading goes on."""
    run = subprocess.run(
        [sys.executable, "-I", "-c", _TRIES, tmp_path / "new"], capture_output=True, text=True, check=True, timeout=30
    )
    outcomes = dict(line.split() for line in run.stdout.splitlines())
    assert outcomes.pop("read") == "done"
    assert outcomes.pop("memory") == "MemoryError"
    assert set(outcomes.values()) == {"PermissionError"}, outcomes
    assert not (tmp_path / "new").exists()
