"""Keys and signatures in Transit, at the simulator and at a real server; each signature is verified with pyca alone."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from pkicore.algorithms import ALGORITHMS, PublicKey, generate_private_key
from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.vault import VaultBackend
from services.signer_hsm.errors import (
    DeadlineError,
    DeniedError,
    KeyNotFoundError,
    NotOfferedError,
    WrongStateError,
)
from services.signer_hsm.schemes import SCHEMES
from tests.support.backend_vault import simulated_server
from tests.support.openbao import Role, VaultServer, provision
from tests.support.vault_fixtures import MovableClock, Opener
from tests.support.vault_simulator.faults import Fault
from tests.support.vault_simulator.server import Edition, VaultSimulator

pytest_plugins = ("tests.support.vault_fixtures",)

EC = ALGORITHMS["ecdsa-p256"]
FIRST = KeyLabel("ca", "issuing", 1)
SECOND = KeyLabel("ca", "issuing", 2)
MESSAGE = b"what is to be signed"
DIGEST = hashlib.sha256(MESSAGE).digest()
HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


@pytest.fixture
async def backend(role: Role, opening: Opener) -> VaultBackend:
    """A back end that may import."""
    return await opening(role, allow_import=True)


async def sign(backend: VaultBackend, handle: str, scheme: str = "ES256") -> tuple[bytes, bytes]:
    """What was signed, and the signature."""
    chosen = SCHEMES[scheme]
    payload = MESSAGE if chosen.hash is None else hashlib.new(chosen.hash, MESSAGE).digest()
    (signature,) = await backend.sign(handle, chosen, "digest" if chosen.hash else "message", [payload])
    assert isinstance(signature, bytes)
    return payload, signature


def verify(public_key: PublicKey, scheme: str, payload: bytes, signature: bytes) -> None:
    """Raise unless the signature is by that key, in exactly that scheme."""
    chosen = SCHEMES[scheme]
    if isinstance(public_key, ec.EllipticCurvePublicKey) and chosen.hash:
        public_key.verify(signature, payload, ec.ECDSA(Prehashed(HASHES[chosen.hash])))
    elif isinstance(public_key, rsa.RSAPublicKey) and chosen.hash:
        used = HASHES[chosen.hash]
        pss = padding.PSS(padding.MGF1(used), padding.PSS.DIGEST_LENGTH)
        public_key.verify(signature, payload, padding.PKCS1v15() if chosen.padding == "pkcs1" else pss, Prehashed(used))
    else:
        public_key.verify(signature, payload)  # type: ignore[call-arg] # Ed25519 and ML-DSA


@pytest.mark.parametrize(
    ("algorithm", "schemes"),
    [
        ("ecdsa-p256", ["ES256"]),
        ("ecdsa-p384", ["ES384"]),
        ("ecdsa-p521", ["ES512"]),
        ("ed25519", ["EdDSA"]),
        ("rsa-2048", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
        ("rsa-3072", ["PS384"]),
    ],
)
async def test_each_algorithm_signs_in_its_schemes(backend: VaultBackend, algorithm: str, schemes: list[str]) -> None:
    """PSS has a salt of the digest's length, ECDSA is DER, and no digest is hashed again."""
    key = await backend.create(FIRST, ALGORITHMS[algorithm])
    for scheme in schemes:
        verify(key.public_key, scheme, *await sign(backend, key.handle, scheme))


async def test_a_batch_keeps_its_order(backend: VaultBackend) -> None:
    """Each signature belongs to the payload in its place."""
    key = await backend.create(FIRST, EC)
    digests = [hashlib.sha256(bytes([number])).digest() for number in range(64)]
    signatures = await backend.sign(key.handle, SCHEMES["ES256"], "digest", digests)
    for digest, signature in zip(digests, signatures, strict=True):
        assert isinstance(signature, bytes)
        verify(key.public_key, "ES256", digest, signature)


async def test_an_empty_batch_is_no_request(backend: VaultBackend) -> None:
    """Nothing in, nothing out."""
    key = await backend.create(FIRST, EC)
    assert await backend.sign(key.handle, SCHEMES["ES256"], "digest", []) == []


async def test_each_version_is_a_transit_key(backend: VaultBackend, vault: VaultServer) -> None:
    """Rotating makes a second one, and the first still signs; rotated by hand, one still signs."""
    first = await backend.create(FIRST, EC)
    second = await backend.create(SECOND, EC)
    assert (first.handle, second.handle) == ("ca.issuing.v1", "ca.issuing.v2")
    vault.admin("POST", f"{vault.mount}/keys/ca.issuing.v1/rotate", {})
    for key in (first, second):
        verify(key.public_key, "ES256", *await sign(backend, key.handle))
    with pytest.raises(WrongStateError):  # whether the first version was made there, nobody knows any more
        await backend.create(FIRST, EC)
    assert (await backend.load(first.handle)).public_key == first.public_key != second.public_key


async def test_creating_again_finds_the_same_key(backend: VaultBackend) -> None:
    """The version is in the label: a second creation makes nothing new."""
    first = await backend.create(FIRST, EC)
    assert (await backend.create(FIRST, EC)).public_key == first.public_key
    found = await backend.find(FIRST)
    assert found is not None
    assert found.public_key == first.public_key
    assert await backend.find(SECOND) is None


async def test_a_name_may_end_in_a_hyphen(backend: VaultBackend) -> None:
    """Transit takes no name that does; ours end in the version's number, which may be far ahead."""
    key = await backend.create(KeyLabel("ca", "a-", 1_000_000), EC)
    assert key.handle == "ca.a-.v1000000"
    verify(key.public_key, "ES256", *await sign(backend, key.handle))


@pytest.mark.parametrize(
    "planted",
    [
        {"type": "ecdsa-p384"},
        {"type": "ecdsa-p256", "exportable": True},
        {"type": "ecdsa-p256", "allow_plaintext_backup": True},
    ],
)
async def test_a_key_that_somebody_else_made_otherwise_is_not_taken_over(
    backend: VaultBackend, vault: VaultServer, planted: dict[str, Any]
) -> None:
    """Another type, or one whose private half may leave, is refused."""
    vault.admin("POST", f"{vault.mount}/keys/ca.issuing.v1", planted)
    with pytest.raises(WrongStateError):
        await backend.create(FIRST, EC)


async def test_a_key_that_became_exportable_is_not_found_for_adoption(
    backend: VaultBackend, vault: VaultServer
) -> None:
    """Its evidence says so when it is loaded."""
    key = await backend.create(FIRST, EC)
    vault.admin("POST", f"{vault.mount}/keys/ca.issuing.v1/config", {"exportable": True})
    with pytest.raises(WrongStateError):
        await backend.find(FIRST)
    with pytest.raises(WrongStateError):
        await backend.create(FIRST, EC)
    assert (await backend.load(key.handle)).evidence["exportable"] is True


async def test_an_imported_key_does_not_pass_for_one_that_was_made(backend: VaultBackend) -> None:
    """Whoever imported it may have kept a copy."""
    await backend.import_key(FIRST, generate_private_key(EC))
    with pytest.raises(WrongStateError):
        await backend.create(FIRST, EC)


async def test_kinds_that_transit_would_sign_wrongly_are_refused(backend: VaultBackend) -> None:
    """Ed25519 would sign a digest as if it were a message; nothing takes mu; a wrong length never gets there."""
    edwards = await backend.create(FIRST, ALGORITHMS["ed25519"])
    curve = await backend.create(KeyLabel("ca", "other", 1), EC)
    for handle, scheme, kind, payload in (
        (edwards.handle, "EdDSA", "digest", DIGEST),
        (edwards.handle, "EdDSA", "mu", bytes(64)),
        (curve.handle, "ES256", "message", MESSAGE),
        (curve.handle, "ES384", "digest", bytes(48)),
        (curve.handle, "ES256", "digest", bytes(31)),
    ):
        with pytest.raises(NotOfferedError):
            await backend.sign(handle, SCHEMES[scheme], kind, [payload])  # type: ignore[arg-type] # kinds as text


@pytest.mark.parametrize(
    "handle",
    ["ca.none.v1", "ca.issuing.v2", "none", "../sys/seal.v1", "ca.issuing.v0", "ca.issuing/x.v1", "ca.issuing:1"],
)
async def test_handles_that_lead_nowhere(backend: VaultBackend, handle: str) -> None:
    """Each act says that there is no such key, for one payload and for a batch."""
    await backend.create(FIRST, EC)
    for act in (
        backend.load(handle),
        backend.sign(handle, SCHEMES["ES256"], "digest", [DIGEST]),
    ):
        with pytest.raises(KeyNotFoundError):
            await act


async def test_a_version_that_was_trimmed_away_is_gone(backend: VaultBackend, vault: VaultServer) -> None:
    """An administrator may rotate a key and trim it: for one payload and for a batch it is not found."""
    key = await backend.create(FIRST, EC)
    for act, body in (
        ("rotate", {}),
        ("config", {"min_decryption_version": 2, "min_encryption_version": 2}),
        ("trim", {"min_available_version": 2}),
    ):
        vault.admin("POST", f"{vault.mount}/keys/{key.handle}/{act}", body)
    with pytest.raises(KeyNotFoundError):
        await sign(backend, key.handle)
    answers = await backend.sign(key.handle, SCHEMES["ES256"], "digest", [DIGEST, DIGEST])
    assert [type(answer) for answer in answers] == [KeyNotFoundError, KeyNotFoundError]
    with pytest.raises(KeyNotFoundError):
        await backend.load(key.handle)


async def test_a_version_below_the_least_one_is_in_the_wrong_state(backend: VaultBackend, vault: VaultServer) -> None:
    """An administrator may raise `min_encryption_version`, which Transit holds signing to."""
    key = await backend.create(FIRST, EC)
    vault.admin("POST", f"{vault.mount}/keys/ca.issuing.v1/rotate", {})
    vault.admin("POST", f"{vault.mount}/keys/ca.issuing.v1/config", {"min_encryption_version": 2})
    assert (await backend.load(key.handle)).enabled is False
    with pytest.raises(WrongStateError):
        await sign(backend, key.handle)


async def test_a_destroyed_version_is_deleted(backend: VaultBackend, vault: VaultServer) -> None:
    """It is gone at once, again is no error, and the proof names the request in the server's audit log."""
    key = await backend.create(FIRST, EC)
    destruction = await backend.destroy(key.handle)
    assert destruction.final
    assert destruction.proof["act"] == "delete"
    assert destruction.proof["vault_request_id"]
    assert vault.raw("GET", f"{vault.mount}/keys/ca.issuing.v1", token=vault.root_token).status_code == 404
    assert (await backend.destroy(key.handle)).final
    with pytest.raises(KeyNotFoundError):
        await sign(backend, key.handle)


async def test_versions_are_removed_in_any_order(backend: VaultBackend) -> None:
    """Each goes at once and finally, and the others sign on."""
    first, second, third = [await backend.create(KeyLabel("ca", "issuing", number), EC) for number in (1, 2, 3)]
    for gone in (second, third):
        assert (await backend.destroy(gone.handle)).final
        with pytest.raises(KeyNotFoundError):
            await sign(backend, gone.handle)
        verify(first.public_key, "ES256", *await sign(backend, first.handle))


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "ecdsa-p384", "rsa-2048", "ed25519"])
async def test_keys_are_imported_version_after_version(backend: VaultBackend, algorithm: str) -> None:
    """Wrapped for the server's own key, in any order and beside ones that were made there."""
    row = ALGORITHMS[algorithm]
    for label in (SECOND, FIRST):
        private_key = generate_private_key(row)
        key = await backend.import_key(label, private_key)
        assert key.public_key == private_key.public_key()
        assert key.evidence["imported"] is True
        verify(key.public_key, row.jws, *await sign(backend, key.handle, row.jws))
        assert (await backend.import_key(label, private_key)).handle == key.handle
        with pytest.raises(WrongStateError):
            await backend.import_key(label, generate_private_key(row))
    made = await backend.create(KeyLabel("ca", "issuing", 3), row)
    assert made.evidence["imported"] is False


async def test_what_vault_does_not_import_is_refused_before_it_is_sent(backend: VaultBackend) -> None:
    """Under the name of one that was made in Vault, or of an algorithm that cannot be brought in."""
    await backend.create(FIRST, EC)
    with pytest.raises(WrongStateError):
        await backend.import_key(FIRST, generate_private_key(EC))
    with pytest.raises(NotOfferedError):
        await backend.import_key(SECOND, generate_private_key(ALGORITHMS["ml-dsa-44"]))


async def test_import_must_be_allowed_here_and_there(role: Role, opening: Opener) -> None:
    """By the settings, and by the policy in Vault."""
    private_key = generate_private_key(EC)
    closed = await opening(role)
    assert closed.imports == frozenset()
    with pytest.raises(NotOfferedError):
        await closed.import_key(FIRST, private_key)
    path = f"auth/{role.server.approle}/role/signer-hsm"
    role.server.admin("POST", path, {"token_policies": [f"signer-hsm-sign-{role.server.mount}"]})
    only_signing = await opening(role, allow_import=True)
    with pytest.raises(DeniedError):
        await only_signing.import_key(FIRST, private_key)
    with pytest.raises(DeniedError):
        await only_signing.create(FIRST, EC)


async def test_disabling_is_left_to_the_service(backend: VaultBackend) -> None:
    """Transit has no such state."""
    key = await backend.create(FIRST, EC)
    await backend.set_enabled(key.handle, enabled=False)
    assert (await backend.load(key.handle)).enabled


async def test_the_attestation_is_the_servers_word(backend: VaultBackend) -> None:
    """Nothing is verified, and the claims are the evidence."""
    key = await backend.create(FIRST, EC)
    attestation = await backend.attest(key.handle)
    assert (attestation.by, attestation.verified, attestation.statement) == ("module", False, None)
    assert attestation.claims["exportable"] is False


async def test_mldsa_is_not_offered_where_the_server_has_none(role: Role, opening: Opener) -> None:
    """OpenBao 2.6 and Vault's community edition; the real server here may be newer."""
    backend = await opening(role)
    if "ml-dsa-65" in backend.offers:
        key = await backend.create(FIRST, ALGORITHMS["ml-dsa-65"])
        verify(key.public_key, "ML-DSA-65", *await sign(backend, key.handle, "ML-DSA-65"))
        return
    with pytest.raises(NotOfferedError):
        await backend.create(FIRST, ALGORITHMS["ml-dsa-65"])


@pytest.mark.parametrize("edition", ["vault-enterprise", "openbao-2.7"])
@pytest.mark.parametrize("level", ["44", "65", "87"])
async def test_mldsa_signs_messages(
    vault_clock: MovableClock, tmp_path: Path, opening: Opener, edition: Edition, level: str
) -> None:
    """Under both servers' names for it; mu is refused. Only the simulator has both."""
    with simulated_server(vault_clock, edition) as server:
        backend = await opening(provision(server, tmp_path))
        await _mldsa(backend, level)


async def _mldsa(backend: VaultBackend, level: str) -> None:
    key = await backend.create(FIRST, ALGORITHMS[f"ml-dsa-{level}"])
    assert key.kinds == {"message"}
    verify(key.public_key, f"ML-DSA-{level}", *await sign(backend, key.handle, f"ML-DSA-{level}"))
    with pytest.raises(NotOfferedError):
        await backend.sign(key.handle, SCHEMES[f"ML-DSA-{level}"], "mu", [bytes(64)])


async def test_a_lost_answer_to_a_creation_is_found_again(
    simulator: VaultSimulator, simulated_role: Role, opening: Opener
) -> None:
    """Whether it was done is unknown; the label leads to it; creating again takes it up."""
    backend = await opening(simulated_role)
    await backend.health()
    simulator.faults.add(Fault(f"{simulated_role.server.mount}/keys/ca.issuing.v1", hang_up="after", method="POST"))
    with pytest.raises(DeadlineError):
        await backend.create(FIRST, EC)
    found = await backend.find(FIRST)
    assert found is not None
    assert (await backend.create(FIRST, EC)).public_key == found.public_key
