"""Names, versions, public keys and refusals, from what the server says to what we take."""

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import ALGORITHMS, generate_private_key
from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.vault.keys import VERSIONS, TransitKey, TransitVersion, kinds_of, transit_type
from services.signer_hsm.errors import BadAnswerError, KeyNotFoundError, WrongStateError

EC = generate_private_key(ALGORITHMS["ecdsa-p256"]).public_key()
EC_PEM = EC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def shown(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever a server may say
    """A key as a server shows it."""
    facts: dict[str, Any] = {
        "name": "ca.issuing",
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


@pytest.mark.parametrize(
    ("label", "handle"),
    [
        (KeyLabel("ca", "issuing", 1), "ca.issuing:1"),
        (KeyLabel("ca", "issuing", VERSIONS), f"ca.issuing:{VERSIONS}"),
        (KeyLabel("ca", "issuing", VERSIONS + 1), "ca.issuing.1:1"),
        (KeyLabel("a", "b-", 2), "a.b-_:2"),
        (KeyLabel("a", "b-", 34), "a.b-_.1:2"),
        (KeyLabel("t" * 32, "n" * 63, 2**31 - 1), f"{'t' * 32}.{'n' * 63}.67108863:31"),
    ],
)
def test_labels_and_handles_say_the_same(label: KeyLabel, handle: str) -> None:
    """A label has one handle, and it is read back."""
    version = TransitVersion.of_label(label)
    assert str(version) == handle
    assert TransitVersion.of_handle(handle) == version


def test_no_two_labels_have_one_handle() -> None:
    """Also where names look alike."""
    names = ("a", "a-", "a--", "a-1", "1")
    labels = [KeyLabel(tenant, name, number) for tenant in ("t", "t-") for name in names for number in range(1, 100)]
    assert len({str(TransitVersion.of_label(label)) for label in labels}) == len(labels)


@pytest.mark.parametrize(
    "handle",
    [
        "",
        "ca.issuing",
        "ca.issuing:",
        "ca.issuing:0",
        "ca.issuing:01",
        "ca.issuing:-1",
        "ca:1",
        "../x:1",
        "ca.x/y:1",
        "ca.issuing:1\n",
        "ca.issuing:1234567890",
        "CA.issuing:1",
        "ca.issuing:\u0661",
        "ca.issuing:1/../2",
        "ca..x:1",
    ],
)
def test_what_is_no_handle(handle: str) -> None:
    """Nothing of it gets into a path."""
    with pytest.raises(KeyNotFoundError):
        TransitVersion.of_handle(handle)


def test_a_key_in_our_words() -> None:
    """The evidence holds what tells for and against it."""
    key = TransitKey.of("ca.issuing", shown()).version(1)
    assert (key.handle, key.algorithm.name, key.public_key, key.enabled) == ("ca.issuing:1", "ecdsa-p256", EC, True)
    assert key.evidence == {
        "held_by": "vault-transit",
        "transit_key": "ca.issuing",
        "transit_version": 1,
        "exportable": False,
        "allow_plaintext_backup": False,
        "derived": False,
        "imported": False,
        "creation_time": "2026-01-01T00:00:00Z",
    }


def test_the_tenth_version_comes_after_the_ninth() -> None:
    """Versions are numbers, though they come as text."""
    entry = {"public_key": EC_PEM}
    key = TransitKey.of("ca.issuing", shown(keys={str(n): entry for n in (10, 9, 2)}, latest_version=10))
    assert (key.oldest, key.latest) == (2, 10)


def test_of_older_versions_nobody_knows_whether_they_were_imported() -> None:
    """The server says it of the latest one only."""
    entry = {"public_key": EC_PEM}
    key = TransitKey.of("ca.issuing", shown(keys={"1": entry, "2": entry}, latest_version=2))
    assert "imported" not in key.version(1).evidence
    assert "imported" in key.version(2).evidence


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
        TransitKey.of("ca.issuing", shown(**changes)).refuse_leaky()


def test_a_leaky_fact_that_is_missing_counts_as_set() -> None:
    """A server that does not say is not trusted to mean no."""
    facts = shown()
    del facts["exportable"]
    key = TransitKey.of("ca.issuing", facts)
    assert key.version(1).evidence["exportable"] is True
    with pytest.raises(WrongStateError):
        key.refuse_leaky()


def test_soft_deleted_and_old_versions_are_not_enabled() -> None:
    """OpenBao's soft deletion, and the floor that an administrator may raise."""
    assert not TransitKey.of("ca.issuing", shown(soft_deleted=True)).version(1).enabled
    assert not TransitKey.of("ca.issuing", shown(min_encryption_version=2)).version(1).enabled


@pytest.mark.parametrize("kind", ["aes256-gcm96", "hmac", "managed_key", "ml-dsa", "mldsa-1", "ecdsa-p224", None, 7])
def test_other_types_are_refused(kind: object) -> None:
    """By their own error, for the name is taken."""
    with pytest.raises(WrongStateError):
        TransitKey.of("ca.issuing", shown(type=kind))


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
    key = TransitKey.of("ca.issuing", facts).version(1)
    assert key.public_key == public_key
    assert key.kinds == {"message"}


@pytest.mark.parametrize("text", ["", "!", "AAAA", EC_PEM[:60], 7, None])
def test_public_keys_that_make_no_sense(text: object) -> None:
    """Thrown away."""
    with pytest.raises(BadAnswerError):
        TransitKey.of("ca.issuing", shown(keys={"1": {"public_key": text}})).version(1)


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
