import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.console import ROOT, blocks, pages
from tests.support.fork_server import COMMANDS, fork_server
from tests.support.requirements import lay_out

OURS = "run by: tests/e2e/test_docs.py"
PAGES = [page for page in pages() if any(block.marker == OURS for block in blocks(page))]

# Background jobs of the page end with it, whatever happens in between.
PROLOGUE = "set -euo pipefail\ntrap 'trap - EXIT; kill $(jobs -p) 2>/dev/null; wait' EXIT\n"
VENV, VENV_WITHOUT_PIP = "python3.11 -m venv .venv", "python3.11 -m venv --without-pip .venv"
SECOND = ".venv/bin/ztca init --dir ./pki-hsm --keys signer-hsm"
# What was installed loads to the last module with what the project says that it needs; Alembic loads its own.
LOAD_ALL = """
import importlib, pkgutil
for name in ("pkicore", "services"):
    for module in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
        if not module.name.endswith(".__main__") and ".migrations." not in module.name:
            importlib.import_module(module.name)
"""


def of_the_readme(commands: list[str]) -> list[str]:
    """Its commands, at less cost.

    pip is found here, since unpacking it takes eight seconds. What was installed runs the first deployment. Before the
    second, which begins another ten processes, every module and command of it is loaded once; then forked ones follow.
    """
    text = [command.replace(VENV, VENV_WITHOUT_PIP) for command in commands]
    assert VENV_WITHOUT_PIP in text[0]
    second = text.index(SECOND)
    names = [".venv/bin/" + name for name in COMMANDS]
    loaded = [shlex.join([".venv/bin/python", "-c", LOAD_ALL]), *(f"{name} --version" for name in names)]
    forked = [shlex.join(["ln", "-sf", str(fork_server().commands / Path(name).name), name]) for name in names]
    return [*text[:second], *loaded, *forked, *text[second:]]


def with_pip(clone: Path) -> None:
    """As if ensurepip had been there."""
    command = clone / ".venv" / "bin" / "pip"
    command.parent.mkdir(parents=True)
    command.write_text('#!/bin/sh\nexec "${0%/*}/python" -m pip "$@"\n')
    command.chmod(0o700)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_work_in_a_fresh_clone(page: Path, tmp_path: Path) -> None:
    """A newcomer who types the commands of a page into a fresh clone, in order, meets no error.

    The README installs, and finds here what the project needs: that alone, so nothing may be missing among its
    requirements. The other pages find it done.
    """
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    shutil.copy(page, clone / page.relative_to(ROOT))
    commands = [command for block in blocks(page) if block.marker == OURS for command in block.commands]
    found: dict[str, str] = {}
    if page != ROOT / "README.md":
        fork_server().lay_out(clone / ".venv")
    elif sys.version_info[:2] == (3, 11):  # the page's
        found["PYTHONPATH"] = str(lay_out(tmp_path / "found", "all", "pip"))
        with_pip(clone)
        commands = of_the_readme(commands)
    # Free ports, so that a deployment that is already up on this machine does not matter.
    services = ("CA", "CA_HTTP", "CA_OPS", "ACME", "ACME_OPS", "SIGNER_HSM", "SIGNER_HSM_OPS", "SIGNING", "SIGNING_OPS")
    ports = {f"PQCPKI_{name}_PORT": "0" for name in services}
    # What is never imported need not be compiled, and what is, once only: else each process takes five seconds to load.
    quicker = {"PIP_NO_COMPILE": "1", "PYTHONDONTWRITEBYTECODE": ""}
    result = subprocess.run(
        ["bash", "-x", "-c", PROLOGUE + "\n".join(commands)],
        cwd=clone,
        env=os.environ | ports | quicker | found,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-5000:]}"
