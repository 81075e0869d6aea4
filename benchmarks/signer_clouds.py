"""AWS KMS and Cloud KMS simulators that answer late, in a process of their own, for `signer.py`.

The configuration comes as JSON on standard input; where they are is printed as one JSON line; they end with standard
input.
"""

from __future__ import annotations

import asyncio
import json
import sys

from pkicore.clock import SystemClock
from tests.support.aws_kms_simulator import AwsKmsSimulator
from tests.support.gcp_kms_resources import Resources
from tests.support.gcp_kms_simulator import simulator

PROJECT = "benchmark"
LOCATION = "europe-west3"


async def main() -> None:
    """Serve until standard input ends."""
    config = json.loads(sys.stdin.readline())
    resources = Resources(SystemClock(), f"projects/{PROJECT}/locations/{LOCATION}")
    async with simulator(resources) as gcp:
        with AwsKmsSimulator() as aws:
            gcp.faults.delay = config["delay_ms"] / 1e3
            aws.delay(config["delay_ms"] / 1e3, times=sys.maxsize)
            where = {
                "aws": {
                    "url": aws.url,
                    "region": aws.region,
                    "key_id": aws.credentials.key_id,
                    "secret": aws.credentials.secret,
                },
                "gcp": {"address": gcp.address, "project": PROJECT, "location": LOCATION},
            }
            print(json.dumps(where), flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
