import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.console import ROOT, blocks, pages
from tests.support.fork_server import fork_server
from tests.support.requirements import lay_out

OURS = "run by: tests/e2e/test_docs.py"
PAGES = [page for page in pages() if any(block.marker == OURS for block in blocks(page))]

# Background jobs of the page end with it, whatever happens in between.
PROLOGUE = "set -euo pipefail\ntrap 'trap - EXIT; kill $(jobs -p) 2>/dev/null; wait' EXIT\n"


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
    found: dict[str, str] = {}
    if page != ROOT / "README.md":
        fork_server().lay_out(clone / ".venv")
    elif sys.version_info[:2] == (3, 11):  # the page's
        found["PYTHONPATH"] = str(lay_out(tmp_path / "found", "all"))
    commands = [command for block in blocks(page) if block.marker == OURS for command in block.commands]
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
