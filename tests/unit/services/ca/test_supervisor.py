import asyncio
import os
import socket
import sys
import tomllib
from pathlib import Path

import pytest

from services.ca.deployment import choose_ports, follow_move, is_free
from services.ca.endpoints import describe, write_endpoints
from services.ca.errors import CeremonyError
from services.ca.layout import Layout
from services.ca.supervisor import Supervisor, only_one
from services.chassis.cli.endpoints_file import read_endpoints
from services.chassis.errors import DeploymentError

PORTS = {"ca": 0, "ca_http": 0, "ca_ops": 0, "acme": 0, "acme_ops": 0}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A deployment that has settings and nothing else."""
    found = Layout(tmp_path)
    for directory in (found.config, found.logs, found.state("ca"), found.state("acme")):
        directory.mkdir()
    return found


def settings(layout: Layout, port: int) -> None:
    """The CA's recorded port."""
    (layout.config / "ca.toml").write_text(f'host = "127.0.0.1"\nport = {port}\nhttp_port = 1\nops_port = 2\n')


def test_free_ports_are_all_different() -> None:
    """Port 0 takes a free port each time."""
    chosen = choose_ports("127.0.0.1", PORTS)
    assert len({chosen.ca, chosen.ca_http, chosen.ca_ops, chosen.acme, chosen.acme_ops}) == 5


def test_a_taken_port_is_replaced() -> None:
    """A default that somebody else has gives way to a free port; one that is free is kept."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as soon_free:
        port, free = taken.getsockname()[1], soon_free.getsockname()[1]
        soon_free.close()
        chosen = choose_ports("127.0.0.1", PORTS | {"ca": port, "acme": free})
        assert chosen.ca != port
        assert chosen.acme == free
        assert not is_free("127.0.0.1", port)


def test_one_supervisor_per_deployment(layout: Layout) -> None:
    """The lock is held by one, and free again afterwards."""
    with only_one(layout), pytest.raises(CeremonyError, match="another"), only_one(layout):
        pass
    with only_one(layout):
        pass


def test_there_must_be_a_deployment(tmp_path: Path) -> None:
    """Without a ceremony there is nothing to run; the sentence says what to do."""
    with pytest.raises(CeremonyError, match="ztca init"), only_one(Layout(tmp_path / "none")):
        pass
    with pytest.raises(DeploymentError, match="ztca init"):
        read_endpoints(tmp_path / "none")
    with pytest.raises(DeploymentError, match="ztca up"):
        read_endpoints(tmp_path)


def test_endpoints_name_what_runs(layout: Layout) -> None:
    """Keys are there for the services that run, absolute, and survive their file."""
    listeners = {
        "ca": {"internal": "https://localhost:1", "status": "http://127.0.0.1:2", "ops": "http://127.0.0.1:3", "pid": 4}
    }
    write_endpoints(layout, describe(layout, listeners))
    found = read_endpoints(layout.root)
    assert (found["ca_internal"], found["crl_base"], found["ocsp"]) == (
        "https://localhost:1",
        "http://127.0.0.1:2/crl",
        "http://127.0.0.1:2/ocsp",
    )
    assert found["pids"] == {"ca": 4}
    assert "acme_directory" not in found
    assert "signing" not in found
    assert Path(found["trust_bundle"]).is_absolute()


def test_the_signing_service_is_an_endpoint_where_it_runs(layout: Layout) -> None:
    """`ztca endpoints signing` prints what to give to `pqcsign --url`."""
    listeners = {"signing": {"public": "https://localhost:1", "ops": "http://127.0.0.1:2", "pid": 3}}
    found = describe(layout, listeners)
    assert found["signing"] == "https://localhost:1"
    assert found["ops"] == {"signing": "http://127.0.0.1:2"}


async def test_a_service_that_cannot_start_shows_the_end_of_its_log(layout: Layout) -> None:
    """The sentence holds the exit status and what the service said; no endpoints are left."""
    settings(layout, 0)
    said: list[str] = []
    supervisor = Supervisor(layout, os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, said.append, ["ca"])
    with pytest.raises(CeremonyError, match=r"status 1(.|\n)*missing"):
        await supervisor.run(asyncio.Event())
    assert not layout.endpoints.exists()


def deployed_at(root: Path, recorded: Path) -> Layout:
    """A deployment in `root` whose settings say that it is in `recorded`."""
    layout = Layout(root)
    layout.config.mkdir(parents=True)
    (layout.config / "ca.toml").write_text(
        f'state_dir = "{recorded}/ca"\ndatabase_url = "sqlite:///{recorded}/ca/ca.sqlite3"\n'
        f'audit_key = "file:{recorded}/ca/keys/audit.key"\npassphrase_file = "/elsewhere{recorded}/passphrase"\n'
    )
    return layout


def test_a_deployment_that_was_moved_works_on(tmp_path: Path) -> None:
    """Every path below the old place names the new one; others stay, and nothing happens a second time."""
    old, new = tmp_path / "old", tmp_path / "new"
    layout = deployed_at(new, old)
    assert follow_move(layout) == old
    assert tomllib.loads((layout.config / "ca.toml").read_text()) == {
        "state_dir": f"{new}/ca",
        "database_url": f"sqlite:///{new}/ca/ca.sqlite3",
        "audit_key": f"file:{new}/ca/keys/audit.key",
        "passphrase_file": f"/elsewhere{old}/passphrase",
    }
    assert follow_move(layout) is None


def test_a_copy_beside_its_original_is_refused(tmp_path: Path) -> None:
    """Two CAs with one key and two ledgers would contradict each other."""
    deployed_at(tmp_path / "old", tmp_path / "old")
    layout = deployed_at(tmp_path / "copy", tmp_path / "old")
    before = (layout.config / "ca.toml").read_bytes()
    with pytest.raises(CeremonyError, match="is a copy of"):
        follow_move(layout)
    assert (layout.config / "ca.toml").read_bytes() == before


def test_a_deployment_reached_by_another_name_was_not_moved(tmp_path: Path) -> None:
    """A symbolic link to the state directory is no copy of it."""
    deployed_at(tmp_path / "old", tmp_path / "old")
    (tmp_path / "link").symlink_to(tmp_path / "old")
    assert follow_move(Layout(tmp_path / "link")) is None
