"""The PKCS#11 back end on a real SoftHSM2 token: what it makes, what it lets out, what others see of it."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.clock import SystemClock
from services.signer_hsm.backends import Backend, BackendKey, KeyLabel
from services.signer_hsm.backends.pkcs11 import open_backend
from services.signer_hsm.errors import (
    BackendError,
    BadPayloadError,
    KeyNotFoundError,
    MisconfiguredError,
    NotOfferedError,
    WrongStateError,
)
from services.signer_hsm.schemes import SCHEMES, check_payload
from tests.support.softhsm import LABEL, PIN, SoftHsm

MESSAGE = b"to be signed"
KEY = KeyLabel("bank", "issuing", 1)

# What another program with the PIN sees; each line that it prints is one finding.
LOOK = f"""
import os, pkcs11
from pkcs11 import Attribute as A
token = pkcs11.lib(os.environ["SOFTHSM2_MODULE"]).get_token(token_label={LABEL!r})
session = token.open(rw=True, user_pin={PIN!r})
def attempt(name, act):
    try:
        print(name, act())
    except Exception as error:
        print(name, type(error).__name__)
def change(key, attribute, value):
    key[attribute] = value
for key in session.get_objects({{A.CLASS: pkcs11.ObjectClass.PRIVATE_KEY}}):
    print("label", key[A.LABEL])
    for use in (A.SIGN, A.DECRYPT, A.UNWRAP, A.DERIVE):
        print(use.name, key[use])
    secret = A.PRIVATE_EXPONENT if key[A.KEY_TYPE] == pkcs11.KeyType.RSA else A.VALUE
    attempt("secret", lambda: key[secret])
    attempt("extractable", lambda: change(key, A.EXTRACTABLE, True))
    attempt("not sensitive", lambda: change(key, A.SENSITIVE, False))
    attempt("copy", lambda: key.copy({{A.EXTRACTABLE: True, A.SENSITIVE: False, A.TOKEN: False}}))
"""


@pytest.fixture
async def backend(hsm: SoftHsm) -> AsyncIterator[Backend]:
    """The back end on it."""
    opened = await open_backend(hsm.settings(), clock=SystemClock())
    yield opened
    await opened.aclose()


async def signature_of(backend: Backend, key: BackendKey, scheme: str, message: bytes = MESSAGE) -> bytes:
    """One signature over the message."""
    name = SCHEMES[scheme].hash
    payload = hashlib.new(name, message).digest() if name else message
    (signature,) = await backend.sign(key.handle, SCHEMES[scheme], "digest" if name else "message", [payload])
    assert isinstance(signature, bytes)
    return signature


def openssl_verifies(tmp_path: Path, key: BackendKey, digest: str, signature: bytes, *options: str) -> None:
    """Raise unless the openssl command accepts the signature."""
    (tmp_path / "key.pem").write_bytes(key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "signature").write_bytes(signature)
    (tmp_path / "message").write_bytes(MESSAGE)
    subprocess.run(
        ("openssl", "dgst", f"-{digest}", "-verify", "key.pem", "-signature", "signature", *options, "message"),
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize("size", [2048, 3072])
async def test_openssl_verifies_rsa(backend: Backend, tmp_path: Path, size: int) -> None:
    """PKCS#1 and PSS signatures of each hash are what OpenSSL takes them for; the PSS salt is as long as the digest."""
    key = await backend.create(KEY, ALGORITHMS[f"rsa-{size}"])
    for bits in (256, 384, 512):
        name = f"sha{bits}"
        openssl_verifies(tmp_path, key, name, await signature_of(backend, key, f"RS{bits}"))
        pss = ("-sigopt", "rsa_padding_mode:pss", "-sigopt", f"rsa_pss_saltlen:{bits // 8}")
        openssl_verifies(
            tmp_path, key, name, await signature_of(backend, key, f"PS{bits}"), *pss, "-sigopt", f"rsa_mgf1_md:{name}"
        )


@pytest.mark.parametrize(("algorithm", "bits"), [("ecdsa-p256", 256), ("ecdsa-p384", 384), ("ecdsa-p521", 512)])
async def test_openssl_verifies_ecdsa(backend: Backend, tmp_path: Path, algorithm: str, bits: int) -> None:
    """ECDSA signatures come as DER, whatever the leading zeros of r and s."""
    key = await backend.create(KEY, ALGORITHMS[algorithm])
    for _ in range(20):
        openssl_verifies(tmp_path, key, f"sha{bits}", await signature_of(backend, key, f"ES{bits}"))


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "ed25519", "rsa-2048"])
@pytest.mark.parametrize("imported", [False, True], ids=["generated", "imported"])
async def test_no_key_comes_out(backend: Backend, hsm: SoftHsm, algorithm: str, *, imported: bool) -> None:
    """Another program with the PIN can neither read, copy nor loosen a key, and it is good for signing only."""
    if imported:
        await backend.import_key(KEY, generate_private_key(ALGORITHMS[algorithm]))
    else:
        await backend.create(KEY, ALGORITHMS[algorithm])
    seen = dict(line.rsplit(" ", 1) for line in hsm.python(LOOK).splitlines())
    assert seen.pop("label") == "bank.issuing.v1"
    assert seen.pop("secret") == "AttributeSensitive"
    assert (seen.pop("SIGN"), seen.pop("DECRYPT"), seen.pop("UNWRAP"), seen.pop("DERIVE")) == (
        "True",
        "False",
        "False",
        "False",
    )
    refusals = {"AttributeReadOnly", "PKCS11Error", "FunctionNotSupported", "TemplateInconsistent"}
    assert set(seen.values()) <= refusals, seen


async def test_evidence_tells_an_imported_key(backend: Backend) -> None:
    """The module says which key it made and which was brought in; the attestation is its word only."""
    made = await backend.create(KEY, ALGORITHMS["ecdsa-p256"])
    brought = await backend.import_key(KeyLabel("bank", "old", 1), generate_private_key(ALGORITHMS["ecdsa-p256"]))
    assert (made.evidence["local"], made.evidence["key_gen_mechanism"]) == (True, "EC_KEY_PAIR_GEN")
    assert (brought.evidence["local"], brought.evidence["never_extractable"]) == (False, False)
    assert brought.evidence["value_refused"] is True
    word = await backend.attest(brought.handle)
    assert (word.format, word.by, word.verified, word.claims) == ("attributes", "module", False, brought.evidence)


async def test_imports_only_where_allowed(hsm: SoftHsm) -> None:
    """Without allow_import nothing is brought in, and nothing is said to be."""
    backend = await open_backend(hsm.settings(allow_import=False), clock=SystemClock())
    try:
        assert backend.imports == frozenset()
        with pytest.raises(NotOfferedError, match="do not allow"):
            await backend.import_key(KEY, generate_private_key(ALGORITHMS["ecdsa-p256"]))
    finally:
        await backend.aclose()


async def test_a_label_is_one_key(backend: Backend) -> None:
    """A second key under a label is refused, and the first one stays."""
    first = await backend.create(KEY, ALGORITHMS["ecdsa-p256"])
    with pytest.raises(WrongStateError, match=r"bank\.issuing\.v1"):
        await backend.create(KEY, ALGORITHMS["ecdsa-p384"])
    with pytest.raises(WrongStateError, match=r"bank\.issuing\.v1"):
        await backend.import_key(KEY, generate_private_key(ALGORITHMS["ecdsa-p256"]))
    assert await backend.find(KEY) == first


async def test_the_key_says_how_it_signs(backend: Backend) -> None:
    """A P-384 key does not sign a SHA-256 digest, though the module would; nor does any key a kind it does not take."""
    key = await backend.create(KEY, ALGORITHMS["ecdsa-p384"])
    with pytest.raises(NotOfferedError, match="ES256"):
        await backend.sign(key.handle, SCHEMES["ES256"], "digest", [b"\1" * 32])
    with pytest.raises(NotOfferedError, match="message"):
        await backend.sign(key.handle, SCHEMES["ES384"], "message", [MESSAGE])
    with pytest.raises(NotOfferedError, match="mu"):
        await backend.sign(key.handle, SCHEMES["ML-DSA-65"], "mu", [b"\1" * 64])


async def test_digest_lengths_are_ours_to_check(backend: Backend) -> None:
    """The module signs a digest of any length; that is why the payload is checked before it gets there."""
    key = await backend.create(KEY, ALGORITHMS["ecdsa-p256"])
    for wrong in (b"", b"\1" * 31, b"\1" * 33, b"\1" * 64):
        assert len(await backend.sign(key.handle, SCHEMES["ES256"], "digest", [wrong])) == 1
        with pytest.raises(BadPayloadError, match="32 octets"):
            check_payload(SCHEMES["ES256"], "digest", wrong)


async def test_one_bad_payload_of_many(backend: Backend) -> None:
    """A payload that the module refuses has its error in its place; the others are signed; alone it is raised."""
    key = await backend.create(KEY, ALGORITHMS["rsa-2048"])
    good, bad = b"\1" * 32, b"\1" * 300
    answers = await backend.sign(key.handle, SCHEMES["RS256"], "digest", [good, bad, good])
    assert [isinstance(answer, BackendError) for answer in answers] == [False, True, False]
    assert answers[0] == answers[2]
    with pytest.raises(BackendError):
        await backend.sign(key.handle, SCHEMES["RS256"], "digest", [bad, bad])
    assert await backend.sign(key.handle, SCHEMES["RS256"], "digest", []) == []


async def test_destroyed_is_gone_for_everybody(backend: Backend, hsm: SoftHsm) -> None:
    """Both objects go, another program sees none, a handle found before is worthless; asked again it says so again."""
    key = await backend.create(KEY, ALGORITHMS["ecdsa-p256"])
    await signature_of(backend, key, "ES256")
    destruction = await backend.destroy(key.handle)
    assert destruction.final
    assert destruction.proof["objects_destroyed"] == 2
    assert destruction.proof["objects_left"] == 0
    assert destruction.proof["token_label"] == LABEL
    assert hsm.python(LOOK) == ""
    with pytest.raises(KeyNotFoundError):
        await signature_of(backend, key, "ES256")
    assert await backend.find(KEY) is None
    again = await backend.destroy(key.handle)
    assert (again.final, again.proof["objects_destroyed"]) == (True, 0)


@pytest.mark.parametrize("handle", ["", "0" * 40, "zz" * 20, "0" * 39, "../" * 13, "A" * 40, "0" * 4000])
async def test_unknown_handles(backend: Backend, handle: str) -> None:
    """A handle that nothing answers to, well formed or not, is a key that is not there."""
    with pytest.raises(KeyNotFoundError):
        await backend.load(handle)
    with pytest.raises(KeyNotFoundError):
        await backend.sign(handle, SCHEMES["ES256"], "digest", [b"\1" * 32])


async def test_a_token_by_its_serial(hsm: SoftHsm) -> None:
    """The same token by serial number; a label that two tokens bear is refused, whichever was meant."""
    first = await open_backend(hsm.settings(), clock=SystemClock())
    serial = (await first.health()).detail["token_serial"]
    key = await first.create(KEY, ALGORITHMS["ecdsa-p256"])
    await first.aclose()
    hsm.add_token()
    ambiguous = await open_backend(hsm.settings(), clock=SystemClock())
    with pytest.raises(MisconfiguredError, match="more than one token"):
        await ambiguous.load(key.handle)
    await ambiguous.aclose()
    by_serial = await open_backend(hsm.settings(token_label="", token_serial=serial), clock=SystemClock())
    assert (await by_serial.load(key.handle)).evidence == key.evidence
    await by_serial.aclose()


async def test_health_tells_the_token(backend: Backend) -> None:
    """Health names token and firmware, counts logins and threads, and has no PIN in it."""
    health = await backend.health()
    assert health.ready
    assert {"token_label", "token_serial", "model", "firmware", "logins", "workers"} <= health.detail.keys()
    assert health.detail["logins"] == 1
    assert PIN not in str(health)
