from pathlib import Path

import pytest

from services.chassis.cli.deployed import Deployed, trust_domain_of
from services.chassis.cli.endpoints_file import read_endpoints
from services.chassis.errors import DeploymentError


@pytest.mark.parametrize("content", ["", "{", "[]", "1", '"x"'])
def test_endpoints_that_make_no_sense_are_one_sentence(tmp_path: Path, content: str) -> None:
    """A file that was cut off, or is something else, says what to do."""
    (tmp_path / "endpoints.json").write_text(content)
    with pytest.raises(DeploymentError, match="stop `ztca up`"):
        read_endpoints(tmp_path)


def test_trust_that_is_no_certificate_is_one_sentence(tmp_path: Path) -> None:
    """Nothing is trusted because a file is there."""
    (tmp_path / "endpoints.json").write_text("{}")
    (tmp_path / "trust").mkdir()
    with pytest.raises(DeploymentError, match="copy the deployment's whole trust/"):
        Deployed.read(tmp_path)
    (tmp_path / "trust" / "root-ecdsa.pem").write_text("no certificate")
    with pytest.raises(DeploymentError, match="cannot be read"):
        Deployed.read(tmp_path)


def test_an_identity_that_is_missing_or_none_is_one_sentence(tmp_path: Path) -> None:
    """The sentence says how an identity is given."""
    with pytest.raises(DeploymentError, match="--cert and --key"):
        trust_domain_of(tmp_path / "cert.pem")
    (tmp_path / "cert.pem").write_text("no certificate")
    with pytest.raises(DeploymentError, match="is no certificate"):
        trust_domain_of(tmp_path / "cert.pem")
