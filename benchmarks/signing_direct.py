"""Signatures by keys in this process: what `signing.py` compares a deployment with file keys with.

The algorithms, the seconds for each and the processors come as JSON on standard input; one JSON result for each goes to
standard output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

DIGEST: Final = b"\x5a" * 32
MU: Final = b"\x5a" * 64
WARM_UP: Final = 20  # signatures


def p256() -> Callable[[], bytes]:
    """ES256."""
    key, scheme = ec.generate_private_key(ec.SECP256R1()), ec.ECDSA(Prehashed(hashes.SHA256()))
    return lambda: key.sign(DIGEST, scheme)


def rsa_2048() -> Callable[[], bytes]:
    """RS256."""
    key, scheme = rsa.generate_private_key(65537, 2048), Prehashed(hashes.SHA256())
    return lambda: key.sign(DIGEST, padding.PKCS1v15(), scheme)


def ml_dsa_65() -> Callable[[], bytes]:
    """From mu."""
    key = mldsa.MLDSA65PrivateKey.generate()
    return lambda: key.sign_mu(MU)


KEYS: Final[Mapping[str, Callable[[], Callable[[], bytes]]]] = {
    "ecdsa-p256": p256,
    "rsa-2048": rsa_2048,
    "ml-dsa-65": ml_dsa_65,
}


def rate(sign: Callable[[], bytes], seconds: float) -> float:
    """Signatures per second of one thread."""
    for _ in range(WARM_UP):
        sign()
    count, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        for _ in range(WARM_UP):
            sign()
        count += WARM_UP
    return count / elapsed


def main() -> None:
    """Every algorithm of the configuration."""
    config = json.loads(sys.stdin.read())
    if config["cpus"]:
        os.sched_setaffinity(0, config["cpus"])
    for algorithm in config["algorithms"]:
        print(json.dumps({"algorithm": algorithm, "per_second": rate(KEYS[algorithm](), config["seconds"])}))


if __name__ == "__main__":
    main()
