"""A token that goes away, a PIN that is wrong, a module that is used by others: on a real SoftHSM2."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Event

import pkcs11
import pytest
from pkcs11 import TokenFlag
from prometheus_client import CollectorRegistry

from pkicore.algorithms import ALGORITHMS
from pkicore.clock import SystemClock
from services.signer_hsm.backends import Backend, BackendKey, KeyLabel
from services.signer_hsm.backends.guard import GuardedBackend
from services.signer_hsm.backends.lane import lane_of
from services.signer_hsm.backends.pkcs11 import open_backend
from services.signer_hsm.errors import BadAnswerError, KeyNotFoundError, MisconfiguredError, UnavailableError
from services.signer_hsm.metrics import SignerMetrics
from services.signer_hsm.schemes import SCHEMES
from tests.support.payloads import check_signature
from tests.support.softhsm import LABEL, PIN, SoftHsm

KEY = KeyLabel("bank", "issuing", 1)
P256 = ALGORITHMS["ecdsa-p256"]
RECOVERY_SECONDS = 10

# Another program: it prints whether the token remembers a wrong PIN; with the right PIN it makes it forget.
FLAGS = """
import os, pkcs11
token = pkcs11.lib(os.environ["SOFTHSM2_MODULE"]).get_token(token_label={label!r})
if {forget}:
    token.open(user_pin={pin!r}).close()
    token = token.slot.get_token()
print("remembered" if pkcs11.TokenFlag.USER_PIN_COUNT_LOW in token.flags else "clear")
"""
TOKEN_FLAGS = """
import os, pkcs11
print(int(pkcs11.lib(os.environ["SOFTHSM2_MODULE"]).get_token(token_label="pqcpki-test").flags))
"""
# Another program makes a P-256 key under a CKA_ID, or destroys what is there.
OTHER = """
import os, pkcs11
from pkcs11 import Attribute as A, KeyType, MechanismFlag
from pkcs11.util.ec import encode_named_curve_parameters
token = pkcs11.lib(os.environ["SOFTHSM2_MODULE"]).get_token(token_label={label!r})
session = token.open(rw=True, user_pin={pin!r})
key_id = bytes.fromhex({handle!r})
if {make}:
    curve = {{A.EC_PARAMS: encode_named_curve_parameters("secp256r1")}}
    session.create_domain_parameters(KeyType.EC, curve, local=True).generate_keypair(
        store=True, id=key_id, label="theirs", capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY)
else:
    for found in list(session.get_objects({{A.ID: key_id}})):
        found.destroy()
"""


# A service's process: it opens the back end, signs with the key, and says how often.
SERVICE = """
import asyncio
from pathlib import Path
from pkicore.clock import SystemClock
from services.signer_hsm.backends.pkcs11 import open_backend
from services.signer_hsm.backends.settings import Pkcs11Settings
from services.signer_hsm.schemes import SCHEMES
async def main():
    backend = await open_backend(Pkcs11Settings.model_validate({settings!r}), clock=SystemClock())
    signatures = await backend.sign({handle!r}, SCHEMES["ES256"], "digest", [bytes(32)] * 20)
    print("signed", sum(isinstance(signature, bytes) for signature in signatures))
    await backend.aclose()
asyncio.run(main())
"""


@pytest.fixture
async def backend(hsm: SoftHsm) -> AsyncIterator[Backend]:
    """The back end on it."""
    opened = await open_backend(hsm.settings(), clock=SystemClock())
    yield opened
    await opened.aclose()


@pytest.fixture
async def key(backend: Backend) -> BackendKey:
    """A key that has signed, so that handles are cached."""
    made = await backend.create(KEY, P256)
    await signs(backend, made)
    return made


async def signs(backend: Backend, key: BackendKey) -> None:
    """One good signature."""
    (signature,) = await backend.sign(key.handle, SCHEMES["ES256"], "digest", [sha256(b"message")])
    check_signature(key.public_key, SCHEMES["ES256"], signature, b"message")


def sha256(message: bytes) -> bytes:
    """A digest."""
    return hashlib.sha256(message).digest()


async def recovers(backend: Backend, key: BackendKey) -> None:
    """It signs again within some seconds, and nothing but UnavailableError is heard until then."""
    end = time.monotonic() + RECOVERY_SECONDS
    while True:
        try:
            return await signs(backend, key)
        except UnavailableError:
            assert time.monotonic() < end, "it has not recovered"
            await asyncio.sleep(0.1)


def cryptoki(hsm: SoftHsm) -> ctypes.CDLL:
    """The module's C functions, as another user of it in this process has them."""
    return ctypes.CDLL(str(hsm.module))


def foreign_session(hsm: SoftHsm) -> int:
    """A session that is not the back end's."""
    session = pkcs11.lib(str(hsm.module.resolve())).get_token(token_label=LABEL).open()
    return int(session.handle)  # type: ignore[attr-defined]  # the library's type stubs leave it out


async def test_a_token_that_goes_and_comes_back(backend: Backend, key: BackendKey, hsm: SoftHsm) -> None:
    """While it is away nothing is said to be missing; when it is back it signs, with no restart of ours."""
    away = hsm.home / "away"
    hsm.tokens.rename(away)
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await signs(backend, key)
        with pytest.raises(UnavailableError):
            await backend.find(KeyLabel("bank", "never-made", 1))
        with pytest.raises(UnavailableError):
            await backend.find(KEY)
        with pytest.raises(UnavailableError):
            await backend.create(KeyLabel("bank", "other", 1), P256)
        with pytest.raises(UnavailableError):
            await backend.destroy(key.handle)
        assert not (await backend.health()).ready
    away.rename(hsm.tokens)
    await recovers(backend, key)
    assert (await backend.health()).ready
    assert await backend.find(KEY) == key


async def test_many_callers_over_an_outage(backend: Backend, key: BackendKey, hsm: SoftHsm) -> None:
    """Eight callers meet an outage of a second: each gets a signature or UnavailableError, and in the end all sign."""
    away, end = hsm.home / "away", time.monotonic() + 4
    outcomes: set[str] = set()

    async def caller() -> None:
        while time.monotonic() < end:
            try:
                await signs(backend, key)
                outcomes.add("signed")
            except UnavailableError:
                outcomes.add("unavailable")
                await asyncio.sleep(0.01)

    async def outage() -> None:
        await asyncio.sleep(0.3)
        hsm.tokens.rename(away)
        await asyncio.sleep(1)
        away.rename(hsm.tokens)

    await asyncio.gather(outage(), *(caller() for _ in range(8)))
    assert outcomes == {"signed", "unavailable"}
    await recovers(backend, key)


async def test_a_token_that_is_not_there_at_first(hsm: SoftHsm) -> None:
    """The service starts without its token, offers nothing, and takes it up when it comes."""
    away = hsm.home / "away"
    hsm.tokens.rename(away)
    backend = await open_backend(hsm.settings(), clock=SystemClock())
    try:
        assert backend.offers == {}
        assert not (await backend.health()).ready
        away.rename(hsm.tokens)
        end = time.monotonic() + RECOVERY_SECONDS
        while not (await backend.health()).ready:
            assert time.monotonic() < end
            await asyncio.sleep(0.1)
        assert "ecdsa-p256" in backend.offers
        await signs(backend, await backend.create(KEY, P256))
    finally:
        await backend.aclose()


def remembers_wrong_pin(hsm: SoftHsm, *, forget: bool = False) -> bool:
    """Whether the token has the mark of a wrong PIN."""
    return hsm.python(FLAGS.format(label=LABEL, pin=PIN, forget=forget)).strip() == "remembered"


async def test_a_wrong_pin_is_tried_once(hsm: SoftHsm) -> None:
    """One attempt, then none until the PIN changes: the mark on the token does not come back once it is cleared."""
    hsm.pin_file.write_text("00000000")
    assert not remembers_wrong_pin(hsm)
    backend = await open_backend(hsm.settings(), clock=SystemClock())
    try:
        assert remembers_wrong_pin(hsm)
        assert not remembers_wrong_pin(hsm, forget=True)
        for _ in range(10):
            with pytest.raises(MisconfiguredError, match="PIN") as refusal:
                await backend.find(KEY)
            assert refusal.value.retry_after is None
            assert "00000000" not in str(refusal.value)
            health = await backend.health()
            assert (health.ready, health.detail["problem"]) == (False, "misconfigured")
        assert not remembers_wrong_pin(hsm)
        hsm.pin_file.write_text(PIN)
        await signs(backend, await backend.create(KEY, P256))
    finally:
        await backend.aclose()


def mark(hsm: SoftHsm, before: int, after: int) -> None:
    """Change the token's flags as wrong PINs change a device's: SoftHSM2 itself never locks."""
    (token_file,) = hsm.tokens.glob("*/token.object")
    content = token_file.read_bytes()
    generation, flags = content[:8], before.to_bytes(8, "big")
    assert content.count(flags) == 1
    newer = (int.from_bytes(generation, "big") + 1).to_bytes(8, "big")
    token_file.write_bytes(newer + content[8:].replace(flags, after.to_bytes(8, "big")))


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [(TokenFlag.USER_PIN_LOCKED, "PIN is locked"), (TokenFlag.USER_PIN_FINAL_TRY, "one more wrong PIN would lock")],
)
async def test_a_token_that_is_locked_or_soon_would_be(hsm: SoftHsm, flag: TokenFlag, sentence: str) -> None:
    """Not one login is tried there, whatever is asked; once an officer has cleared the token it is taken up."""
    unmarked = int(hsm.python(TOKEN_FLAGS))
    mark(hsm, unmarked, unmarked | flag)
    backend = await open_backend(hsm.settings(), clock=SystemClock())
    guard = GuardedBackend(backend, hsm.settings(), SignerMetrics(CollectorRegistry()))
    try:
        for _ in range(3):
            with pytest.raises(MisconfiguredError, match=sentence):
                await guard.find(KEY)
            health = await backend.health()
            assert (health.ready, health.detail["problem"]) == (False, "misconfigured")
        mark(hsm, unmarked | flag, unmarked)
        await signs(guard, await guard.create(KEY, P256))
        assert (await backend.health()).detail["logins"] == 1
    finally:
        await backend.aclose()


async def test_a_wrong_pin_after_an_outage_is_tried_once(backend: Backend, key: BackendKey, hsm: SoftHsm) -> None:
    """The file's PIN went wrong while the token was away: one attempt when it is back, and one for each new PIN."""
    guard = GuardedBackend(backend, hsm.settings(breaker_failures=1000), SignerMetrics(CollectorRegistry()))
    away = hsm.home / "away"
    hsm.tokens.rename(away)
    with pytest.raises(UnavailableError):
        await signs(guard, key)
    hsm.pin_file.write_text("11111111")
    away.rename(hsm.tokens)
    end = time.monotonic() + RECOVERY_SECONDS
    while time.monotonic() < end:
        try:
            await signs(guard, key)
        except MisconfiguredError:
            break
        except UnavailableError:
            await asyncio.sleep(0.1)
    assert not remembers_wrong_pin(hsm, forget=True)
    for pin in ("11111111", ""):
        hsm.pin_file.write_text(pin)
        for _ in range(3):
            with pytest.raises(MisconfiguredError):
                await signs(guard, key)
    assert not (await guard.health()).ready
    assert not remembers_wrong_pin(hsm)
    hsm.pin_file.write_text(PIN)
    await signs(guard, key)


async def test_logged_out_by_another(backend: Backend, key: BackendKey, hsm: SoftHsm) -> None:
    """Somebody in this process logs the user out: the next call logs in again and finds its key."""
    for _ in range(3):
        assert cryptoki(hsm).C_Logout(ctypes.c_ulong(foreign_session(hsm))) == 0
        await signs(backend, key)
    assert (await backend.health()).detail["logins"] == 4


async def test_creating_after_a_logout(backend: Backend, key: BackendKey, hsm: SoftHsm) -> None:
    """What must not be repeated looks first: a creation or destruction right after a logout succeeds."""
    assert cryptoki(hsm).C_Logout(ctypes.c_ulong(foreign_session(hsm))) == 0
    other = await backend.create(KeyLabel("bank", "other", 1), P256)
    await signs(backend, other)
    assert cryptoki(hsm).C_Logout(ctypes.c_ulong(foreign_session(hsm))) == 0
    assert (await backend.destroy(key.handle)).proof["objects_destroyed"] == 2


async def test_sessions_closed_underneath(backend: Backend, key: BackendKey, hsm: SoftHsm) -> None:
    """All sessions of the process closed by another: the next call opens new ones."""
    slot = pkcs11.lib(str(hsm.module.resolve())).get_token(token_label=LABEL).slot.slot_id
    for _ in range(3):
        assert cryptoki(hsm).C_CloseAllSessions(ctypes.c_ulong(slot)) == 0
        await signs(backend, key)


async def test_the_module_finalised_underneath(backend: Backend, key: BackendKey, hsm: SoftHsm) -> None:
    """C_Finalize by another, and even C_Initialize without locks after it: the back end starts the module anew."""
    assert cryptoki(hsm).C_Finalize(None) == 0
    await recovers(backend, key)
    assert cryptoki(hsm).C_Finalize(None) == 0
    assert cryptoki(hsm).C_Initialize(None) == 0
    await recovers(backend, key)


async def test_keys_made_and_destroyed_by_another_process(backend: Backend, key: BackendKey, hsm: SoftHsm) -> None:
    """A key that another process makes is found at once; one that it destroys is gone, cached or not."""
    hsm.python(OTHER.format(label=LABEL, pin=PIN, handle=key.handle, make=False))
    with pytest.raises(KeyNotFoundError):
        await signs(backend, key)
    hsm.python(OTHER.format(label=LABEL, pin=PIN, handle=key.handle, make=True))
    theirs = await backend.load(key.handle)
    assert theirs.public_key != key.public_key
    await signs(backend, theirs)


async def test_processes_that_start_at_once(backend: Backend, key: BackendKey, hsm: SoftHsm) -> None:
    """Two processes open the token at the same instant and all sign, while this one does too."""
    code = SERVICE.format(settings=hsm.settings().model_dump(mode="json"), handle=key.handle)
    printed = asyncio.gather(*(asyncio.to_thread(hsm.python, code) for _ in range(2)))
    while not printed.done():
        await signs(backend, key)
    for output in await printed:
        assert output.splitlines()[-1] == "signed 20"


async def test_two_back_ends_share_a_module(backend: Backend, key: BackendKey, hsm: SoftHsm) -> None:
    """Two tokens of one module in one process; closing one back end leaves the other as it was."""
    hsm.add_token("second")
    second = await open_backend(hsm.settings(name="second", token_label="second"), clock=SystemClock())
    same = await open_backend(hsm.settings(name="same"), clock=SystemClock())
    await recovers(backend, key)
    end = time.monotonic() + RECOVERY_SECONDS
    while not (await second.health()).ready:  # SoftHSM sees a new token only when it starts
        assert time.monotonic() < end
        await asyncio.sleep(0.1)
    other = await second.create(KEY, P256)
    assert other.public_key != key.public_key
    await signs(second, other)
    await signs(same, key)
    await second.aclose()
    await same.aclose()
    await recovers(backend, key)


async def test_closing_twice_takes_nothing_from_others(backend: Backend, key: BackendKey, hsm: SoftHsm) -> None:
    """A back end that is closed twice gives back one share of the module, not somebody else's."""
    other = await open_backend(hsm.settings(name="other"), clock=SystemClock())
    for _ in range(3):
        await other.aclose()
    await signs(backend, key)
    assert (await backend.health()).detail["logins"] == 1


async def test_a_loose_key_under_our_name(backend: Backend, key: BackendKey, hsm: SoftHsm) -> None:
    """A key that could leave the token is not taken up, though it bears the right CKA_ID."""
    loose = "capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY, private_template={{A.EXTRACTABLE: True}}"
    code = OTHER.replace("capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY", loose)
    hsm.python(code.format(label=LABEL, pin=PIN, handle=key.handle, make=False))
    hsm.python(code.format(label=LABEL, pin=PIN, handle=key.handle, make=True))
    for ask in (backend.find(KEY), backend.load(key.handle), backend.attest(key.handle)):
        with pytest.raises(BadAnswerError, match="extractable is True"):
            await ask
    assert (await backend.destroy(key.handle)).proof["objects_destroyed"] == 2


async def test_one_module_has_one_environment(backend: Backend, hsm: SoftHsm) -> None:
    """A second back end that wants the loaded module with other variables is refused, not given the wrong tokens."""
    assert backend.offers
    with pytest.raises(MisconfiguredError, match="other environment variables"):
        await open_backend(hsm.settings(environment={"SOFTHSM2_CONF": "/elsewhere"}), clock=SystemClock())


async def test_all_threads_stuck(hsm: SoftHsm) -> None:
    """When no thread comes back health says so at once, and closing does not wait for ever."""
    backend = await open_backend(hsm.settings(workers=1), clock=SystemClock())
    lane, begun, released = lane_of(backend), Event(), Event()
    assert lane is not None

    def hang() -> None:
        begun.set()
        released.wait(30)

    hanging = asyncio.create_task(lane.run(hang))
    assert await asyncio.to_thread(begun.wait, 10)
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)
    health = await asyncio.wait_for(backend.health(), 5)
    assert (health.ready, health.detail["stuck_workers"]) == (False, 1)
    assert "restart" in str(health.detail["reason"])
    released.set()
    await asyncio.wait_for(backend.aclose(), 10)


async def test_a_missing_pin_is_an_error_at_once(hsm: SoftHsm) -> None:
    """No PIN file, one that others may read, no variable: the service does not start with it."""
    with pytest.raises(MisconfiguredError, match="cannot be read"):
        await open_backend(hsm.settings(pin_file=hsm.home / "none"), clock=SystemClock())
    hsm.pin_file.chmod(0o640)
    with pytest.raises(MisconfiguredError, match="mode 0600"):
        await open_backend(hsm.settings(), clock=SystemClock())
    with pytest.raises(MisconfiguredError, match="PQCPKI_TEST_NO_SUCH_PIN"):
        await open_backend(hsm.settings(pin_file=None, pin_variable="PQCPKI_TEST_NO_SUCH_PIN"), clock=SystemClock())


async def test_a_missing_module_is_an_error_at_once(hsm: SoftHsm) -> None:
    """A module that is not there, or is no PKCS#11 module, is named in the error."""
    with pytest.raises(MisconfiguredError, match="/no/such/module"):
        await open_backend(hsm.settings(module=Path("/no/such/module.so")), clock=SystemClock())
    with pytest.raises(MisconfiguredError, match=r"softhsm2\.conf"):
        await open_backend(hsm.settings(module=hsm.configuration), clock=SystemClock())
    with pytest.raises(MisconfiguredError, match="/no/such/preload"):
        await open_backend(hsm.settings(preload=(Path("/no/such/preload.so"),)), clock=SystemClock())
