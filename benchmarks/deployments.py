"""What the benchmarks share: back ends, a deployment on chosen processors, and the load processes beside it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.deployment import Deployment, DnsProcess
from tests.support.softhsm import LABEL, PIN, new_softhsm

HERE: Final = Path(__file__).parent
WORKERS: Final = 2  # threads of a synchronous back end that answers at once


def processors(wanted: int) -> tuple[list[int], int | None]:
    """Those of the services, and that of the load where there are two; with both wanted, the load shares the second."""
    available = sorted(os.sched_getaffinity(0))
    return (available[:wanted], available[1]) if len(available) > 1 else ([], None)


def toml_table(values: Mapping[str, Any]) -> str:
    """One `[[backends]]`."""

    def value(item: object) -> str:
        if isinstance(item, dict):
            return "{" + ", ".join(f"{json.dumps(key)} = {json.dumps(text)}" for key, text in item.items()) + "}"
        return json.dumps(item if isinstance(item, (bool, int, float)) else str(item))

    return "[[backends]]\n" + "".join(f"{name} = {value(item)}\n" for name, item in values.items())


@dataclass
class World:
    """Back ends outside of signer-hsm, and what a direct caller needs of each."""

    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    direct: dict[str, dict[str, Any]] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


def add_file(world: World, folder: Path) -> None:
    """Sealed files; the peer is `cryptography` in one process."""
    passphrase = folder / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text(os.urandom(16).hex())
    world.tables["file"] = {"type": "file", "directory": folder / "keys", "passphrase_file": passphrase}
    world.direct["file"] = {"sdk": "file"}


def add_pkcs11(world: World, folder: Path) -> None:
    """SoftHSM2; the peer is the module itself."""
    token = new_softhsm(folder)
    settings = token.settings(workers=WORKERS)
    named = ("type", "module", "token_label", "pin_file", "environment", "workers")
    world.tables["pkcs11"] = {name: getattr(settings, name) for name in named}
    world.direct["pkcs11"] = {
        "module": str(token.module),
        "token": LABEL,
        "pin": PIN,
        "environment": dict(token.environment),
    }


def write_tables(world: World, folder: Path) -> Path:
    """The back ends as `ztca init --signer-backends` wants them."""
    path = folder / "backends.toml"
    path.write_text("\n".join(toml_table({"name": name, **table}) for name, table in world.tables.items()))
    return path


@contextlib.contextmanager
def deployment(
    folder: Path,
    cpus: Sequence[int],
    *options: str,
    environment: Mapping[str, str] | None = None,
    prepare: Callable[[Path], None] | None = None,
) -> Iterator[Deployment]:
    """A running deployment on these processors; `prepare` has its directory between ceremony and start."""
    dns = DnsProcess(folder / "records.json", {})
    made = Deployment(folder / "state", dns, environment)
    everything = os.sched_getaffinity(0)
    try:
        if cpus:
            os.sched_setaffinity(0, cpus)  # inherited by the services
        made.ztca("init", "--dir", str(made.directory), *options)
        if prepare is not None:
            prepare(made.directory)
        made.up()
        os.sched_setaffinity(0, everything)
        yield made
    finally:
        os.sched_setaffinity(0, everything)
        made.stop()
        dns.stop()


def drive(made: Deployment, cpu: int | None, service: str, path: str, **config: Any) -> list[dict[str, Any]]:  # noqa: ANN401 -- JSON
    """Run the load process against a service; one result per level.

    Raises:
        SystemExit: the load failed; its own words are on standard error.
    """
    endpoint = {"ca": "ca_internal"}.get(service, service)
    config |= {
        "directory": str(made.directory),
        "endpoint": endpoint,
        "service": service.replace("_", "-"),
        "path": path,
        "cpu": cpu,
        "pids": {name: pid for name, pid in made.endpoints["pids"].items() if name in {"ca", "signer_hsm", "signing"}},
    }
    return run_script("signer_load.py", config)


def run_script(name: str, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Run one of the scripts beside this one; the JSON lines that it prints.

    Raises:
        SystemExit: it failed; its own words are on standard error.
    """
    done = subprocess.run(
        [sys.executable, str(HERE / name)], input=json.dumps(config), stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{name} failed")
    return [json.loads(line) for line in done.stdout.splitlines()]
