from importlib.metadata import version
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from services.ca.cli.main import main
from services.ca.endpoints import write_endpoints
from services.ca.layout import Layout


def test_the_version_is_the_distributions() -> None:
    """`ztca --version` says what is installed."""
    assert CliRunner().invoke(main, ["--version"]).output == f"pqcpki {version('pqcpki')}\n"


@pytest.mark.parametrize("name", ["ops", "pids"])
def test_an_endpoint_with_parts_is_printed_as_json(tmp_path: Path, name: str) -> None:
    """A script can read what `ztca endpoints NAME` prints, also where it is more than one value."""
    found = {"ops": {"ca": "http://127.0.0.1:5090"}, "pids": {"ca": 1}}
    write_endpoints(Layout(tmp_path), found)
    result = CliRunner().invoke(main, ["endpoints", "--dir", str(tmp_path), name])
    assert orjson.loads(result.output) == found[name]


def test_a_refused_identity_leaves_no_directory(tmp_path: Path) -> None:
    """Where nothing runs, `ztca issue` says so and can be repeated with the same --out."""
    result = CliRunner().invoke(main, ["issue", "web", "--dir", str(tmp_path), "--out", str(tmp_path / "web")])
    assert result.exit_code == 1
    assert "ztca up" in result.output
    assert not (tmp_path / "web").exists()
