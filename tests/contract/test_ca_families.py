"""Key and profile choose the issuer: whatever an attacker, or a mistake, asks for beside that is refused, and why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.x509.certificate import load_chain
from pkicore.x509.names import Names
from services.ca.wire import CertificateRequest, Identifier
from tests.support.ca_world import OPERATOR, CaWorld
from tests.support.clock import ManualClock
from tests.support.pki import PROFILES, TRUST_DOMAIN, make_csr, make_hierarchy

HOST = Identifier("dns", "a.example")
SPIFFE = Identifier("uri", f"spiffe://{TRUST_DOMAIN}/workload/a")
PURE = replace(
    PROFILES["short-lived"], name="pure", families={"ecdsa": ("ecdsa",), "rsa": ("rsa",), "mldsa": ("mldsa",)}
)
MISSING = "profile {} has {} keys certified by the family {}, of which no issuing CA is active here"


@pytest.fixture
async def classical(tmp_path: Path) -> AsyncIterator[CaWorld]:
    """A CA of the family ecdsa alone, with a profile more, which mixes nothing."""
    clock = ManualClock()
    families = {"ecdsa": await make_hierarchy("ecdsa", clock)}
    profiles = {**PROFILES, "pure": PURE}
    world = await (await CaWorld.open(tmp_path, clock=clock, families=families, profiles=profiles)).start()
    yield world
    await world.close()


async def ask(world: CaWorld, profile: str, key: str, *names: Identifier) -> tuple[int, dict[str, Any]]:
    """Status and body of the answer to an operator."""
    asked = {kind: [name.value for name in names if name.type == kind] for kind in ("dns", "uri")}
    csr = make_csr(generate_private_key(ALGORITHMS[key]), names=Names.build(**asked))
    request = CertificateRequest(csr, profile, names, f"{profile} {key}")
    async with world.internal(OPERATOR) as http:
        headers = {"content-type": "application/json"}
        answer = await http.post("/v1/certificates", content=request.to_json(), headers=headers)
    return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("profile", "key", "name", "problem", "detail"),
    [
        ("server", "ml-dsa-65", HOST, "unknown-profile", MISSING.format("server", "ml-dsa-65", "mldsa")),
        ("pure", "rsa-2048", HOST, "unknown-profile", MISSING.format("pure", "rsa-2048", "rsa")),
        (
            "client",
            "rsa-2048",
            SPIFFE,
            "profile-refused",
            "profile client takes no rsa-2048 keys; it takes ecdsa-p256, ",
        ),
        ("server", "rsa-2048", HOST, None, "ecdsa"),
    ],
    ids=["family away", "family that is not mixed", "key that the profile has not", "family that the profile mixes"],
)
async def test_a_key_gets_its_own_chain_or_none(
    classical: CaWorld, profile: str, key: str, name: Identifier, problem: str | None, detail: str
) -> None:
    """A refusal names profile, key and what is missing, is in the ledger, and leaves no certificate."""
    status, body = await ask(classical, profile, key, name)
    if problem is None:
        leaf, issuer = load_chain(body["chain"].encode())
        leaf.verify_directly_issued_by(issuer)
        assert (status, issuer) == (201, classical.issuer(detail))
        return
    assert (status, body["type"]) == (400, f"urn:pqcpki:problem:{problem}")
    assert body["detail"].startswith(detail)
    async with classical.internal(OPERATOR) as http:
        (refusal,) = (await http.get("/v1/ledger/refusals")).json()["refusals"]
        issued = (await http.get("/v1/ledger/certificates", params={"profile": profile})).json()["certificates"]
    assert (refusal["problem"], refusal["rule"], issued) == (problem, "5", [])
    assert refusal["detail"].startswith(detail)
