"""The examples for CI are well-formed, ask for no more than they need, and say what `pqcsign` understands."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml  # type: ignore[import-untyped] # ships no types

from services.signing.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples"
ACTION = EXAMPLES / "github-actions/action.yml"
WORKFLOW = EXAMPLES / "github-actions/release.yml"
PIPELINE = EXAMPLES / "gitlab/.gitlab-ci.yml"
_PINNED = re.compile(r"[^@]+@[0-9a-f]{40}")
_IMAGE = re.compile(r"[^@]+@sha256:[0-9a-f]{64}")
_JOB_WORDS = {"stages", "default", "variables"}


def read(path: Path) -> dict[str, Any]:
    """A YAML file; the key `on` is YAML 1.1's word for true."""
    found = yaml.safe_load(path.read_text())
    assert isinstance(found, dict)
    return {"on" if key is True else key: value for key, value in found.items()}


def steps() -> Iterator[dict[str, Any]]:
    """Every step of the action and the workflow."""
    yield from read(ACTION)["runs"]["steps"]
    for job in read(WORKFLOW)["jobs"].values():
        yield from job["steps"]


def jobs() -> dict[str, dict[str, Any]]:
    """The jobs of the pipeline, hidden ones too."""
    return {name: job for name, job in read(PIPELINE).items() if name not in _JOB_WORDS}


def scripts() -> list[str]:
    """Every script in the examples."""
    found = [step["run"] for step in steps() if "run" in step]
    for job in jobs().values():
        found += job.get("script", []) + job.get("before_script", [])
    return found


def commands() -> Iterator[list[str]]:
    """Every call of pqcsign, as words."""
    for script in scripts():
        for line in script.splitlines():
            if line.strip().startswith("pqcsign "):
                yield shlex.split(line.split("||")[0])


def test_jobs_of_the_workflow_have_only_what_they_need() -> None:
    """Nothing by default; reading for all; a token for the job that signs alone."""
    workflow = read(WORKFLOW)
    assert workflow["permissions"] == {}
    assert set(workflow["on"]) == {"push"}
    permissions = {name: job["permissions"] for name, job in workflow["jobs"].items()}
    reading = {"contents": "read"}
    assert permissions == {"build": reading, "sign": reading | {"id-token": "write"}, "verify": reading}


def test_signing_job_of_the_workflow_runs_no_code_of_the_build() -> None:
    """It has no script of its own: it takes files, signs them, and hands on what came of it."""
    assert all("run" not in step for step in read(WORKFLOW)["jobs"]["sign"]["steps"])


def test_one_job_of_the_pipeline_has_a_token() -> None:
    """GitLab makes a token for the job that signs alone, for this service, on protected tags."""
    tokens = {name: job["id_tokens"] for name, job in jobs().items() if "id_tokens" in job}
    assert tokens == {"sign": {"PQCSIGN_ID_TOKEN": {"aud": "$PQCSIGN_URL"}}}
    for name, job in jobs().items():
        if not name.startswith("."):
            assert ".on-tags" in job["extends"]
    assert "REF_PROTECTED" in jobs()[".on-tags"]["rules"][0]["if"]


def test_everything_that_is_used_is_pinned() -> None:
    """Actions by commit, images by digest, packages by hash; no checkout leaves its credentials behind."""
    used = [step for step in steps() if "uses" in step]
    assert used
    for step in used:
        assert _PINNED.fullmatch(step["uses"]), step["uses"]
        if step["uses"].startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
    images = [job["image"] for job in jobs().values() if "image" in job]
    assert images
    assert all(_IMAGE.fullmatch(image) for image in images)
    installing = [line for script in scripts() for line in script.splitlines() if "install" in line]
    assert installing
    assert all("--require-hashes" in line for line in installing)


def test_no_script_is_made_of_inputs() -> None:
    """What a caller gives reaches a script as a variable, not as a part of its text."""
    assert not [script for script in scripts() if "${{" in script]


def test_scripts_are_ones_that_bash_reads() -> None:
    """Every script parses."""
    for script in scripts():
        subprocess.run(["bash", "-n", "-c", script], check=True)


def test_commands_are_pqcsigns() -> None:
    """Every subcommand and option in the examples exists."""
    found = list(commands())
    assert {words[1] for words in found} == {"sign", "verify"}
    context = click.Context(main)
    for words in found:
        command = main.get_command(context, words[1])
        assert command is not None
        offered = {option for parameter in command.params for option in parameter.opts}
        used = {word for word in words[2:] if word.startswith("--") and word != "--"}
        assert used <= offered, used - offered


def test_options_of_the_action_are_pqcsigns() -> None:
    """The options that the action puts together exist, too."""
    lines = [line for line in read(ACTION)["runs"]["steps"][1]["run"].splitlines() if "arguments" in line]
    used = re.findall(r"[( ](--[a-z-]+)", "\n".join(lines))
    sign = main.get_command(click.Context(main), "sign")
    assert sign is not None
    assert set(used) <= {option for parameter in sign.params for option in parameter.opts}
    assert len(used) == 7


@pytest.mark.parametrize(("answers", "status", "calls"), [("0", 0, 1), ("1", 1, 1), ("3 3 0", 0, 3), ("3 3 3", 3, 3)])
def test_action_passes_names_as_they_are(tmp_path: Path, answers: str, status: int, calls: int) -> None:
    """A simulated pqcsign gets hostile names as arguments and nothing else; only status 3 is tried again."""
    hostile = ["a b.tar.gz", "$(touch owned)", "`touch owned`;x", "--key=other.key", "*"]
    images = "\n".join(f"{name}@sha256:{'0' * 64}" for name in hostile)
    ran = _run_action(tmp_path, answers, FILES="\n".join(["", *hostile, ""]), SBOM="s b.json", IMAGES=images)
    assert ran.returncode == status
    seen = (tmp_path / "calls").read_text().splitlines()
    assert len(seen) == calls
    assert len(set(seen)) == 1
    arguments = seen[0].split("\x1f")[:-1]
    assert arguments[arguments.index("--") + 1 :] == hostile
    assert arguments[arguments.index("--sbom") + 1] == "s b.json"
    assert [arguments[place + 1] for place, word in enumerate(arguments) if word == "--name"] == hostile
    assert "--provenance-from-ci" in arguments
    assert not (tmp_path / "owned").exists()


def _run_action(directory: Path, answers: str, **inputs: str) -> subprocess.CompletedProcess[bytes]:
    """The action's script, with a pqcsign that notes its arguments and answers what it is told, and a quick sleep."""
    programs = directory / "bin"
    programs.mkdir()
    (directory / "answers").write_text(answers)
    simulated = (
        "#!/bin/bash\nprintf '%s\\x1f' \"$@\" >> calls; echo >> calls\n"
        'read -r -a answers < answers; exit "${answers[$(($(wc -l < calls) - 1))]}"\n'
    )
    for name, text in (("pqcsign", simulated), ("sleep", "#!/bin/bash\n")):
        program = programs / name
        program.write_text(text)
        program.chmod(0o755)
    github = dict.fromkeys(("GITHUB_REPOSITORY_ID", "GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT", "GITHUB_ACTION"), "1")
    environment = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "PROFILE": "default",
        "PROVENANCE": "true",
        "OUT": "o",
        "IMAGES": "",
    }
    script = read(ACTION)["runs"]["steps"][1]["run"]
    return subprocess.run(["bash", "-c", script], cwd=directory, env=environment | github | inputs, check=False)


def test_actionlint_finds_nothing(tmp_path: Path) -> None:
    """GitHub's own rules for workflows, where their checker is installed."""
    if shutil.which("actionlint") is None:
        pytest.skip("actionlint is not on PATH: not run")
    workflows = tmp_path / ".github/workflows"
    workflows.mkdir(parents=True)
    shutil.copy(WORKFLOW, workflows)
    subprocess.run(["actionlint", str(workflows / WORKFLOW.name)], check=True, cwd=tmp_path)
