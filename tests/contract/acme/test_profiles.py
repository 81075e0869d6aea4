"""Profiles and periods: what an order may be for."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from pkicore.clock import unix
from services.acme.answers import rfc3339
from services.acme.profiles.profiles import BUILT_IN, Profile
from services.ca.client import CaRefusedError
from tests.support.acme_client import AcmeProblemError, make_csr
from tests.support.acme_orders import csr_for, ready_order
from tests.support.acme_server import AcmeServer, solve


def profile(name: str, **fields: object) -> dict[str, Profile]:
    """The built-in profiles and one more."""
    return {**BUILT_IN, name: Profile(name, "for tests", **{"ca_profile": "server", **fields})}  # type: ignore[arg-type] # fields by name


async def refusal(server: AcmeServer, *names: str, **members: object) -> tuple[str, str]:
    """Type and sentence of the refusal of an order by a new account."""
    client = await server.registered()
    server.commits.clear()
    with pytest.raises(AcmeProblemError) as refused:
        await client.new_order(names or ["a.example"], **members)
    assert not server.commits
    return refused.value.kind, refused.value.detail


@pytest.mark.requirement("profiles-4-03")
async def test_an_order_has_the_profile_that_it_names(server: AcmeServer) -> None:
    """The profile is echoed, is that of the certificate, and is in the CA's ledger; without one it is the default."""
    client = await server.registered()
    order = await client.new_order(["a.example"], profile="short-lived")
    assert order.body["profile"] == "short-lived"
    await client.authorize(order, solve)
    await client.finalize(order, csr_for("a.example"))
    request = server.ca.requests[0]
    assert (request.profile, request.requester["profile"]) == ("short-lived", "short-lived")
    assert (await client.new_order(["a.example"])).body["profile"] == "server"


@pytest.mark.requirement("profiles-4-02")
@pytest.mark.parametrize("name", ["client", "", 1, ["server"], {}])
async def test_a_profile_that_is_not_offered(server: AcmeServer, name: object) -> None:
    """It is refused as invalidProfile, with those that there are."""
    kind, detail = await refusal(server, profile=name)
    assert (kind, "server, short-lived" in detail) == ("invalidProfile", True)


@pytest.mark.requirement("profiles-4-02")
async def test_a_profile_of_other_accounts(tmp_path: Path) -> None:
    """An account that may not use a profile does not learn that there is one."""
    server = await AcmeServer.start(tmp_path, profiles=profile("own", external_accounts=("somebody",)))
    kind, detail = await refusal(server, profile="own")
    assert (kind, "own" in detail) == ("invalidProfile", False)
    await server.stop()


@pytest.mark.requirement("profiles-4-06")
@pytest.mark.parametrize(
    ("fields", "identifiers", "kind"),
    [
        ({"identifiers": ("dns",)}, [("ip", "10.0.0.1")], "unsupportedIdentifier"),
        ({"wildcards": False}, [("dns", "*.a.example")], "rejectedIdentifier"),
        ({"challenges": ("http-01",)}, [("dns", "*.a.example")], "rejectedIdentifier"),
        ({"challenges": ("dns-01",)}, [("ip", "10.0.0.1")], "rejectedIdentifier"),
        (
            {"identifiers": ("ip",), "wildcards": False},
            [("dns", "a.example"), ("dns", "*.a.example")],
            "unsupportedIdentifier",
        ),
    ],
)
async def test_names_that_a_profile_does_not_have(
    tmp_path: Path, fields: dict[str, object], identifiers: list[tuple[str, str]], kind: str
) -> None:
    """A name is refused where the profile has none of its type, or none of its challenges proves it.

    That is invalidProfile where the order names the profile, and the name's own problem where it is the default one.
    """
    server = await AcmeServer.start(tmp_path, profiles=profile("server", **fields))
    client = await server.registered()
    wanted = [{"type": of, "value": value} for of, value in identifiers]
    for named, told in (({"profile": "server"}, "invalidProfile"), ({}, kind)):
        payload = {"identifiers": wanted, **named}
        document = (await client.post_raw((await client.directory())["newOrder"], payload)).json()
        assert document["type"].endswith(f":{told}")
        assert [item["identifier"] for item in document["subproblems"]] == wanted
    await server.stop()


async def test_more_names_than_a_profile_has(tmp_path: Path) -> None:
    """Nobody proves names in vain: the order is refused, not what comes of it."""
    server = await AcmeServer.start(tmp_path, profiles=profile("server", max_names=2))
    names = ("a.example", "b.example", "c.example")
    kind, detail = await refusal(server, *names, profile="server")
    assert (kind, "at most 2 names" in detail) == ("invalidProfile", True)
    assert (await refusal(server, *names))[0] == "malformed"
    await server.stop()


@pytest.mark.requirement("rfc8555-7.4-08", "rfc8555-7.4-09")
async def test_keys_of_a_profile(tmp_path: Path) -> None:
    """A CSR with a key that the profile does not take is badCSR with those that it takes; the order stays ready."""
    server = await AcmeServer.start(tmp_path, profiles=profile("ec", keys=("ecdsa-p256", "ml-dsa-65")))
    client = await server.registered()
    order = await client.new_order(["a.example"], profile="ec")
    await client.authorize(order, solve)
    with pytest.raises(AcmeProblemError, match="ecdsa-p256, ml-dsa-65, not rsa-2048") as refused:
        await client.finalize(order, make_csr(["a.example"], rsa.generate_private_key(65537, 2048)))
    assert refused.value.kind == "badCSR"
    assert (await client.read(order.url)).status == "ready"
    assert (await client.finalize(order, csr_for("a.example"))).status == "valid"
    await server.stop()


async def test_the_length_of_a_profile(tmp_path: Path) -> None:
    """A profile that says how long its certificates last has them end then, and the order says when."""
    server = await AcmeServer.start(tmp_path, profiles=profile("week", validity_seconds=7 * 86400))
    client = await server.registered()
    order = await client.new_order(["a.example"], profile="week")
    await client.authorize(order, solve)
    done = await client.finalize(order, csr_for("a.example"))
    end = unix(server.clock.now()) - 3600 + 7 * 86400 - 1
    assert (server.ca.requests[0].not_after, done.body["notAfter"]) == (end, rfc3339(end))
    await server.stop()


@pytest.mark.requirement("rfc8555-7.4-02")
async def test_a_period_is_given_as_it_was_asked_for(server: AcmeServer) -> None:
    """The notBefore and notAfter of an order are those of the certificate, to the second, whatever their time zone."""
    client = await server.registered()
    now = unix(server.clock.now())
    begin, end = now + 600, now + 86400
    asked = {"notBefore": rfc3339(begin).replace("Z", ".000Z"), "notAfter": rfc3339(end + 7200).replace("Z", "+02:00")}
    order = await client.new_order(["a.example"], **asked)
    assert (order.body["notBefore"], order.body["notAfter"]) == (rfc3339(begin), rfc3339(end))
    await client.authorize(order, solve)
    obtained = await client.finalize(order, csr_for("a.example"))
    assert obtained.status == "valid"
    assert (server.ca.requests[0].not_before, server.ca.requests[0].not_after) == (begin, end)


@pytest.mark.requirement("rfc8555-7.4-01")
@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (None, timedelta(days=90)),
        (None, timedelta(seconds=0)),
        (timedelta(minutes=-6), None),
        (timedelta(days=90), None),
        (timedelta(days=2), timedelta(days=1)),
        (timedelta(days=1), timedelta(days=1)),
    ],
)
async def test_a_period_that_the_profile_does_not_give(
    server: AcmeServer, begin: timedelta | None, end: timedelta | None
) -> None:
    """A beginning or end beyond the profile's, or past, is refused before anything is made."""
    now = server.clock.now()
    times = {"notBefore": begin, "notAfter": end}
    members = {name: rfc3339(unix(now + at)) for name, at in times.items() if at is not None}
    assert (await refusal(server, **members))[0] == "malformed"


@pytest.mark.requirement("profiles-4-06")
@pytest.mark.parametrize(("begin", "end"), [(None, 90), (90, None)])
async def test_a_period_beyond_the_profile_that_was_named(
    server: AcmeServer, begin: int | None, end: int | None
) -> None:
    """A time, in days, that the named profile does not give is refused as invalidProfile."""
    now = server.clock.now()
    days = {"notBefore": begin, "notAfter": end}
    members = {name: rfc3339(unix(now + timedelta(days=at))) for name, at in days.items() if at is not None}
    assert (await refusal(server, profile="server", **members))[0] == "invalidProfile"


@pytest.mark.requirement("rfc8555-7.4-01")
@pytest.mark.parametrize(
    "value",
    [
        None, 1893456000, "", "2030-01-02", "2030-01-02T00:00:00", "2030-01-02 00:00:00Z", "2030-13-02T00:00:00Z",
        "2030-01-02T00:00:60Z", "2030-01-02T00:00:00.5Z", "2030-01-02T00:00:00+0100", "20300102T000000Z",
        "\u0662030-01-02T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
        pytest.param("2030-01-02T00:00:00Z" + "0" * 9999, id="long"),
    ],
)  # fmt: skip
async def test_times_that_are_none(server: AcmeServer, value: object) -> None:
    """What is not a time of RFC 3339 in whole seconds is refused, never guessed at."""
    for member in ("notBefore", "notAfter"):
        assert (await refusal(server, **{member: value}))[0] == "malformed"


@pytest.mark.requirement("rfc8555-7.4-01")
async def test_a_period_that_the_ca_does_not_give(server: AcmeServer) -> None:
    """What only the CA knows, it says at finalize: the order fails as malformed with its sentence."""
    client = await server.registered()
    order = await ready_order(client, "a.example")
    server.ca.refusal = CaRefusedError("validity-refused", 400, "must end before 2030")
    failed = await client.finalize(order, csr_for("a.example"))
    assert failed.body["error"]["type"].endswith(":malformed")
    assert failed.body["error"]["detail"].endswith("must end before 2030")
