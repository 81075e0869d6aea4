"""Names, versions, public keys and refusals, from what the server says to what we take."""

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import ALGORITHMS, generate_private_key
from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.vault.keys import TransitKey, checked_handle, kinds_of, transit_type
from services.signer_hsm.errors import BadAnswerError, KeyNotFoundError, WrongStateError

EC = generate_private_key(ALGORITHMS["ecdsa-p256"]).public_key()
EC_PEM = EC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def shown(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever a server may say
    """A key as a server shows it."""
    facts: dict[str, Any] = {
        "name": "ca.issuing.v1",
        "type": "ecdsa-p256",
        "latest_version": 1,
        "min_encryption_version": 0,
        "exportable": False,
        "allow_plaintext_backup": False,
        "derived": False,
        "imported_key": False,
        "keys": {"1": {"public_key": EC_PEM, "creation_time": "2026-01-01T00:00:00Z"}},
    }
    return {**facts, **changes}


@pytest.mark.parametrize("label", [KeyLabel("ca", "issuing", 1), KeyLabel("t" * 32, "n-" * 31 + "n", 2**31 - 1)])
def test_a_label_is_a_handle(label: KeyLabel) -> None:
    """It may stand in a path."""
    assert checked_handle(str(label)) == str(label)


@pytest.mark.parametrize(
    "handle",
    [
        "",
        "ca.issuing",
        "ca.issuing.v",
        "ca.issuing.v0",
        "ca.issuing.v01",
        "ca.issuing.v-1",
        "ca.v1",
        "../x.v1",
        "ca.x/y.v1",
        "ca.issuing.v1\n",
        "ca.issuing.v12345678901",
        "CA.issuing.v1",
        "ca.issuing.v\u0661",
        "ca.issuing.v1/../2",
        "ca..x.v1",
    ],
)
def test_what_is_no_handle(handle: str) -> None:
    """Nothing of it gets into a path."""
    with pytest.raises(KeyNotFoundError):
        checked_handle(handle)


def test_a_key_in_our_words() -> None:
    """The evidence holds what tells for and against it."""
    key = TransitKey.of("ca.issuing.v1", shown()).ours()
    assert (key.handle, key.algorithm.name, key.public_key, key.enabled) == ("ca.issuing.v1", "ecdsa-p256", EC, True)
    assert key.evidence == {
        "held_by": "vault-transit",
        "transit_key": "ca.issuing.v1",
        "exportable": False,
        "allow_plaintext_backup": False,
        "derived": False,
        "imported": False,
        "creation_time": "2026-01-01T00:00:00Z",
    }


def test_of_a_key_that_was_rotated_nobody_knows_whether_it_was_imported() -> None:
    """The server says it of the latest version only, and ours is the first."""
    entry = {"public_key": EC_PEM}
    key = TransitKey.of("ca.issuing.v1", shown(keys={"1": entry, "2": {}}, latest_version=2))
    assert key.ours().public_key == EC
    assert "imported" not in key.ours().evidence
    with pytest.raises(WrongStateError):
        key.refuse_imported()


def test_a_version_that_was_trimmed_away_is_not_there() -> None:
    """Another one's public key is not taken for it."""
    key = TransitKey.of("ca.issuing.v1", shown(keys={"2": {"public_key": EC_PEM}}, latest_version=2))
    with pytest.raises(KeyNotFoundError):
        key.ours()


@pytest.mark.parametrize(
    "changes",
    [
        {"exportable": True},
        {"exportable": None},
        {"exportable": "false"},
        {"allow_plaintext_backup": True},
        {"derived": True},
        {"backup_info": {"version": 1}},
        {"restore_info": {"version": 1}},
    ],
)
def test_what_may_have_left_the_server_is_not_taken_over(changes: dict[str, Any]) -> None:
    """A flag that is not plainly false counts as set."""
    with pytest.raises(WrongStateError):
        TransitKey.of("ca.issuing.v1", shown(**changes)).refuse_leaky()


def test_a_leaky_fact_that_is_missing_counts_as_set() -> None:
    """A server that does not say is not trusted to mean no."""
    facts = shown()
    del facts["exportable"]
    key = TransitKey.of("ca.issuing.v1", facts)
    assert key.ours().evidence["exportable"] is True
    with pytest.raises(WrongStateError):
        key.refuse_leaky()


def test_soft_deleted_and_old_versions_are_not_enabled() -> None:
    """OpenBao's soft deletion, and the floor that an administrator may raise."""
    assert not TransitKey.of("ca.issuing.v1", shown(soft_deleted=True)).ours().enabled
    assert not TransitKey.of("ca.issuing.v1", shown(min_encryption_version=2)).ours().enabled


@pytest.mark.parametrize("kind", ["aes256-gcm96", "hmac", "managed_key", "ml-dsa", "mldsa-1", "ecdsa-p224", None, 7])
def test_other_types_are_refused(kind: object) -> None:
    """By their own error, for the name is taken."""
    with pytest.raises(WrongStateError):
        TransitKey.of("ca.issuing.v1", shown(type=kind))


@pytest.mark.parametrize("pem", [True, False])
@pytest.mark.parametrize("name", ["ed25519", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"])
def test_raw_and_pem_public_keys_are_read(name: str, *, pem: bool) -> None:
    """Ed25519 comes raw; of ML-DSA nobody says."""
    public_key = generate_private_key(ALGORITHMS[name]).public_key()
    raw = base64.b64encode(public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    text = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode() if pem else raw
    level = name.removeprefix("ml-dsa-")
    facts = shown(keys={"1": {"public_key": text}}, type=name)
    if name != "ed25519":
        facts |= {"type": "ml-dsa", "parameter_set": level}
    key = TransitKey.of("ca.issuing.v1", facts).ours()
    assert key.public_key == public_key
    assert key.kinds == {"message"}


@pytest.mark.parametrize("text", ["", "!", "AAAA", EC_PEM[:60], 7, None])
def test_public_keys_that_make_no_sense(text: object) -> None:
    """Thrown away."""
    with pytest.raises(BadAnswerError):
        TransitKey.of("ca.issuing.v1", shown(keys={"1": {"public_key": text}})).ours()


@pytest.mark.parametrize(
    ("name", "openbao", "vault"),
    [
        ("ecdsa-p256", {"type": "ecdsa-p256"}, {"type": "ecdsa-p256"}),
        ("ml-dsa-65", {"type": "mldsa-65"}, {"type": "ml-dsa", "parameter_set": "65"}),
    ],
)
def test_types_by_the_servers_names(name: str, openbao: dict[str, str], vault: dict[str, str]) -> None:
    """ML-DSA has two."""
    assert transit_type(ALGORITHMS[name], pure_names=True) == openbao
    assert transit_type(ALGORITHMS[name], pure_names=False) == vault


def test_transit_takes_no_mu() -> None:
    """For any algorithm."""
    assert not [name for name, row in ALGORITHMS.items() if "mu" in kinds_of(row)]
