"""signer-hsm against the same SDKs called directly, and issuance through it against local keys.

    python benchmarks/signer.py                              every back end that this machine has, at 1, 8, 32 callers
    python benchmarks/signer.py --backends pkcs11,vault      some of them
    python benchmarks/signer.py --backends pkcs11 --batch 16         sixteen payloads in each request
    python benchmarks/signer.py --backends pkcs11 --client           callers that share one client, as in a CA
    python benchmarks/signer.py --backends pkcs11 --processors 2     the services on both processors, beside the load
    python benchmarks/signer.py --backends "" --issuance     only the CA: keys in SoftHSM2 against local keys

pkcs11 is SoftHSM2, compared with the module itself (C_Sign through ctypes, as many threads as the service has); vault
is a real OpenBao or Vault where one is on PATH; aws and gcp are simulators that answer after --delay-ms. With two
processors, the services (and the direct calls) have one and the load has the other. Absolute rates drift; ratios
within one run and processor time per request are what to rely on.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from benchmarks.deployments import (
    HERE,
    WORKERS,
    World,
    add_file,
    add_pkcs11,
    deployment,
    drive,
    processors,
    run_script,
    write_tables,
)
from pkicore.clock import SystemClock
from tests.support.backend_vault import simulated_server
from tests.support.deployment import Deployment
from tests.support.openbao import provision, real_server, real_server_missing

CLOUD_WORKERS: Final = 32  # requests at once to a back end that is far away
DIGEST: Final = b"\x5a" * 32
ALGORITHMS: Final = {"pkcs11": ("ecdsa-p256", "rsa-2048")}
SCHEMES: Final = {"ecdsa-p256": "ES256", "rsa-2048": "RS256"}
SIGNING: Final = (
    "backend  algorithm  callers  direct/s  service/s  ratio  p50 ms  ours p50 ours p99  ratio  signer CPU us"
)
ISSUANCE: Final = "callers  local/s  remote/s  ratio  p50 ms   remote p50   p99  CA CPU us  signer   reuse"
COUNT: Final = 20_000  # certificates for one run of the issuance benchmark, at most


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", type=_words, default=["file", "pkcs11", "vault", "aws", "gcp"], help="which")
    parser.add_argument("--callers", type=_numbers, default=[1, 8, 32], help="numbers of callers, e.g. 1,8,32")
    parser.add_argument("--seconds", type=float, default=5.0, help="time per level")
    parser.add_argument("--delay-ms", type=float, default=5.0, help="how late the cloud simulators answer")
    parser.add_argument("--batch", type=int, default=1, help="payloads per request; a batch answers for them together")
    parser.add_argument("--client", action="store_true", help="callers share one client, which gathers their requests")
    parser.add_argument("--processors", type=int, choices=[1, 2], default=1, help="how many the services may use")
    parser.add_argument("--issuance", action="store_true", help="also issue certificates, keys local and in SoftHSM2")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _words(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def add_vault(world: World, folder: Path, stack: contextlib.ExitStack) -> None:
    """A real OpenBao or Vault, else the simulator; the peer is hvac."""
    server = stack.enter_context(
        simulated_server(SystemClock()) if real_server_missing() else real_server(folder / "vault")
    )
    settings = provision(server, folder).settings(workers=CLOUD_WORKERS)
    named = (
        "type",
        "address",
        "mount",
        "approle_mount",
        "role_id_file",
        "secret_id_file",
        "allow_plain_http",
        "workers",
    )
    world.tables["vault"] = {name: getattr(settings, name) for name in named}
    world.direct["vault"] = {
        "sdk": "vault",
        "address": server.address,
        "token": server.root_token,
        "mount": server.mount,
    }


def add_clouds(world: World, delay_ms: float, stack: contextlib.ExitStack) -> None:
    """Simulators of AWS KMS and Cloud KMS; the peers are boto3 and google-cloud-kms."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "signer_clouds.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    stack.callback(process.wait)
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 -- both are pipes
    stack.callback(process.stdin.close)
    process.stdin.write(json.dumps({"delay_ms": delay_ms}) + "\n")
    process.stdin.flush()
    where = json.loads(process.stdout.readline())
    aws, gcp = where["aws"], where["gcp"]
    world.tables["aws"] = {
        "type": "aws_kms",
        "region": aws["region"],
        "endpoint_url": aws["url"],
        "workers": CLOUD_WORKERS,
    }
    world.tables["gcp"] = {
        "type": "gcp_kms",
        "project": gcp["project"],
        "location": gcp["location"],
        "endpoint": gcp["address"],
        "insecure_channel": True,
        "protection_level": "SOFTWARE",
        "workers": CLOUD_WORKERS,
    }
    world.environment = {"AWS_ACCESS_KEY_ID": aws["key_id"], "AWS_SECRET_ACCESS_KEY": aws["secret"]}
    world.direct |= {"aws": {"sdk": "aws", **aws}, "gcp": {"sdk": "gcp", **gcp}}


def make_world(backends: Sequence[str], delay_ms: float, folder: Path, stack: contextlib.ExitStack) -> World:
    """The outside world of these back ends."""
    world = World()
    if "pkcs11" in backends:
        add_pkcs11(world, folder)
    if "vault" in backends:
        add_vault(world, folder, stack)
    if {"aws", "gcp"} & set(backends):
        add_clouds(world, delay_ms, stack)
    return world


def _let_operator_sign(backends: Sequence[str], directory: Path) -> None:
    operator = "spiffe://pqcpki.internal/operator/*"
    with (directory / "config" / "keys.toml").open("a") as policy:
        policy.write(
            f'\n[[tenants]]\nid = "bench"\nbackends = {json.dumps(backends)}\nmax_keys = 100\n'
            f"rate_per_second = 1000000\nburst = 1000000\nmax_in_flight = 1000\n"
            f'\n[[rules]]\nid = "bench"\ntenant = "bench"\n'
            f'callers = ["{operator}"]\nacts = ["create", "sign", "show"]\nkeys = ["*"]\nkinds = ["digest"]\n'
        )
    with (directory / "config" / "policy.toml").open("a") as policy:
        policy.write(
            f'\n[[allow]]\ncaller = "{operator}"\nservice = "signer-hsm"\nendpoints = ["POST /v1/keys/{{id}}/sign"]\n'
        )


def create_key(made: Deployment, backend: str, algorithm: str) -> str:
    """A new key of the tenant `bench`; its id."""
    name = f"{backend}-{algorithm}"
    wanted = {"tenant": "bench", "name": name, "algorithm": algorithm, "backend": backend, "idempotency_key": name}
    config = {"callers": [1], "seconds": 30, "unique": True, "warm_up": 0, "bodies": [json.dumps(wanted)]}
    drive(made, None, "signer_hsm", "/v1/keys", **config)
    return f"bench.{name}"


def direct_levels(
    backend: str, algorithm: str, direct: Mapping[str, Any], options: argparse.Namespace, cpus: Sequence[int]
) -> list[dict[str, Any]]:
    """What the SDK, or the module, does without us."""
    if backend != "pkcs11":
        config = {**direct, "callers": options.callers, "seconds": options.seconds, "cpus": cpus}
        return run_script("signer_direct.py", config)
    family, label = algorithm.partition("-")[0], f"bench.{backend}-{algorithm}.v1"
    results = []
    for callers in options.callers:
        threads = min(callers, WORKERS)
        config = {**direct, "label": label, "family": family, "threads": threads, "seconds": options.seconds}
        (result,) = run_script("signer_module.py", {**config, "cpus": cpus})
        rate = result["signatures_per_second"]
        results.append({"callers": callers, "per_second": rate, "p50_ms": 1e3 * threads / rate, "p99_ms": float("nan")})
    return results


def measure_backend(
    made: Deployment, backend: str, world: World, options: argparse.Namespace, cpus: Sequence[int], load_cpu: int | None
) -> Iterator[dict[str, Any]]:
    """One row per algorithm and number of callers."""
    payload = base64.b64encode(DIGEST).decode()
    what = {"payloads": [payload] * options.batch} if options.batch > 1 else {"payload": payload}
    body = json.dumps({"kind": "digest", **what})
    for algorithm in ALGORITHMS.get(backend, ("ecdsa-p256",)):
        key = create_key(made, backend, algorithm)
        direct = direct_levels(backend, algorithm, world.direct[backend], options, cpus)
        config: dict[str, Any] = {"callers": options.callers, "seconds": options.seconds}
        if options.client:
            config |= {"key": key, "scheme": SCHEMES[algorithm]}
        else:
            config |= {"unique": False, "bodies": [body]}
        service = drive(made, load_cpu, "signer_hsm", f"/v1/keys/{key}/sign", **config)
        for alone, ours in zip(direct, service, strict=True):
            ours["per_second"] *= options.batch
            ours["cpu_us"] = {name: micros / options.batch for name, micros in ours["cpu_us"].items()}
            yield {
                "backend": backend,
                "algorithm": algorithm,
                "callers": ours["callers"],
                "batch": options.batch,
                "direct": alone,
                "service": ours,
                "rate_ratio": ours["per_second"] / alone["per_second"],
                "p50_ratio": ours["p50_ms"] / alone["p50_ms"],
            }


def certificate_requests(count: int) -> list[str]:
    """Bodies for `POST /v1/certificates`, each for a name of its own; one key, since verifying it costs the same."""
    key, run = ec.generate_private_key(ec.SECP256R1()), os.urandom(4).hex()
    bodies = []
    for number in range(count):
        name = f"{run}-{number}.bench.pqcpki.test"
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        csr = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        wanted = {
            "csr": base64.b64encode(csr.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)).decode(),
            "profile": "server",
            "identifiers": [{"type": "dns", "value": name}],
            "idempotency_key": f"{run}-{number}",
            "requester": {},
        }
        bodies.append(json.dumps(wanted))
    return bodies


def measure_issuance(
    options: argparse.Namespace, cpus: Sequence[int], load_cpu: int | None
) -> Iterator[dict[str, Any]]:
    """Certificates per second, keys in SoftHSM2 behind signer-hsm against keys of the CA's own."""
    rates: dict[str, list[dict[str, Any]]] = {}
    reuse = 0.0
    for keys in ("file", "signer-hsm"):
        with tempfile.TemporaryDirectory(prefix="pqcpki-benchmark.") as name:
            folder, arguments_of_init, world = Path(name), ["--keys", keys], World()
            if keys == "signer-hsm":
                add_pkcs11(world, folder)
                add_file(world, folder)
                backends = write_tables(world, folder)
                arguments_of_init += ["--signer-backends", str(backends)]
            bodies = certificate_requests(min(COUNT, int(600 * options.seconds * len(options.callers))))
            config = {"callers": options.callers, "seconds": options.seconds, "unique": True, "bodies": bodies}
            with deployment(folder, cpus, *arguments_of_init) as made:
                rates[keys] = drive(made, load_cpu, "ca", "/v1/certificates", **config)
                if keys == "signer-hsm":
                    reuse = connection_reuse(made)
    for local, remote in zip(rates["file"], rates["signer-hsm"], strict=True):
        yield {
            "callers": remote["callers"],
            "local": local,
            "remote": remote,
            "rate_ratio": remote["per_second"] / local["per_second"],
            "connection_reuse": reuse,
        }


def connection_reuse(made: Deployment) -> float:
    """Which part of the CA's requests to signer-hsm went over a connection that was there already."""
    metrics = httpx.get(f"{made.endpoints['ops']['ca']}/metrics", trust_env=False).text
    counted = dict(re.findall(r'^ca_signer_traffic_total\{what="(\w+)"\} (\S+)$', metrics, re.MULTILINE))
    return 1 - float(counted["connection"]) / float(counted["request"])


def print_signing(row: Mapping[str, Any]) -> None:
    """One line of the signing table."""
    alone, ours = row["direct"], row["service"]
    print(
        f"{row['backend']:8} {row['algorithm']:10} {row['callers']:7d} {alone['per_second']:9.0f} "
        f"{ours['per_second']:10.0f} {row['rate_ratio']:6.2f} {alone['p50_ms']:8.2f} {ours['p50_ms']:8.2f} "
        f"{ours['p99_ms']:8.2f} {row['p50_ratio']:6.2f} {ours['cpu_us']['signer_hsm']:9.0f}",
        flush=True,
    )


def print_issuance(row: Mapping[str, Any]) -> None:
    """One line of the issuance table."""
    local, remote = row["local"], row["remote"]
    print(
        f"{row['callers']:7d} {local['per_second']:8.0f} {remote['per_second']:9.0f} {row['rate_ratio']:6.2f} "
        f"{local['p50_ms']:8.1f} {remote['p50_ms']:8.1f} {remote['p99_ms']:8.1f} "
        f"{remote['cpu_us']['ca']:8.0f} {remote['cpu_us']['signer_hsm']:9.0f} {row['connection_reuse']:8.4f}",
        flush=True,
    )


def measure_signing(options: argparse.Namespace, cpus: Sequence[int], load_cpu: int | None) -> Iterator[dict[str, Any]]:
    """Every back end that was asked for, in one deployment."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pqcpki-benchmark.")))
        world = make_world(options.backends, options.delay_ms, folder, stack)
        add_file(world, folder)  # SoftHSM2 and Transit make no ML-DSA keys for the CA
        backends = write_tables(world, folder)
        remote = ("--keys", "signer-hsm", "--signer-backends", str(backends))
        prepare = partial(_let_operator_sign, list(world.tables))
        made = stack.enter_context(deployment(folder, cpus, *remote, environment=world.environment, prepare=prepare))
        for backend in options.backends:
            yield from measure_backend(made, backend, world, options, cpus, load_cpu)


def main() -> None:
    """Measure and print."""
    options = arguments()
    measured: dict[str, list[dict[str, Any]]] = {"signing": [], "issuance": []}
    parts = (
        ("signing", bool(options.backends), measure_signing, SIGNING, print_signing),
        ("issuance", options.issuance, measure_issuance, ISSUANCE, print_issuance),
    )
    for name, wanted, measure, heading, print_row in parts:
        if not wanted:
            continue
        if not options.json:
            print(heading)
        for row in measure(options, *processors(options.processors)):
            measured[name].append(row)
            if not options.json:
                print_row(row)
    if options.json:
        print(json.dumps(measured))


if __name__ == "__main__":
    main()
