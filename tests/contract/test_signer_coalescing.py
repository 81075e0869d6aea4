from __future__ import annotations

import asyncio
from pathlib import Path

from services.signer_hsm.client import BadPayloadError
from tests.support.signer_world import CA, SignerWorld


async def test_callers_of_one_client_share_requests_and_nothing_else(tmp_path: Path) -> None:
    """Many signatures need few requests and records; whoever asks for nonsense among them is refused alone."""
    world = await SignerWorld.open(f"sqlite:///{tmp_path}/s.sqlite3")
    await world.make("ca.issuing")
    ca = world.client(CA)
    payloads = [bytes([number]) * 32 for number in range(20)]
    payloads[7] = b"too short"
    asked = world.device.calls.count("sign")
    answers = await asyncio.gather(
        *[ca.sign("ca.issuing", 1, "digest", payload, "ES256") for payload in payloads], return_exceptions=True
    )
    assert isinstance(answers[7], BadPayloadError)
    assert all(isinstance(answer, bytes) for number, answer in enumerate(answers) if number != 7)
    asked_first = world.device.calls.count("sign") - asked
    answers = await asyncio.gather(*[ca.sign("ca.issuing", 1, "digest", payloads[0], "ES256") for _ in range(40)])
    assert len(answers) == 40
    assert world.device.calls.count("sign") - asked - asked_first < 40
    await world.close()
