"""Signatures by the SDK of a back end called directly, without signer-hsm: what `signer.py` compares with.

One process, N callers: threads for synchronous SDKs, tasks for the asyncio one. Each makes a P-256 key of its own.
Configuration comes as JSON on standard input, one JSON result per level goes to standard output.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

DIGEST: Final = b"\x5a" * 32
WARM_UP: Final = 5  # signatures per caller before the clock runs

Sign = Callable[[], object]
AsyncSign = Callable[[], Awaitable[object]]


def aws(config: Mapping[str, Any], callers: int) -> Sign:
    """boto3, one client with a connection for each caller."""
    import boto3
    from botocore.config import Config

    session = boto3.Session(
        aws_access_key_id=config["key_id"], aws_secret_access_key=config["secret"], region_name=config["region"]
    )
    client = session.client("kms", endpoint_url=config["url"], config=Config(max_pool_connections=callers))
    key = client.create_key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    asked = {"KeyId": key, "Message": DIGEST, "MessageType": "DIGEST", "SigningAlgorithm": "ECDSA_SHA_256"}
    return lambda: client.sign(**asked)


def vault(config: Mapping[str, Any], callers: int) -> Sign:
    """hvac, one client with a connection for each caller."""
    import hvac
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    session.trust_env = False
    session.mount("http://", HTTPAdapter(pool_maxsize=callers))
    client = hvac.Client(url=config["address"], token=config["token"], session=session)
    transit = client.secrets.transit
    transit.create_key("benchmark", key_type="ecdsa-p256", mount_point=config["mount"])
    text = base64.b64encode(DIGEST).decode()
    return lambda: transit.sign_data("benchmark", text, prehashed=True, mount_point=config["mount"])


def file(_config: Mapping[str, Any], _callers: int) -> Sign:
    """Cryptography, the key in this process."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

    key, algorithm = ec.generate_private_key(ec.SECP256R1()), ec.ECDSA(Prehashed(hashes.SHA256()))
    return lambda: key.sign(DIGEST, algorithm)


async def gcp(config: Mapping[str, Any]) -> AsyncSign:
    """The asyncio client of google-cloud-kms, one channel."""
    import google_crc32c
    import grpc
    from google.cloud import kms_v1
    from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcAsyncIOTransport

    channel = grpc.aio.insecure_channel(config["address"])
    client = kms_v1.KeyManagementServiceAsyncClient(transport=KeyManagementServiceGrpcAsyncIOTransport(channel=channel))
    parent = f"projects/{config['project']}/locations/{config['location']}"
    ring = await client.create_key_ring(parent=parent, key_ring_id="direct", key_ring=kms_v1.KeyRing())
    template = kms_v1.CryptoKeyVersionTemplate(algorithm="EC_SIGN_P256_SHA256", protection_level="SOFTWARE")
    wanted = kms_v1.CryptoKey(purpose="ASYMMETRIC_SIGN", version_template=template)
    key = await client.create_crypto_key(parent=ring.name, crypto_key_id="benchmark", crypto_key=wanted)
    request = kms_v1.AsymmetricSignRequest(
        name=f"{key.name}/cryptoKeyVersions/1",
        digest=kms_v1.Digest(sha256=DIGEST),
        digest_crc32c=google_crc32c.value(DIGEST),
    )
    return lambda: client.asymmetric_sign(request=request, retry=None, timeout=5)


def in_threads(sign: Sign, callers: int, seconds: float) -> list[float]:
    """Seconds of each signature."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    def work() -> None:
        own: list[float] = []
        begin = time.perf_counter()
        while begin < end:
            sign()
            now = time.perf_counter()
            own.append(now - begin)
            begin = now
        latencies.extend(own)

    threads = [threading.Thread(target=work) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies


async def in_tasks(sign: AsyncSign, callers: int, seconds: float) -> list[float]:
    """Seconds of each signature."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def work() -> None:
        begin = time.perf_counter()
        while begin < end:
            await sign()
            now = time.perf_counter()
            latencies.append(now - begin)
            begin = now

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(work())
    return latencies


def report(callers: int, latencies: list[float], seconds: float) -> None:
    """One line."""
    ordered, count = sorted(latencies), len(latencies)
    figures = {
        "callers": callers,
        "per_second": count / seconds,
        "p50_ms": 1e3 * ordered[count // 2],
        "p99_ms": 1e3 * ordered[min(count - 1, count * 99 // 100)],
    }
    print(json.dumps(figures), flush=True)


async def main() -> None:
    """Run every level of the configuration."""
    config = json.load(sys.stdin)
    if config["cpus"]:
        os.sched_setaffinity(0, config["cpus"])
    if config["sdk"] == "gcp":
        asynchronous = await gcp(config)
        for callers in config["callers"]:
            await asyncio.gather(*[asynchronous() for _ in range(WARM_UP)])
            report(callers, await in_tasks(asynchronous, callers, config["seconds"]), config["seconds"])
        return
    sign = {"aws": aws, "vault": vault, "file": file}[config["sdk"]](config, max(config["callers"]))
    for callers in config["callers"]:
        for _ in range(WARM_UP):
            sign()
        report(callers, in_threads(sign, callers, config["seconds"]), config["seconds"])


if __name__ == "__main__":
    asyncio.run(main())
