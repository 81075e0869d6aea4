"""What the simulator refuses, a real server refuses too, by the same status: each request goes to both."""

import base64
from typing import Any

import pytest

from tests.support.openbao import Role, VaultServer

pytest_plugins = ("tests.support.vault_fixtures",)

DIGEST = base64.b64encode(b"\x07" * 32).decode()


def refusal(
    vault: VaultServer, method: str, path: str, body: dict[str, Any] | None = None, **more: str
) -> tuple[int, int]:
    """The status, and how many sentences `errors` has; the content type must be what hvac compares with."""
    answer = vault.raw(method, path, body, token=more.get("token", vault.root_token))
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, len(answer.json()["errors"])


@pytest.fixture
def transit(role: Role) -> str:
    """The mount, with one key."""
    role.server.admin("POST", f"{role.server.mount}/keys/ec", {"type": "ecdsa-p256"})
    return role.server.mount


def test_a_request_without_a_token_or_with_a_wrong_one_is_denied(vault: VaultServer, transit: str) -> None:
    """403 with one sentence, whichever it is."""
    assert refusal(vault, "GET", f"{transit}/keys/ec", token="") == (403, 1)
    assert refusal(vault, "GET", f"{transit}/keys/ec", token="s.none") == (403, 1)


def test_unknown_paths_and_keys_are_told_apart(vault: VaultServer, transit: str) -> None:
    """A missing key has no sentence, a missing mount has one."""
    assert refusal(vault, "GET", f"{transit}/keys/none") == (404, 0)
    assert refusal(vault, "GET", "nowhere/keys/none") == (404, 1)
    assert refusal(vault, "POST", f"{transit}/keys/name-/rotate", {})[0] == 404


def test_a_method_that_a_path_does_not_have_is_405(vault: VaultServer, transit: str) -> None:
    """Signing is no reading."""
    assert refusal(vault, "GET", f"{transit}/sign/ec") == (405, 1)


def test_a_body_that_is_no_json_object_is_refused(vault: VaultServer, transit: str) -> None:
    """A list is not what the framework reads."""
    answer = vault.raw("POST", f"{transit}/sign/ec", [1], token=vault.root_token)  # type: ignore[arg-type] # the point
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("keys/new", {"type": "ecdsa-p224"}, 400),
        ("keys/new", {"type": "ml-dsa", "parameter_set": "65"}, 400),
        ("keys/none/rotate", {}, 400),
        ("keys/none/config", {"deletion_allowed": True}, 400),
        ("keys/ec/config", {"min_decryption_version": 9}, 400),
        ("keys/ec/config", {"min_encryption_version": 9}, 400),
        ("keys/none/trim", {"min_available_version": 1}, 400),
        ("keys/ec/trim", {}, 400),
        ("keys/ec/trim", {"min_available_version": 1}, 400),
        ("sign/none", {"input": DIGEST}, 400),
        ("sign/ec", {"input": "no base64!"}, 400),
        ("sign/ec", {"input": DIGEST, "hash_algorithm": "md5"}, 400),
        ("sign/ec", {"input": DIGEST, "marshaling_algorithm": "pem"}, 400),
        ("sign/ec", {"batch_input": []}, 400),
        ("sign/ec", {"input": DIGEST, "key_version": 9}, 500),
        ("sign/rsa", {"input": "AAAA", "prehashed": True}, 500),
        ("sign/rsa", {"input": DIGEST, "prehashed": True, "signature_algorithm": "oaep"}, 500),
        ("keys/new/import", {"type": "ecdsa-p256", "ciphertext": "AAAA"}, 500),
        ("keys/ec/import", {"type": "ecdsa-p256", "ciphertext": "AAAA"}, 500),
        ("keys/ec/import_version", {"ciphertext": "AAAA"}, 500),
        ("keys/none/import_version", {"ciphertext": "AAAA"}, 500),
        ("keys/new/import", {"type": "ecdsa-p256", "ciphertext": "A" * 2000, "hash_function": "MD5"}, 400),
    ],
)
def test_transit_refuses(vault: VaultServer, transit: str, path: str, body: dict[str, Any], status: int) -> None:
    """What does not fit is refused, with one sentence."""
    if path.endswith("rsa"):
        vault.admin("POST", f"{transit}/keys/rsa", {"type": "rsa-2048"})
    assert refusal(vault, "POST", f"{transit}/{path}", body) == (status, 1)


def test_a_key_is_deleted_only_if_that_was_allowed(vault: VaultServer, transit: str) -> None:
    """400 before `deletion_allowed`, and for a key that is not there."""
    assert refusal(vault, "DELETE", f"{transit}/keys/ec") == (400, 1)
    assert refusal(vault, "DELETE", f"{transit}/keys/none") == (400, 1)
    vault.admin("POST", f"{transit}/keys/ec/config", {"deletion_allowed": True})
    vault.admin("DELETE", f"{transit}/keys/ec")
    assert refusal(vault, "GET", f"{transit}/keys/ec") == (404, 0)


def test_a_trimmed_version_does_not_come_back(vault: VaultServer, transit: str) -> None:
    """Neither the floor nor the versions below it can be had again."""
    vault.admin("POST", f"{transit}/keys/ec/rotate", {})
    vault.admin("POST", f"{transit}/keys/ec/config", {"min_decryption_version": 2, "min_encryption_version": 2})
    vault.admin("POST", f"{transit}/keys/ec/trim", {"min_available_version": 2})
    assert refusal(vault, "POST", f"{transit}/keys/ec/config", {"min_decryption_version": 1}) == (400, 1)
    assert refusal(vault, "POST", f"{transit}/keys/ec/trim", {"min_available_version": 1}) == (400, 1)
    assert refusal(vault, "POST", f"{transit}/sign/ec", {"input": DIGEST, "key_version": 1})[0] == 500
    assert list(vault.admin("GET", f"{transit}/keys/ec")["data"]["keys"]) == ["2"]


def test_creating_a_key_twice_shows_the_first(vault: VaultServer, transit: str) -> None:
    """Whatever type the second one asks for."""
    answer = vault.admin("POST", f"{transit}/keys/ec", {"type": "ed25519"})
    assert answer["data"]["type"] == "ecdsa-p256"


def test_exportable_is_a_one_way_street(vault: VaultServer, transit: str) -> None:
    """Once true it stays true."""
    for flag in ("exportable", "allow_plaintext_backup"):
        vault.admin("POST", f"{transit}/keys/ec/config", {flag: True})
        vault.admin("POST", f"{transit}/keys/ec/config", {flag: False})
        assert vault.admin("GET", f"{transit}/keys/ec")["data"][flag] is True


@pytest.mark.usefixtures("role")
@pytest.mark.parametrize(
    ("body", "status"),
    [({}, 500), ({"role_id": "x"}, 400), ({"secret_id": "x"}, 500), ({"role_id": "x", "secret_id": "y"}, 400)],
)
def test_a_wrong_login_is_no_401_and_no_403(vault: VaultServer, body: dict[str, str], status: int) -> None:
    """OpenBao looks for the role first: without a role id the error is its own."""
    assert refusal(vault, "POST", f"auth/{vault.approle}/login", body, token="") == (status, 1)


def test_a_secret_id_of_one_use_is_used_up(vault: VaultServer, role: Role) -> None:
    """The second login is refused."""
    vault.admin("POST", f"auth/{vault.approle}/role/signer-hsm", {"secret_id_num_uses": 1})
    body = {"role_id": role.role_id_file.read_text("ascii"), "secret_id": role.new_secret_id()}
    assert vault.raw("POST", f"auth/{vault.approle}/login", body).status_code == 200
    assert refusal(vault, "POST", f"auth/{vault.approle}/login", body, token="") == (400, 1)


def login(role: Role) -> dict[str, Any]:
    """A fresh login's `auth`."""
    body = {
        "role_id": role.role_id_file.read_text("ascii").strip(),
        "secret_id": role.secret_id_file.read_text("ascii").strip(),
    }
    answer = role.server.raw("POST", f"auth/{role.server.approle}/login", body)
    auth: dict[str, Any] = answer.json()["auth"]
    return auth


def test_a_token_may_do_what_its_policies_say_and_nothing_else(vault: VaultServer, role: Role, transit: str) -> None:
    """Paths, capabilities and parameters are enforced."""
    token = login(role)["client_token"]
    assert vault.raw("GET", f"{transit}/keys/ec", token=token).status_code == 200
    assert refusal(vault, "GET", f"{transit}/export/signing-key/ec", token=token) == (403, 1)
    assert refusal(vault, "POST", f"{transit}/keys/new", {"type": "ed25519", "exportable": True}, token=token) == (
        403,
        1,
    )
    assert refusal(vault, "POST", f"{transit}/keys/ec/config", {"exportable": True}, token=token) == (403, 1)
    assert refusal(vault, "POST", f"{transit}/restore/ec", {"backup": "x"}, token=token) == (403, 1)
    assert refusal(vault, "PUT", "sys/seal", {}, token=token) == (403, 1)


def test_a_policy_that_cannot_be_read_is_refused(vault: VaultServer) -> None:
    """Unknown capabilities are no capabilities."""
    broken = 'path "x/y" {\n  capabilities = ["fly"]\n}\n'
    assert refusal(vault, "PUT", "sys/policies/acl/broken", {"policy": broken}) == (400, 1)


def test_a_revoked_token_is_denied(vault: VaultServer, role: Role) -> None:
    """At once."""
    token = login(role)["client_token"]
    vault.admin("POST", "auth/token/revoke", {"token": token})
    assert refusal(vault, "GET", "auth/token/lookup-self", token=token) == (403, 1)


@pytest.mark.usefixtures("role")
def test_a_token_that_is_not_renewable_is_not_renewed(vault: VaultServer) -> None:
    """400."""
    policies = [f"signer-hsm-sign-{vault.mount}"]
    auth = vault.admin("POST", "auth/token/create", {"renewable": False, "policies": policies, "ttl": "1h"})["auth"]
    assert auth["renewable"] is False
    assert refusal(vault, "POST", "auth/token/renew-self", {}, token=auth["client_token"]) == (400, 1)


def test_a_renewal_ends_at_the_maximum(vault: VaultServer, role: Role) -> None:
    """The lease is shorter than asked for, and a warning says so."""
    vault.admin("POST", f"auth/{vault.approle}/role/signer-hsm", {"token_ttl": "1h", "token_max_ttl": "1h"})
    token = login(role)["client_token"]
    answer = vault.raw("POST", "auth/token/renew-self", {"increment": "3h"}, token=token).json()
    assert answer["auth"]["lease_duration"] <= 3600


def test_sealed_is_503_for_all_but_health(vault: VaultServer, transit: str) -> None:
    """Health says so by its status, which can be chosen; the right key opens it again."""
    if vault.unseal_key is None:
        pytest.skip("a server that somebody else has started is not sealed by a test")
    vault.seal()
    try:
        assert refusal(vault, "GET", f"{transit}/keys/ec") == (503, 1)
        assert refusal(vault, "POST", f"auth/{vault.approle}/login", {"role_id": "x", "secret_id": "y"}) == (503, 1)
        health = vault.raw("GET", "sys/health")
        assert (health.status_code, health.json()["sealed"]) == (503, True)
        assert vault.raw("GET", "sys/health?sealedcode=299").status_code == 299
        assert vault.raw("GET", "sys/seal-status").json()["sealed"] is True
        assert vault.raw("PUT", "sys/unseal", {"key": "00" * 32}).json().get("sealed", True) is True
    finally:
        vault.unseal()
    assert vault.raw("GET", "sys/health").status_code == 200
