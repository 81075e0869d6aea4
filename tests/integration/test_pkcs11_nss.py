"""ML-DSA through PKCS#11: NSS softokn, a second real module that keeps the back end portable."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias

import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa
from pkcs11.exceptions import AttributeSensitive

from pkicore.algorithms import ALGORITHMS
from pkicore.clock import SystemClock
from services.signer_hsm.backends import Backend, KeyLabel
from services.signer_hsm.backends.pkcs11 import open_backend
from services.signer_hsm.errors import MisconfiguredError, NotOfferedError
from services.signer_hsm.schemes import MAX_MESSAGE, SCHEMES
from tests.support.backend_world import WorldMissingError
from tests.support.nss_softokn import LABEL, PIN, NssSoftokn, new_nss_softokn
from tests.support.payloads import check_signature

KEY = KeyLabel("bank", "issuing", 1)
PrivateKeyType: TypeAlias = type[mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey]
PublicKeyType: TypeAlias = type[mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey]
LEVELS: dict[int, tuple[PrivateKeyType, PublicKeyType]] = {
    44: (mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey),
    65: (mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey),
    87: (mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey),
}


@pytest.fixture
def nss(tmp_path: Path) -> NssSoftokn:
    """A database of its own."""
    try:
        return new_nss_softokn(tmp_path)
    except WorldMissingError as error:
        pytest.skip(f"not run: {error}")


@pytest.fixture
async def backend(nss: NssSoftokn) -> AsyncIterator[Backend]:
    """The back end on it."""
    opened = await open_backend(nss.settings(), clock=SystemClock())
    yield opened
    await opened.aclose()


@pytest.mark.parametrize("level", LEVELS)
async def test_each_level(backend: Backend, nss: NssSoftokn, level: int) -> None:
    """A key of each level signs messages up to the largest taken, hedged, and is found again after a restart."""
    key = await backend.create(KEY, ALGORITHMS[f"ml-dsa-{level}"])
    assert isinstance(key.public_key, LEVELS[level][1])
    assert key.kinds == {"message"}
    messages = [b"", b"message", b"m" * MAX_MESSAGE, b"message"]
    signatures = await backend.sign(key.handle, SCHEMES[f"ML-DSA-{level}"], "message", messages)
    for message, signature in zip(messages, signatures, strict=True):
        check_signature(key.public_key, SCHEMES[f"ML-DSA-{level}"], signature, message)
    assert signatures[1] != signatures[3]
    await backend.aclose()
    again = await open_backend(nss.settings(), clock=SystemClock())
    assert await again.find(KEY) == key
    await again.aclose()


@pytest.mark.parametrize("level", LEVELS)
async def test_brought_in(backend: Backend, level: int) -> None:
    """An ML-DSA key made elsewhere signs as itself, and has become as unreadable as the others."""
    private = LEVELS[level][0].generate()
    key = await backend.import_key(KEY, private)
    (signature,) = await backend.sign(key.handle, SCHEMES[f"ML-DSA-{level}"], "message", [b"message"])
    assert isinstance(signature, bytes)
    private.public_key().verify(signature, b"message")
    assert (key.evidence["extractable"], key.evidence["value_refused"]) == (False, True)


async def test_neither_seed_nor_value_comes_out(backend: Backend, nss: NssSoftokn) -> None:
    """Whoever asks the module itself for the seed or the value of the key is refused."""
    key = await backend.create(KEY, ALGORITHMS["ml-dsa-65"])
    session = pkcs11.lib(str(nss.settings().module.resolve())).get_token(token_label=LABEL).open()
    (found,) = session.get_objects({pkcs11.Attribute.ID: bytes.fromhex(key.handle), pkcs11.Attribute.SIGN: True})
    for secret in (pkcs11.Attribute.SEED, pkcs11.Attribute.VALUE):
        with pytest.raises(AttributeSensitive):
            _ = found[secret]


async def test_mu_is_not_offered(backend: Backend) -> None:
    """PKCS#11 3.2 has no external mu: a typed refusal, not a signature over something else."""
    key = await backend.create(KEY, ALGORITHMS["ml-dsa-65"])
    with pytest.raises(NotOfferedError, match="mu"):
        await backend.sign(key.handle, SCHEMES["ML-DSA-65"], "mu", [b"\1" * 64])
    with pytest.raises(NotOfferedError, match="ML-DSA-87"):
        await backend.sign(key.handle, SCHEMES["ML-DSA-87"], "message", [b"message"])


async def test_what_does_not_work_is_not_offered(backend: Backend) -> None:
    """Ed25519 stands in the module's list and cannot be used through it: it is tried before it is offered."""
    assert "ed25519" not in backend.offers
    assert "ed25519" not in backend.imports
    with pytest.raises(NotOfferedError, match="ed25519"):
        await backend.create(KEY, ALGORITHMS["ed25519"])


async def test_a_wrong_pin(nss: NssSoftokn) -> None:
    """It is refused once, then no longer tried; the right one is taken up without a restart."""
    nss.pin_file.write_text("wrong-pin")
    backend = await open_backend(nss.settings(), clock=SystemClock())
    try:
        with pytest.raises(MisconfiguredError, match="PIN"):
            await backend.find(KEY)
        assert "refused this PIN" in str((await backend.health()).detail["reason"])
        nss.pin_file.write_text(PIN)
        assert await backend.find(KEY) is None
        assert (await backend.health()).detail["logins"] == 2
    finally:
        await backend.aclose()
