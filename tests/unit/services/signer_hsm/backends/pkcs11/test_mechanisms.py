import pytest
from pkcs11 import MGF, Mechanism

from services.signer_hsm.backends.pkcs11.mechanisms import ML_DSA_EXTERNAL_MU, RECIPES, offers_of
from services.signer_hsm.schemes import SCHEMES

EC = {Mechanism.EC_KEY_PAIR_GEN, Mechanism.ECDSA}
RSA = {Mechanism.RSA_PKCS_KEY_PAIR_GEN, Mechanism.RSA_PKCS, Mechanism.RSA_PKCS_PSS}
ED = {Mechanism.EC_EDWARDS_KEY_PAIR_GEN, Mechanism.EDDSA}
ML = {Mechanism.ML_DSA_KEY_PAIR_GEN, Mechanism.ML_DSA}


@pytest.mark.parametrize(
    ("mechanisms", "names"),
    [
        (EC, {"ecdsa-p256", "ecdsa-p384", "ecdsa-p521"}),
        (RSA, {"rsa-2048", "rsa-3072", "rsa-4096"}),
        (ED, {"ed25519"}),
        (ML, {"ml-dsa-44", "ml-dsa-65", "ml-dsa-87"}),
        ({Mechanism.ECDSA, Mechanism.EDDSA, Mechanism.ML_DSA, Mechanism.RSA_PKCS}, set()),
        (RSA - {Mechanism.RSA_PKCS_PSS}, set()),
        (set(), set()),
    ],
)
def test_offers_need_generation_and_signature(mechanisms: set[int], names: set[str]) -> None:
    """An algorithm is offered when the token both makes its keys and signs with them in every scheme."""
    assert set(offers_of(mechanisms)) == names


def test_kinds_of_the_offers() -> None:
    """Digests for ECDSA and RSA, messages for the rest."""
    offers = offers_of(EC | RSA | ED | ML)
    assert {name for name, kinds in offers.items() if kinds == {"digest"}} == {
        "ecdsa-p256",
        "ecdsa-p384",
        "ecdsa-p521",
        "rsa-2048",
        "rsa-3072",
        "rsa-4096",
    }
    assert offers["ed25519"] == offers["ml-dsa-65"] == {"message"}


def test_mu_only_where_it_is_listed() -> None:
    """The external-mu mechanism, unknown to the library, adds a kind to ML-DSA and to nothing else."""
    offers = offers_of(ED | ML | {ML_DSA_EXTERNAL_MU})
    assert offers["ml-dsa-44"] == offers["ml-dsa-87"] == {"message", "mu"}
    assert offers["ed25519"] == {"message"}
    assert offers_of({ML_DSA_EXTERNAL_MU}) == {}


def test_sizes_that_the_token_does_not_reach() -> None:
    """A token that says its largest key is asked for no larger one."""
    offers = offers_of(EC | RSA, {Mechanism.EC_KEY_PAIR_GEN: 384, Mechanism.RSA_PKCS_KEY_PAIR_GEN: 3072})
    assert set(offers) == {"ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072"}


def test_every_scheme_has_a_recipe() -> None:
    """Each scheme signs the kind that is natural to it, and ML-DSA mu beside."""
    natural = {(name, "digest" if scheme.hash else "message") for name, scheme in SCHEMES.items()}
    assert set(RECIPES) == natural | {(f"ML-DSA-{level}", "mu") for level in (44, 65, 87)}


@pytest.mark.parametrize(
    ("name", "hash_", "mask", "octets"),
    [
        ("PS256", Mechanism.SHA256, MGF.SHA256, 32),
        ("PS384", Mechanism.SHA384, MGF.SHA384, 48),
        ("PS512", Mechanism.SHA512, MGF.SHA512, 64),
    ],
)
def test_pss_parameters(name: str, hash_: Mechanism, mask: MGF, octets: int) -> None:
    """PSS says its hash, MGF1 with the same one, and a salt of the digest's length; the library's default is SHA-1."""
    recipe = RECIPES[name, "digest"]
    assert (recipe.mechanism, recipe.parameter) == (Mechanism.RSA_PKCS_PSS, (hash_, mask, octets))


@pytest.mark.parametrize(("name", "octets", "last_arc"), [("RS256", 32, 1), ("RS384", 48, 2), ("RS512", 64, 3)])
def test_digest_info(name: str, octets: int, last_arc: int) -> None:
    """The DigestInfo prefix is DER that names its hash and leaves room for exactly the digest (RFC 8017 §9.2)."""
    prefix = RECIPES[name, "digest"].prefix
    assert prefix[:2] == bytes([0x30, len(prefix) - 2 + octets])
    assert prefix[-2:] == bytes([0x04, octets])
    assert prefix[6:15] == bytes.fromhex("60864801650304") + bytes([2, last_arc])


def test_the_unnamed_mechanism_keeps_its_number() -> None:
    """What the library has no name for reaches the module as the number that it is."""
    recipe = RECIPES["ML-DSA-65", "mu"]
    assert int(recipe.mechanism) == ML_DSA_EXTERNAL_MU
    assert isinstance(recipe.mechanism, Mechanism)
