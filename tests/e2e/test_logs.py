import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.acme_client import AcmeClient, Challenge, http_client, make_csr
from tests.support.deployment import Deployment
from tests.support.http_challenge import HttpChallengeServer
from tests.support.jose_key import JoseKey


def _lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


async def test_one_request_id_leads_from_the_client_to_the_signature(deployment: Deployment) -> None:
    """The finalize request that a client names by X-Request-Id is in the logs of both services; traces are off."""
    web = await HttpChallengeServer().start(deployment.http01_port)
    async with http_client(deployment.endpoints["tls_ca_bundle"]) as http:
        http.headers["x-request-id"] = "traced-1"
        client = AcmeClient(http, deployment.endpoints["acme_directory"], JoseKey.generate())

        async def solve(challenge: Challenge) -> None:
            web.answer(challenge.token, challenge.key_authorization)

        await client.register()
        order = await client.new_order(["traced.pqcpki.test"])
        await client.authorize(order, solve)
        order = await client.wait(order.url, {"pending"})
        order = await client.finalize(order, make_csr(["traced.pqcpki.test"], ec.generate_private_key(ec.SECP256R1())))
        await client.download(order)
    await web.stop()
    acme, ca = (
        [line for line in _lines(deployment.directory / "logs" / f"{name}.log") if line.get("request_id") == "traced-1"]
        for name in ("acme", "ca")
    )
    assert {"account.created", "order.created", "authorization.valid", "certificate.issued"} <= {
        line["event"] for line in acme
    }
    finalized = next(line for line in acme if line["event"] == "order.finalized")
    assert (finalized["jws_alg"], finalized["service"]) == ("ES256", "acme")
    assert finalized["jws_kid"].startswith("https://")
    (issued,) = [line for line in ca if line["event"] == "certificate.issued"]
    assert issued["actor"] == "spiffe://pqcpki.internal/service/acme"
    assert issued["detail"]["serial"]
    assert not any("trace_id" in line for line in (*acme, *ca)), "nobody has asked for traces"
