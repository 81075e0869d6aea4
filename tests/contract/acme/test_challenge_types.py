"""Challenges as clients see them, by type; the deployment's settings decide which are offered."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.acme.challenges import CHALLENGE_TYPES
from tests.support.acme_client import Resource
from tests.support.acme_server import AcmeServer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[AcmeServer]:
    """A service that offers every type."""
    running = await AcmeServer.start(tmp_path, challenges=CHALLENGE_TYPES, issuers=("ca.test", "ca.example"))
    yield running
    await running.stop()


def types_of(authorization: Resource) -> list[str]:
    """The types of the challenges that are offered."""
    return [challenge["type"] for challenge in authorization.body["challenges"]]


async def test_each_kind_of_name_is_offered_its_challenges(server: AcmeServer) -> None:
    """A name may be proven in every way, a wildcard in DNS, an address by its server; tokens are all different."""
    client = await server.registered()
    names = [("dns", "a.example"), ("dns", "*.b.example"), ("ip", "::1")]
    order = await client.new_order([], identifiers=[{"type": kind, "value": name} for kind, name in names])
    read = [await client.read(url) for url in order.body["authorizations"]]
    plain, wildcard, address = [
        next(each for each in read if each.body["identifier"]["value"] == name)
        for name in ("a.example", "b.example", "::1")
    ]
    assert types_of(plain) == list(CHALLENGE_TYPES)
    assert types_of(wildcard) == ["dns-01", "dns-account-01", "dns-persist-01"]
    assert types_of(address) == ["http-01", "tls-alpn-01"]
    tokens = [each["token"] for each in plain.body["challenges"] if "token" in each]
    assert len(set(tokens)) == len(tokens) == len(CHALLENGE_TYPES) - 1


async def test_persistent_challenge_names_ca_and_account_and_has_no_token(server: AcmeServer) -> None:
    """dns-persist-01 tells which names of the CA and which account URI the record is to have (draft section 3.1)."""
    client = await server.registered()
    order = await client.new_order(["*.a.example"])
    authorization = await client.read(order.body["authorizations"][0])
    (challenge,) = [each for each in authorization.body["challenges"] if each["type"] == "dns-persist-01"]
    assert challenge["issuer-domain-names"] == ["ca.test", "ca.example"]
    assert challenge["accounturi"] == client.kid
    assert "token" not in challenge
    answer = (await client.post(challenge["url"], {})).json()
    assert (answer["status"], answer["accounturi"]) == ("valid", client.kid)
    (attempt,) = server.validator.attempts
    assert (attempt.type, attempt.identifier.value, attempt.wildcard) == ("dns-persist-01", "a.example", True)
    assert (attempt.token, attempt.account_url) == ("", client.kid)


async def test_persistent_proof_serves_one_order(server: AcmeServer) -> None:
    """A dns-persist-01 proof lasts no longer than its record's TTL, so that the next order looks again."""
    client = await server.registered()
    for name, challenge_type, later in (("a.example", "dns-persist-01", "pending"), ("b.example", "dns-01", "valid")):
        first = await client.new_order([name])
        authorization = await client.read(first.body["authorizations"][0])
        (url,) = [each["url"] for each in authorization.body["challenges"] if each["type"] == challenge_type]
        assert (await client.post(url, {})).json()["status"] == "valid"
        second = await client.new_order([name])
        assert (await client.read(second.body["authorizations"][0])).status == later
