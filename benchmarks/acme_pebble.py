"""Debian's `pebble` as the peer of `acme.py`: an ACME server in Go, with everything in memory and an RSA key."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.peers import START, pinned
from tests.support.deployment import free_port
from tests.support.tls_pki import Authority, write_credentials

MISSING: Final = "not run: pebble missing"
# It validates as we do; only its waits and the errors that it makes up are off.
ENVIRONMENT: Final = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"}


def is_there() -> bool:
    """Whether it is installed."""
    return shutil.which("pebble") is not None


@contextlib.contextmanager
def pebble(folder: Path, cpus: Sequence[int], dns: str, http01_port: int) -> Iterator[dict[str, Any]]:
    """A fresh one on these processors, validating through that DNS server; what the load has to know about it.

    Raises:
        SystemExit: it does not answer.
    """
    authority = Authority.make("Peer", "ecdsa")
    certificate, key = write_credentials(authority.issue(family="ecdsa"), folder)
    port = free_port()
    settings = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{free_port()}",
        "certificate": str(certificate),
        "privateKey": str(key),
        "httpPort": http01_port,
        "tlsPort": free_port(),
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
    config = folder / "pebble.json"
    config.write_text(json.dumps({"pebble": settings}))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PEBBLE_")}
    process = subprocess.Popen(
        [*pinned(cpus), "pebble", "-config", str(config), "-dnsserver", dns],
        env={**environment, **ENVIRONMENT, "GOMAXPROCS": "1"},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, process)
        yield {
            "directory": f"https://localhost:{port}/dir",
            "ca_bundle": str(certificate),
            "pids": {"pebble": process.pid},
            "http01_port": http01_port,
        }
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), START).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit("pebble does not answer") from None
            time.sleep(0.05)
        else:
            return
