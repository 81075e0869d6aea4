"""The token's life: logins, renewals, refusals; and where the token never goes."""

import asyncio
import logging
import os
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from pkicore.algorithms import ALGORITHMS
from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.vault import VaultBackend
from services.signer_hsm.errors import DeniedError, MisconfiguredError, UnavailableError
from services.signer_hsm.schemes import SCHEMES
from tests.support.openbao import AdminError, Role, VaultServer, provision, write_secret
from tests.support.vault_fixtures import MovableClock, Opener
from tests.support.vault_simulator.server import VaultSimulator, serving

pytest_plugins = ("tests.support.vault_fixtures",)

EC = ALGORITHMS["ecdsa-p256"]
LABEL = KeyLabel("ca", "issuing", 1)
QUICK = 0.02


async def until(fact: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for something that happens in the background."""
    end = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < end, "it does not happen"
        await asyncio.sleep(0.01)


def count(simulator: VaultSimulator, ending: str) -> int:
    """Requests so far whose path ends so."""
    return sum(path.endswith(ending) for _, path, _ in simulator.requests)


async def works(backend: VaultBackend) -> None:
    """A call with the token."""
    await backend.find(LABEL)


async def test_one_login_serves_all_calls(simulator: VaultSimulator, simulated_role: Role, opening: Opener) -> None:
    """Twenty calls at once begin with one login."""
    backend = await opening(simulated_role, workers=8)
    await asyncio.gather(*(works(backend) for _ in range(20)))
    assert count(simulator, "/login") == 1


async def test_the_token_is_renewed_after_two_thirds(
    simulator: VaultSimulator, simulated_role: Role, opening: Opener, vault_clock: MovableClock
) -> None:
    """In the background and not before; calls go on with the same token."""
    backend = await opening(simulated_role, upkeep_seconds=QUICK)
    await works(backend)
    vault_clock.advance(timedelta(minutes=39))
    await asyncio.sleep(QUICK * 5)
    assert count(simulator, "renew-self") == 0
    vault_clock.advance(timedelta(minutes=2))
    await until(lambda: count(simulator, "renew-self") == 1)
    await until(lambda: (backend._session.seconds_left or 0) > 3500)
    await works(backend)
    assert count(simulator, "/login") == 1


async def test_a_short_lived_token_is_kept_alive(role: Role, opening: Opener) -> None:
    """A real server's time passes: after twice its TTL the token still serves, without a second login's delay."""
    role.server.admin("POST", f"auth/{role.server.approle}/role/signer-hsm", {"token_ttl": "3s", "token_max_ttl": "1h"})
    backend = await opening(role, upkeep_seconds=0.1)
    await works(backend)
    await asyncio.sleep(6.5)
    health = await backend.health()
    assert health.ready
    ttl = health.detail["token_ttl_seconds"]
    assert isinstance(ttl, int)
    assert 0 <= ttl <= 3


async def test_near_its_maximum_the_token_is_replaced(
    simulator: VaultSimulator, simulated_role: Role, opening: Opener, vault_clock: MovableClock
) -> None:
    """A renewal that gives less than half of the first lease is followed by a login."""
    path = f"auth/{simulated_role.server.approle}/role/signer-hsm"
    simulated_role.server.admin("POST", path, {"token_ttl": "1h", "token_max_ttl": "70m"})
    backend = await opening(simulated_role, upkeep_seconds=QUICK)
    await works(backend)
    vault_clock.advance(timedelta(minutes=45))
    await until(lambda: count(simulator, "/login") == 2)
    await until(lambda: (backend._session.seconds_left or 0) > 3500)
    await works(backend)


async def test_an_expired_token_is_replaced_at_the_next_call(
    simulator: VaultSimulator, simulated_role: Role, opening: Opener, vault_clock: MovableClock
) -> None:
    """Also when nothing was renewed in the background, as after a suspended machine."""
    backend = await opening(simulated_role)
    await works(backend)
    vault_clock.advance(timedelta(hours=2))
    await works(backend)
    assert (count(simulator, "/login"), count(simulator, "lookup-self")) == (2, 0)


async def test_a_revoked_token_costs_one_login(role: Role, opening: Opener) -> None:
    """The call that met it does not fail."""
    backend = await opening(role)
    await works(backend)
    role.server.admin("PUT", f"sys/leases/revoke-prefix/auth/{role.server.approle}/login", {})
    await works(backend)
    assert (await backend.health()).ready


async def test_many_callers_with_a_revoked_token_log_in_once(
    simulator: VaultSimulator, simulated_role: Role, opening: Opener
) -> None:
    """One of them does it for all."""
    backend = await opening(simulated_role, workers=8)
    await works(backend)
    simulator.tokens.revoke_of(simulated_role.server.approle)
    await asyncio.gather(*(works(backend) for _ in range(20)))
    assert count(simulator, "/login") == 2


async def test_a_policy_that_refuses_is_no_reason_to_log_in(
    simulator: VaultSimulator, simulated_role: Role, opening: Opener
) -> None:
    """One look at the token, and denied."""
    server = simulated_role.server
    policies = [f"signer-hsm-sign-{server.mount}"]
    server.admin("POST", f"auth/{server.approle}/role/signer-hsm", {"token_policies": policies})
    backend = await opening(simulated_role)
    with pytest.raises(DeniedError, match="policy"):
        await backend.create(LABEL, EC)
    assert (count(simulator, "/login"), count(simulator, "lookup-self")) == (1, 1)


async def test_a_revoked_role_is_denied_and_comes_back(role: Role, opening: Opener, vault_clock: MovableClock) -> None:
    """Health says so; a new secret id in the file is tried at once."""
    backend = await opening(role)
    await works(backend)
    role.revoke()
    with pytest.raises(DeniedError):
        await works(backend)
    assert not (await backend.health()).ready
    server = role.server
    body = {"token_policies": [f"signer-hsm-sign-{server.mount}"], "token_no_default_policy": True, "token_ttl": "1h"}
    server.admin("POST", f"auth/{server.approle}/role/signer-hsm", body)
    found = server.admin("GET", f"auth/{server.approle}/role/signer-hsm/role-id")
    role.role_id_file.write_text(str(found["data"]["role_id"]), "ascii")
    role.new_secret_id()
    await works(backend)
    assert (await backend.health()).ready
    del vault_clock


async def test_a_refused_login_is_left_alone_for_a_while(
    simulator: VaultSimulator, simulated_role: Role, opening: Opener, vault_clock: MovableClock
) -> None:
    """A storm of calls makes one login; after the pause there is one more."""
    backend = await opening(simulated_role, workers=4)
    simulated_role.revoke()
    for _ in range(2):
        before = count(simulator, "/login")
        answers = await asyncio.gather(*(works(backend) for _ in range(20)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {DeniedError}
        assert count(simulator, "/login") == before + 1
        vault_clock.advance(timedelta(seconds=61))


async def test_a_used_up_secret_id_is_denied(role: Role, opening: Opener) -> None:
    """Until there is a fresh one in the file."""
    server = role.server
    server.admin("POST", f"auth/{server.approle}/role/signer-hsm", {"secret_id_num_uses": 1})
    role.new_secret_id()
    backend = await opening(role)
    await works(backend)
    server.admin("PUT", f"sys/leases/revoke-prefix/auth/{server.approle}/login", {})
    with pytest.raises(DeniedError):
        await works(backend)
    role.new_secret_id()
    await works(backend)


async def test_a_token_from_a_file(role: Role, opening: Opener, tmp_path: Path) -> None:
    """Its time is asked for; when it is revoked, the file's new one serves."""
    server, file = role.server, tmp_path / "token"
    changes = {"role_id_file": None, "secret_id_file": None, "token_file": file}
    body = {"policies": [f"signer-hsm-sign-{server.mount}"], "ttl": "1h", "no_parent": True}
    token = server.admin("POST", "auth/token/create", body)["auth"]["client_token"]
    write_secret(file, token)
    backend = await opening(role, **changes)
    await works(backend)
    left = (await backend.health()).detail["token_ttl_seconds"]
    assert isinstance(left, int)
    assert 3500 < left <= 3600
    server.admin("POST", "auth/token/revoke", {"token": token})
    with pytest.raises(DeniedError):
        await works(backend)
    write_secret(file, server.admin("POST", "auth/token/create", body)["auth"]["client_token"])
    await works(backend)


def spoil(file: Path, trouble: str) -> None:
    """Make the file unfit."""
    if trouble == "missing":
        file.unlink()
    elif trouble == "open":
        file.chmod(0o644)
    else:
        file.write_text("" if trouble == "empty" else "a b", "ascii")


@pytest.mark.parametrize("which", ["secret_id_file", "role_id_file"])
@pytest.mark.parametrize("trouble", ["missing", "empty", "open", "two words"])
async def test_bad_files_are_refused_at_the_start(
    simulated_role: Role, opening: Opener, which: str, trouble: str
) -> None:
    """Before anything is sent; the role id alone is no secret, and may be read by others."""
    file: Path = getattr(simulated_role, which)
    spoil(file, trouble)
    if (which, trouble) == ("role_id_file", "open"):
        await opening(simulated_role)
        return
    with pytest.raises(MisconfiguredError, match=str(file)):
        await opening(simulated_role)


async def test_a_file_that_vanishes_later_is_no_final_error(simulated_role: Role, opening: Opener) -> None:
    """Whoever rotates it may take a moment."""
    backend = await opening(simulated_role)
    text = simulated_role.secret_id_file.read_text("ascii")
    simulated_role.secret_id_file.unlink()
    with pytest.raises(UnavailableError):
        await works(backend)
    write_secret(simulated_role.secret_id_file, text.strip())
    await works(backend)


async def test_secrets_are_in_no_error_no_log_and_no_repr(
    role: Role, opening: Opener, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither the token nor the secret id, also not in the traceback that goes to the log."""
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as logs:
        backend = await opening(role)
        await works(backend)
        session = backend._session
        assert session._token is not None
        secrets = [session._token.value, role.secret_id_file.read_text("ascii").strip()]
        role.revoke()
        with pytest.raises(DeniedError) as caught:
            await works(backend)
        health = await backend.health()
    seen = "".join(traceback.format_exception(caught.value))
    captured = capfd.readouterr()
    seen += f"{logs} {health} {session!r} {session._token!r} {caplog.text} {captured.out} {captured.err}"
    seen += repr(caught.value.__cause__) + str(vars(caught.value.__cause__))
    assert not [secret for secret in secrets if secret in seen]


async def test_a_redirect_is_not_followed(
    simulator: VaultSimulator, simulated_role: Role, opening: Opener, vault_clock: MovableClock
) -> None:
    """The token would go along to whatever host it names."""
    elsewhere = VaultSimulator(vault_clock)
    backend = await opening(simulated_role)
    await works(backend)
    with serving(elsewhere) as address:
        simulator.leader, simulator.standby = address, "redirects"
        with pytest.raises(UnavailableError, match="standby"):
            await works(backend)
        assert elsewhere.requests == []


async def test_the_environment_is_not_asked(
    simulator: VaultSimulator, simulated_role: Role, opening: Opener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither for a proxy nor for an address, a namespace or a token."""
    (tmp_path / ".vault-token").write_text("s.stolen", "ascii")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "VAULT_ADDR"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name, value in (("HOME", str(tmp_path)), ("VAULT_TOKEN", "s.stolen"), ("VAULT_NAMESPACE", "stolen")):
        monkeypatch.setenv(name, value)
    backend = await opening(simulated_role)
    await works(backend)
    assert not [headers for _, _, headers in simulator.requests if "stolen" in str(headers)]
    assert os.environ["VAULT_TOKEN"] == "s.stolen"


async def test_the_namespace_goes_with_each_request(
    simulator: VaultSimulator, simulated_role: Role, opening: Opener
) -> None:
    """Logins included; but for health, which is the server's."""
    begin = len(simulator.requests)
    backend = await opening(simulated_role, namespace="bank/pki")
    await works(backend)
    sent = {path: headers.get("x-vault-namespace") for _, path, headers in simulator.requests[begin:]}
    assert sent.pop("sys/health") is None
    assert set(sent.values()) == {"bank/pki"}
    assert len(sent) == 2


async def test_namespaces_of_a_real_server(vault: VaultServer, opening: Opener, tmp_path: Path) -> None:
    """All goes on in the one that is named; in another one there is no such login."""
    if not vault.real:
        pytest.skip("the simulator has no namespaces")
    name = f"bank-{vault.mount}"
    try:
        vault.admin("POST", f"sys/namespaces/{name}", {})
    except AdminError as error:
        pytest.skip(f"this server has no namespaces: {error}")
    vault.namespace = name
    role = provision(vault, tmp_path)
    backend = await opening(role)
    key = await backend.create(LABEL, EC)
    assert len(await backend.sign(key.handle, SCHEMES["ES256"], "digest", [bytes(32)])) == 1
    assert (await backend.health()).ready
    for other in ("", "nowhere"):
        stranger = await opening(role, namespace=other)
        with pytest.raises((UnavailableError, DeniedError)):
            await works(stranger)
