"""What a large SBOM costs the signing service in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.console import ROOT

SCRIPT = ROOT / "tests" / "support" / "signing_memory.py"
MOST_KIB = 32 * 1024


def test_an_sbom_of_40_mib_raises_memory_by_no_more_than_32(tmp_path: Path) -> None:
    """Uploaded, attested by two keys in an envelope and two bundles, and kept: all of it piece by piece."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.splitlines()[-1]) <= MOST_KIB
