"""`keyctl` as a CI job and an operator use it: real processes, mutual TLS, the policies of a deployment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.signer_hsm.cli.connection import REFUSED
from tests.support.deployment import Deployment, DnsProcess
from tests.support.fork_server import fork_server
from tests.support.openssl import openssl

CI = "spiffe://pqcpki.internal/workload/ci"
OPERATORS = "spiffe://pqcpki.internal/operator/*"
KEYS = f"""
[[tenants]]
id = "shop"
backends = ["file"]
max_keys = 10
rate_per_second = 20
burst = 64
max_in_flight = 8

[[rules]]
id = "ci-signs"
tenant = "shop"
callers = ["{CI}"]
acts = ["sign", "pubkey"]
keys = ["release-*"]
kinds = ["digest"]

[[rules]]
id = "shop-keys"
tenant = "shop"
callers = ["{OPERATORS}"]
acts = ["create", "show", "list", "destroy"]
keys = ["*"]
"""
CALLERS = f"""
[[allow]]
caller = "{CI}"
service = "signer-hsm"
endpoints = ["GET /v1/keys/{{id}}/pubkey", "POST /v1/keys/{{id}}/sign", "GET /health"]
"""


def keyctl(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `keyctl` to its end."""
    return fork_server().run("keyctl", [*map(str, words)], os.environ, timeout=120, check=False)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, dns: DnsProcess) -> Iterator[Deployment]:
    """A deployment whose policies have a tenant for a CI job."""
    deployment = Deployment(tmp_path_factory.mktemp("keyctl") / "state", dns).init("--keys", "signer-hsm")
    for name, more in (("keys.toml", KEYS), ("policy.toml", CALLERS)):
        with (deployment.directory / "config" / name).open("a") as file:
            file.write(more)
    yield deployment.up()
    assert deployment.stop() == []


def test_a_ci_job_signs_from_another_machine(running: Deployment, tmp_path: Path) -> None:
    """It holds an identity, endpoints.json and trust/; openssl verifies what it signs, and it can do nothing else."""
    operator = ("--dir", running.directory)
    made = keyctl("keys", "create", "shop.release-1", "--algorithm", "ecdsa-p256", *operator)
    assert made.returncode == 0, made.stderr
    running.ztca("issue", "ci", "--dir", str(running.directory), "--out", str(tmp_path / "ci"))
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(running.directory / "trust", elsewhere / "trust")
    shutil.copy(running.directory / "endpoints.json", elsewhere)
    job = ("--dir", elsewhere, "--cert", tmp_path / "ci" / "cert.pem", "--key", tmp_path / "ci" / "key.pem")
    (tmp_path / "data").write_bytes(b"release 1")
    (tmp_path / "pub.pem").write_text(keyctl("pubkey", "shop.release-1", *job).stdout)
    signed = keyctl("sign", "shop.release-1", "--digest-of", tmp_path / "data", "--out", tmp_path / "sig", *job)
    assert signed.returncode == 0, signed.stderr
    verify = ("-verify", tmp_path / "pub.pem", "-signature", tmp_path / "sig", tmp_path / "data")
    assert "Verified OK" in openssl("dgst", "-sha256", *verify)
    for refused in (
        ("sign", "ca.issuing-ecdsa", "--digest-of", tmp_path / "data"),
        ("keys", "destroy", "shop.release-1", "--yes"),
        ("keys", "list", "--tenant", "shop"),
    ):
        answer = keyctl(*refused, *job)
        assert answer.returncode == REFUSED, answer.stderr
    assert json.loads(keyctl("keys", "show", "shop.release-1", "--json", *operator).stdout)["state"] == "enabled"


def test_a_probe_knows_whom_it_meets(running: Deployment) -> None:
    """`ztca probe` of signer-hsm's listener expects its SPIFFE ID, and accepts it."""
    seen = running.ztca("probe", "--dir", str(running.directory), running.endpoints["signer_hsm"], "--json")
    assert json.loads(seen.stdout)["accepted"] is True
