import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fork_server import fork_server

ACME = Path(__file__).parents[2] / "benchmarks" / "acme.py"


@pytest.mark.slow
def test_acme_benchmark_measures_full_orders() -> None:
    """The benchmark, started without arguments but bounds, drives orders through a deployment of its own."""
    fork_server()  # that of the run: the benchmark would start it on the one processor of its deployment
    command = [
        sys.executable,
        str(ACME),
        "--clients",
        "1,2",
        "--orders",
        "6",
        "--seconds",
        "20",
        "--rounds",
        "1",
        "--json",
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    levels = json.loads(result.stdout)["levels"]
    assert [(level["clients"], level["orders"]) for level in levels] == [(1, 6), (2, 6)]
    for level in levels:
        assert level["orders_per_second"] > 0
        assert level["requests_per_order"] == pytest.approx(5, abs=1)
        assert level["connections"] == level["clients"]
        assert set(level["cpu_ms_per_order"]) == {"ca", "acme"}
