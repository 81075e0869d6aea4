"""Sealed key files: their modes, their states, what survives, and what an attacker of the directory gets."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.keys.file import create_file_key
from services.signer_hsm.backends import BackendKey, KeyLabel
from services.signer_hsm.backends.file import FileBackend, open_backend
from services.signer_hsm.errors import (
    KeyNotFoundError,
    MisconfiguredError,
    NotOfferedError,
    UnavailableError,
    WrongStateError,
)
from services.signer_hsm.schemes import SCHEMES
from tests.support.backend_file import file_settings
from tests.support.clock import ManualClock
from tests.support.payloads import check_signature, payload_of

LABEL = KeyLabel("bank", "issuing", 1)
P256 = ALGORITHMS["ecdsa-p256"]
ES256 = SCHEMES["ES256"]
DIGEST = bytes(32)


@asynccontextmanager
async def file_backend(tmp_path: Path, clock: ManualClock | None = None) -> AsyncIterator[FileBackend]:
    """Over tmp_path/keys."""
    backend = await open_backend(file_settings(tmp_path), clock=clock or ManualClock())
    try:
        yield backend
    finally:
        await backend.aclose()


async def sign(backend: FileBackend, key: BackendKey) -> bytes:
    """One signature over one digest."""
    (signature,) = await backend.sign(key.handle, ES256, "digest", [DIGEST])
    assert isinstance(signature, bytes)
    return signature


async def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    """The directory has mode 0700, each key file 0600 and the name of its label; no secret is in it."""
    async with file_backend(tmp_path) as backend:
        private_key = generate_private_key(P256)
        assert isinstance(private_key, ec.EllipticCurvePrivateKey)
        await backend.import_key(LABEL, private_key)
    path, marker = sorted((tmp_path / "keys").iterdir())
    assert (path.name, marker.name) == ("bank.issuing.v1.key", "directory.id")
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    secret = private_key.private_numbers().private_value.to_bytes(32, "big")
    assert secret not in path.read_bytes()


async def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    """A second key of one label is refused, even while the first is disabled, and the first goes on."""
    async with file_backend(tmp_path) as backend:
        key = await backend.create(LABEL, P256)
        for enabled in (True, False):
            await backend.set_enabled(key.handle, enabled=enabled)
            with pytest.raises(WrongStateError):
                await backend.create(LABEL, P256)
        await backend.set_enabled(key.handle, enabled=True)
        assert (await backend.load(key.handle)).public_key == key.public_key
        await sign(backend, key)


async def test_states_outlast_a_restart(tmp_path: Path) -> None:
    """A disabled key is disabled for the next process, too."""
    async with file_backend(tmp_path) as backend:
        key = await backend.create(LABEL, P256)
        await backend.set_enabled(key.handle, enabled=False)
    async with file_backend(tmp_path) as backend:
        assert not (await backend.load(key.handle)).enabled
        with pytest.raises(WrongStateError, match="disabled"):
            await sign(backend, key)


@pytest.mark.parametrize(
    "handle",
    [
        "../bank.issuing.v1",
        "bank.issuing.v1/../../x",
        "/etc/passwd",
        "bank.issuing.v1\x00",
        "bank.issuing.v0",
        "bank.issuing.v1\n",
        "BANK.issuing.v1",
        "bank..v1",
        "a" * 5000,
    ],
)
async def test_no_handle_leads_out_of_the_directory(tmp_path: Path, handle: str) -> None:
    """A handle is a key's name or nothing; no file elsewhere is read, renamed or removed by one."""
    create_file_key(tmp_path / "bank.issuing.v1.key", P256, b"correct horse battery staple")
    async with file_backend(tmp_path) as backend:
        for act in (
            lambda: backend.load(handle),
            lambda: backend.sign(handle, ES256, "digest", [DIGEST]),
            lambda: backend.set_enabled(handle, enabled=False),
            lambda: backend.destroy(handle),
        ):
            with pytest.raises(KeyNotFoundError):
                await act()
    assert (tmp_path / "bank.issuing.v1.key").exists()


@pytest.mark.parametrize(
    "label",
    [
        KeyLabel("..", "x", 1),
        KeyLabel("bank", "../x", 1),
        KeyLabel("bank", "x", 0),
        KeyLabel("bank", "x", -1),
        KeyLabel("", "", 1),
    ],
)
async def test_no_label_leads_out_of_the_directory(tmp_path: Path, label: KeyLabel) -> None:
    """A label that is no name makes no file, and finds nothing."""
    async with file_backend(tmp_path) as backend:
        with pytest.raises(NotOfferedError):
            await backend.create(label, P256)
        assert await backend.find(label) is None
        assert [path.name for path in (tmp_path / "keys").iterdir()] == ["directory.id"]


async def test_a_destroyed_key_is_overwritten_and_gone(tmp_path: Path) -> None:
    """Destruction leaves no file, overwrites what another name still leads to, and says when and how much."""
    clock = ManualClock()
    async with file_backend(tmp_path, clock) as backend:
        key = await backend.create(LABEL, P256)
        path, link = tmp_path / "keys" / "bank.issuing.v1.key", tmp_path / "link"
        os.link(path, link)
        sealed = link.read_bytes()
        clock.advance(timedelta(hours=1))
        destruction = await backend.destroy(key.handle)
        assert not path.exists()
        left = link.read_bytes()
        assert len(left) == len(sealed)
        assert left[:16] != sealed[:16]
        assert (destruction.final, destruction.at) == (True, clock.now())
        assert destruction.proof == {
            "method": "overwritten, synced, unlinked",
            "file": "bank.issuing.v1.key",
            "octets": len(sealed),
            "directory": (tmp_path / "keys" / "directory.id").read_text().strip(),
        }
        assert destruction.found
        with pytest.raises(KeyNotFoundError):
            await sign(backend, key)
        again = await backend.destroy(key.handle)
        assert (again.final, again.found, again.proof["directory"]) == (True, False, key.evidence["directory"])


@pytest.mark.parametrize("instead", ["nothing", "empty", "another"])
async def test_of_a_directory_that_is_away_nothing_is_missing(tmp_path: Path, instead: str) -> None:
    """Not mounted, or another one in its place: no key is destroyed, missing or made there, and health says so."""
    keys, away, other = tmp_path / "keys", tmp_path / "away", KeyLabel("bank", "other", 1)
    async with file_backend(tmp_path / "second") if instead == "another" else nullcontext():
        pass
    async with file_backend(tmp_path) as backend:
        key, sealed = await backend.create(LABEL, P256), await backend.create(other, P256)
    async with file_backend(tmp_path) as backend:
        await sign(backend, key)
        keys.rename(away)
        if instead != "nothing":
            (tmp_path / "second" / "keys").rename(keys) if instead == "another" else keys.mkdir(mode=0o700)
        for act in (
            lambda: backend.destroy(key.handle),
            lambda: backend.set_enabled(key.handle, enabled=False),
            lambda: backend.load(sealed.handle),
            lambda: backend.find(other),
            lambda: sign(backend, sealed),
            lambda: backend.create(KeyLabel("bank", "new", 1), P256),
        ):
            with pytest.raises(UnavailableError):
                await act()
        assert not (await backend.health()).ready
        if instead != "nothing":
            (keys / "directory.id").unlink(missing_ok=True)
            keys.rmdir()
        away.rename(keys)
        assert (await backend.health()).ready
        assert (await backend.destroy(key.handle)).proof["file"] == "bank.issuing.v1.key"


async def test_a_directory_has_a_name_from_its_first_use_on(tmp_path: Path) -> None:
    """One with keys from before is given its name when it is opened; it keeps it; one that is no name is refused."""
    marker = tmp_path / "keys" / "directory.id"
    async with file_backend(tmp_path) as backend:
        key = await backend.create(LABEL, P256)
    marker.unlink()
    async with file_backend(tmp_path) as backend:
        named = marker.read_text().strip()
        assert (await backend.load(key.handle)).evidence["directory"] == named != key.evidence["directory"]
    async with file_backend(tmp_path) as backend:
        assert (await backend.health()).detail["directory"] == named
    marker.write_bytes(b"\xff\0")
    with pytest.raises(UnavailableError, match="damaged"):
        await open_backend(file_settings(tmp_path), clock=ManualClock())


async def test_a_disabled_key_can_be_destroyed(tmp_path: Path) -> None:
    """Destruction finds the file in either state."""
    async with file_backend(tmp_path) as backend:
        key = await backend.create(LABEL, P256)
        await backend.set_enabled(key.handle, enabled=False)
        await backend.destroy(key.handle)
        assert [path.name for path in (tmp_path / "keys").iterdir()] == ["directory.id"]


async def test_a_link_is_not_followed_into_destruction(tmp_path: Path) -> None:
    """A symbolic link in the place of a key file does not have its target overwritten."""
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    async with file_backend(tmp_path) as backend:
        (tmp_path / "keys" / "bank.issuing.v1.key").symlink_to(target)
        with pytest.raises(UnavailableError):
            await backend.destroy("bank.issuing.v1")
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize("damage", ["flipped", "garbage", "readable"])
async def test_one_bad_file_is_one_bad_key(tmp_path: Path, damage: str) -> None:
    """An altered file, or one that others may read, is refused by name; the other keys sign."""
    async with file_backend(tmp_path) as backend:
        bad, good = await backend.create(LABEL, P256), await backend.create(KeyLabel("bank", "good", 1), P256)
    path = tmp_path / "keys" / "bank.issuing.v1.key"
    if damage == "flipped":
        path.write_bytes(path.read_bytes().replace(b'"ciphertext":"', b'"ciphertext":"AAAA'))
    elif damage == "garbage":
        path.write_bytes(b"{}")
    else:
        path.chmod(0o644)
    async with file_backend(tmp_path) as backend:
        with pytest.raises(WrongStateError, match=r"bank\.issuing\.v1"):
            await sign(backend, bad)
        await sign(backend, good)


async def test_another_passphrase_does_not_start(tmp_path: Path) -> None:
    """With a passphrase that opens none of the keys the back end is not opened."""
    async with file_backend(tmp_path) as backend:
        await backend.create(LABEL, P256)
    (tmp_path / "passphrase").write_text("another one")
    with pytest.raises(MisconfiguredError, match="does not open the keys"):
        await open_backend(file_settings(tmp_path), clock=ManualClock())


async def test_an_open_directory_does_not_start(tmp_path: Path) -> None:
    """A directory or passphrase that others may read is refused with what to do."""
    settings = file_settings(tmp_path)
    settings.directory.mkdir(mode=0o755)
    with pytest.raises(MisconfiguredError, match="chmod 700"):
        await open_backend(settings, clock=ManualClock())
    settings.directory.chmod(0o700)
    settings.passphrase_file.chmod(0o644)
    with pytest.raises(MisconfiguredError, match="chmod 600"):
        await open_backend(settings, clock=ManualClock())


async def test_a_place_that_cannot_be_made(tmp_path: Path) -> None:
    """A directory that cannot be made is told as such."""
    (tmp_path / "keys").write_text("a file")
    with pytest.raises(UnavailableError):
        await open_backend(file_settings(tmp_path), clock=ManualClock())


async def test_quick_keys_sign_without_a_thread(tmp_path: Path) -> None:
    """A P-256 key in memory signs on the event loop; a long batch goes to the lane."""
    async with file_backend(tmp_path) as backend:
        key = await backend.create(LABEL, P256)
        release, running = threading.Event(), threading.Event()

        def hold() -> None:
            running.set()
            release.wait()

        holders = [asyncio.create_task(backend.lane.run(hold)) for _ in range(2)]
        await asyncio.to_thread(running.wait)
        await sign(backend, key)  # although every thread is taken
        batch = asyncio.create_task(backend.sign(key.handle, ES256, "digest", [DIGEST] * 64))
        await asyncio.sleep(0)
        assert not batch.done()
        release.set()
        assert len(await batch) == 64
        await asyncio.gather(*holders)


async def test_many_ask_for_a_sealed_key_at_once(tmp_path: Path) -> None:
    """After a restart the first signatures of many callers all come, from one unsealing."""
    async with file_backend(tmp_path) as backend:
        key = await backend.create(LABEL, ALGORITHMS["ml-dsa-65"])
    async with file_backend(tmp_path) as backend:
        scheme = SCHEMES["ML-DSA-65"]
        mu = payload_of(key.public_key, scheme, "mu", b"message")
        answers = await asyncio.gather(*(backend.sign(key.handle, scheme, "mu", [mu]) for _ in range(32)))
    for (signature,) in answers:
        check_signature(key.public_key, scheme, signature, b"message")


async def test_a_caller_that_leaves_does_not_undo_a_state(tmp_path: Path) -> None:
    """Disabling goes on when its caller gives up, and no signature comes after it."""
    async with file_backend(tmp_path) as backend:
        key = await backend.create(LABEL, P256)
        task = asyncio.create_task(backend.set_enabled(key.handle, enabled=False))
        while not (tmp_path / "keys" / "bank.issuing.v1.disabled").exists():  # noqa: ASYNC110 (a file is no event)
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with pytest.raises(WrongStateError):
            await sign(backend, key)


async def test_evidence_is_honest(tmp_path: Path) -> None:
    """A key in a file is called extractable, and its origin is told when it is made."""
    async with file_backend(tmp_path) as backend:
        made = await backend.create(LABEL, P256)
        brought = await backend.import_key(KeyLabel("bank", "old", 1), generate_private_key(P256))
        attestation = await backend.attest(made.handle)
    directory = (tmp_path / "keys" / "directory.id").read_text().strip()
    expected = {"storage": "sealed file", "extractable": True, "origin": "generated", "directory": directory}
    assert made.evidence == expected
    assert brought.evidence["origin"] == "imported"
    assert (attestation.format, attestation.by, attestation.verified) == ("attributes", "module", False)
    assert attestation.claims["extractable"] is True


async def test_keys_that_we_do_not_offer_are_not_taken_in(tmp_path: Path) -> None:
    """A key on a curve that is not in the table is refused."""
    async with file_backend(tmp_path) as backend:
        with pytest.raises(NotOfferedError):
            await backend.import_key(LABEL, ec.generate_private_key(ec.SECP256K1()))


async def test_a_directory_that_has_gone(tmp_path: Path) -> None:
    """Without its directory the back end says that it is not ready, and that new keys cannot be made now."""
    async with file_backend(tmp_path) as backend:
        shutil.rmtree(tmp_path / "keys")
        health = await backend.health()
        assert (health.ready, health.detail["problem"]) == (False, "unavailable")
        with pytest.raises(UnavailableError):
            await backend.create(LABEL, P256)
