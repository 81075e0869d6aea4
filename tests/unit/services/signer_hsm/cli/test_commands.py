"""Each command of `keyctl` against the whole service in memory; what the way there does is in test_connection.py."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pkicore.algorithms import known_public_key, verify_signature
from pkicore.identity import SpiffeId
from services.chassis.http_client import Answer, Http
from services.signer_hsm.cli.connection import REFUSED, UNAVAILABLE, Way
from services.signer_hsm.cli.main import main
from services.signer_hsm.client import SignerClient
from services.signer_hsm.errors import UnavailableError
from services.signer_hsm.wire import NewKeyRequest
from tests.support.signer_world import (
    ADMIN,
    ALL_KINDS,
    CA,
    KEY_POLICY,
    LIFE_CYCLE,
    LOOK,
    SECOND,
    SHOP,
    STRANGER,
    SignerWorld,
    rule,
    tenant,
)

POLICY = (
    KEY_POLICY
    + tenant("lab", max_keys=200)
    + rule("lab-signs", "lab", [ADMIN], [*LIFE_CYCLE, *LOOK, "sign"], kinds=ALL_KINDS)
    + tenant("vault")
    + rule("vault-two", "vault", [ADMIN, SECOND], LIFE_CYCLE, approvals=1)
    + rule("vault-agree", "vault", [ADMIN, SECOND], ["approve", *LOOK])
)

Keyctl = Callable[..., Awaitable[Result]]


@dataclass(frozen=True)
class OtherLoop:
    """Carries requests from a command's event loop to the one in which the service lives."""

    http: Http
    home: asyncio.AbstractEventLoop

    async def request(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None,
        headers: Mapping[str, str],
        timeout: float,  # noqa: ASYNC109 -- Http's signature
    ) -> Answer:
        """As `Http.request`."""
        sent = self.http.request(method, url, content=content, headers=headers, timeout=timeout)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_whole(sent), self.home))


async def _whole(sent: Awaitable[Answer]) -> Answer:
    return await sent


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SignerWorld]:
    """The service, with three more rules than usual."""
    opened = await SignerWorld.open(f"sqlite:///{tmp_path / 'signer.sqlite3'}", policy=POLICY)
    yield opened
    await opened.close()


@pytest.fixture
def keyctl(world: SignerWorld) -> Keyctl:
    """Runs a command as it runs at a terminal, but for its way to the service."""

    async def run(*arguments: str | Path, caller: SpiffeId = ADMIN, typed: str | None = None) -> Result:
        home = asyncio.get_running_loop()

        @asynccontextmanager
        async def connect(_way: Way) -> AsyncIterator[SignerClient]:
            yield SignerClient(OtherLoop(world.http(caller), home))

        words = [str(argument) for argument in arguments]
        return await asyncio.to_thread(CliRunner().invoke, main, words, obj=connect, input=typed)

    return run


async def read(keyctl: Keyctl, *arguments: str | Path, caller: SpiffeId = ADMIN) -> dict[str, Any]:
    """What a command that goes well answers with --json."""
    result = await keyctl(*arguments, "--json", caller=caller)
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = orjson.loads(result.stdout)
    return answer


async def test_a_key_from_its_making_to_its_end(keyctl: Keyctl) -> None:
    """Create, list, show, rotate, disable, enable, destroy: each says what has become of the key."""
    assert (
        "ecdsa-p256, version 1, enabled"
        in (await keyctl("keys", "create", "ca.one", "--algorithm", "ecdsa-p256")).output
    )
    assert (await read(keyctl, "keys", "rotate", "ca.one"))["version"] == 2
    disabled = await read(keyctl, "keys", "disable", "ca.one", "--version", "1")
    assert [version["state"] for version in disabled["versions"]] == ["disabled", "enabled"]
    assert "version 1: disabled" in (await keyctl("keys", "show", "ca.one")).output
    enabled = await read(keyctl, "keys", "enable", "ca.one", "--version", "1")
    assert [version["state"] for version in enabled["versions"]] == ["enabled", "enabled"]
    gone = await keyctl("keys", "destroy", "ca.one", "--version", "1", "--yes")
    assert "version 1: destroyed for good" in gone.output
    assert "removed" in gone.output
    listed = await read(keyctl, "keys", "list", "--tenant", "ca")
    assert [version["state"] for version in listed["keys"][0]["versions"]] == ["destroyed", "enabled"]


async def test_every_page_of_a_list_is_shown(keyctl: Keyctl, world: SignerWorld) -> None:
    """A tenant with more keys than a page holds has all of them listed, once."""
    names = [f"k{number:03}" for number in range(101)]
    client = world.client(ADMIN)
    for name in names:
        await client.create(NewKeyRequest("lab", name, "ecdsa-p256", name))
    listed = await read(keyctl, "keys", "list", "--tenant", "lab")
    assert [key["name"] for key in listed["keys"]] == names


async def test_a_key_is_not_destroyed_by_a_slip(keyctl: Keyctl, world: SignerWorld) -> None:
    """Without --yes it is asked for, and whoever does not say yes keeps the key."""
    await world.make("ca.kept")
    result = await keyctl("keys", "destroy", "ca.kept", typed="n\n")
    assert result.exit_code == 1
    assert (await read(keyctl, "keys", "show", "ca.kept"))["state"] == "enabled"


async def test_a_repetition_makes_no_second_key(keyctl: Keyctl, world: SignerWorld) -> None:
    """With one idempotency key, a rotation is done once."""
    await world.make("ca.once")
    for _ in range(2):
        key = await read(keyctl, "keys", "rotate", "ca.once", "--idempotency-key", "r1")
        assert key["version"] == 2


@pytest.mark.parametrize(
    ("algorithm", "source"),
    [("ecdsa-p384", "--digest-of"), ("rsa-2048", "--digest-of"), ("ed25519", "--message"), ("ml-dsa-44", "--mu-of")],
)
async def test_what_is_signed_verifies(keyctl: Keyctl, tmp_path: Path, algorithm: str, source: str) -> None:
    """The signature of a file verifies over the file with the key that pubkey prints."""
    (tmp_path / "data").write_bytes(b"a release")
    await keyctl("keys", "create", "lab.key", "--algorithm", algorithm)
    pem = (await keyctl("pubkey", "lab.key")).output.encode()
    result = await keyctl("sign", "lab.key", source, tmp_path / "data", "--out", tmp_path / "sig")
    assert result.exit_code == 0, result.output
    key = known_public_key(load_pem_public_key(pem))
    verify_signature(key, (tmp_path / "sig").read_bytes(), b"a release")


async def test_a_digest_that_was_taken_elsewhere_is_signed(keyctl: Keyctl, world: SignerWorld) -> None:
    """`--digest HEX` signs what sha256sum prints; the base64 on standard output is the signature, and nothing else."""
    await world.make("shop.cart")
    digest = hashlib.sha256(b"data").hexdigest()
    result = await keyctl("sign", "shop.cart", "--digest", digest, caller=SHOP)
    key = load_pem_public_key((await read(keyctl, "pubkey", "shop.cart", caller=SHOP))["public_key"].encode())
    assert isinstance(key, EllipticCurvePublicKey)
    verify_signature(key, base64.b64decode(result.stdout, validate=False), b"data")


async def test_a_signature_is_asked_for_once(keyctl: Keyctl, world: SignerWorld) -> None:
    """With one idempotency key the same signature comes back, and the device has signed once."""
    await world.make("shop.cart")
    order = ("sign", "shop.cart", "--digest", "ab" * 32, "--idempotency-key", "order-7")
    first, second = await read(keyctl, *order, caller=SHOP), await read(keyctl, *order, caller=SHOP)
    assert first == second
    assert first | {"signature": ""} == {
        "key": "shop.cart",
        "version": 1,
        "scheme": "ES256",
        "kind": "digest",
        "signature": "",
    }
    assert len(world.other.signed) == 1


@pytest.mark.parametrize(
    ("algorithm", "options", "sentence"),
    [
        ("ecdsa-p256", ("--digest", "zz"), "hexadecimal"),
        ("ecdsa-p256", ("--digest", "ab"), "32 octets"),
        ("ecdsa-p256", ("--mu", "ab" * 64), "does not sign the payload kind"),
        ("ecdsa-p256", ("--mu-of", "/dev/null"), "--digest-of"),
        ("ml-dsa-44", ("--digest-of", "/dev/null"), "--mu-of"),
        ("ed25519", ("--digest-of", "/dev/null"), "--message"),
        ("ecdsa-p256", ("--digest", "ab" * 32, "--scheme", "ES384"), "ES256"),
    ],
)
async def test_a_payload_that_the_key_does_not_take_says_which_it_takes(
    keyctl: Keyctl, world: SignerWorld, algorithm: str, options: tuple[str, ...], sentence: str
) -> None:
    """Nothing is sent to be signed, and the sentence leads on."""
    await keyctl("keys", "create", "lab.key", "--algorithm", algorithm)
    result = await keyctl("sign", "lab.key", *options)
    assert result.exit_code == 1
    assert sentence in result.stderr
    assert world.device.signed == []


@pytest.mark.parametrize("options", [(), ("--digest", "ab" * 32, "--mu", "ab" * 64)])
async def test_exactly_one_thing_is_signed(keyctl: Keyctl, options: tuple[str, ...]) -> None:
    """None or two sources are wrong usage."""
    result = await keyctl("sign", "lab.key", *options)
    assert result.exit_code == 2
    assert "give one of" in result.stderr


async def test_a_wrong_signature_is_not_handed_on(keyctl: Keyctl, world: SignerWorld, tmp_path: Path) -> None:
    """A signature by another key than pubkey showed is an error, and no file is written."""
    for name in ("lab.key", "lab.other"):
        await keyctl("keys", "create", name, "--algorithm", "ecdsa-p256")
    keys = world.device.keys
    mine, other = [label for label in keys if "key" in label], [label for label in keys if "other" in label]
    keys[mine[0]] = keys[other[0]]
    result = await keyctl("sign", "lab.key", "--digest", "ab" * 32, "--out", tmp_path / "sig")
    assert (result.exit_code, "does not verify" in result.stderr) == (1, True)
    assert not (tmp_path / "sig").exists()


async def test_a_refusal_says_where_to_look(keyctl: Keyctl, world: SignerWorld) -> None:
    """It says where a rule must stand, and by its exit status that repeating is of no use."""
    await world.make("ca.one")
    result = await keyctl("sign", "ca.one", "--digest", "ab" * 32, caller=STRANGER)
    assert result.exit_code == REFUSED
    assert "config/keys.toml" in result.stderr
    assert "Traceback" not in result.output


async def test_a_back_end_that_is_away_may_be_asked_again(keyctl: Keyctl, world: SignerWorld) -> None:
    """Its exit status differs from a refusal's, so that scripts know when to repeat."""
    await world.make("ca.one")
    world.device.fail("sign", UnavailableError("away"))
    result = await keyctl("sign", "ca.one", "--digest", "ab" * 32, caller=CA)
    assert result.exit_code == UNAVAILABLE
    assert "keyctl health" in result.stderr


async def test_an_act_waits_for_its_approval(keyctl: Keyctl) -> None:
    """Refused at first, it is done once somebody else has approved it; the requester's own approval does not count."""
    order = ("keys", "create", "vault.root", "--algorithm", "ecdsa-p256", "--backend", "device")
    what = ("create", "vault.root", "--parameter", "algorithm=ecdsa-p256", "--parameter", "backend=device")
    refused = await keyctl(*order)
    assert refused.exit_code == REFUSED
    assert "keyctl approvals approve" in refused.stderr
    await read(keyctl, "approvals", "approve", *what, caller=ADMIN)
    assert (await keyctl(*order)).exit_code == REFUSED
    given = await read(keyctl, "approvals", "approve", *what, caller=SECOND)
    assert str(SECOND) in given["approver"]
    listed = await read(keyctl, "approvals", "list", "--tenant", "vault")
    assert given in listed["approvals"]
    assert f"approved by {SECOND}," in (await keyctl("approvals", "list", "--tenant", "vault")).output
    assert (await read(keyctl, *order))["state"] == "enabled"


@pytest.mark.parametrize("parameter", ["algorithm", "=x", ""])
async def test_a_parameter_has_a_name_and_a_value(keyctl: Keyctl, parameter: str) -> None:
    """Anything else is wrong usage."""
    result = await keyctl("approvals", "approve", "create", "vault.root", "--parameter", parameter)
    assert result.exit_code == 2


async def test_an_attestation_says_whose_word_it_is(keyctl: Keyctl, world: SignerWorld) -> None:
    """A back end's own word is shown as not verified."""
    await world.make("ca.one")
    result = await keyctl("attestation", "show", "ca.one")
    assert "by module, not verified" in result.output
    assert (await read(keyctl, "attestation", "show", "ca.one"))["verified"] is False


async def test_an_attestation_that_cannot_be_verified_is_refused(
    keyctl: Keyctl, world: SignerWorld, tmp_path: Path
) -> None:
    """A file without certificate is not sent; one that signer-hsm has no roots for is refused there."""
    await world.make("ca.one")
    (tmp_path / "text").write_text("no certificate")
    result = await keyctl("attestation", "upload", "ca.one", tmp_path / "text")
    assert (result.exit_code, "holds no certificate" in result.stderr) == (1, True)


async def test_health_names_a_back_end_that_cannot_sign(keyctl: Keyctl, world: SignerWorld) -> None:
    """The exit status says so to scripts, and the line to people."""
    world.device.fail("health", UnavailableError("away"))
    result = await keyctl("health")
    assert (result.exit_code, "device: file, NOT READY" in result.output) == (UNAVAILABLE, True)


async def test_health_of_all_that_is_ready(keyctl: Keyctl) -> None:
    """Exit status 0, the policy in force beside; a caller without rules learns of no back end."""
    assert "device: file, ready" in (await keyctl("health")).output
    assert "No rule" in (await keyctl("health", caller=STRANGER)).output
    assert (await read(keyctl, "health"))["policy"]["version"] == 1


async def test_the_policy_in_force_is_the_one_that_was_hashed(keyctl: Keyctl, tmp_path: Path) -> None:
    """`policy hash FILE` and `policy show` print the same, and a policy that makes no sense is refused."""
    (tmp_path / "keys.toml").write_text(POLICY)
    hashed = (await keyctl("policy", "hash", tmp_path / "keys.toml")).output.strip()
    assert (await read(keyctl, "policy", "show"))["sha256"] == hashed
    assert hashed in (await keyctl("policy", "check", tmp_path / "keys.toml")).output
    (tmp_path / "keys.toml").write_text("version = 0")
    assert (await keyctl("policy", "check", tmp_path / "keys.toml")).exit_code == 1


@pytest.mark.parametrize("key_id", ["ca", "ca/one", "CA.one", "../x.y"])
async def test_a_name_that_is_none_is_not_sent(keyctl: Keyctl, key_id: str) -> None:
    """The sentence says how keys are called."""
    result = await keyctl("keys", "show", key_id)
    assert result.exit_code == 1
    assert "TENANT.NAME" in result.stderr
