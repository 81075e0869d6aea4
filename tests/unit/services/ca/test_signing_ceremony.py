"""Keys and certificate that the ceremony makes for the signing service, over a CA and a signer-hsm in memory."""

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from pkicore.identity import SpiffeId
from pkicore.tsp import check_authority
from pkicore.x509.certificate import load_chain, to_pem
from services.ca.errors import NotAuthorisedError
from services.ca.layout import Layout
from services.ca.remote_keys import RemoteKeyMaker
from services.ca.signer_settings import ceremony_key_policy
from services.ca.signing_ceremony import (
    artefact_certificate,
    certify_key,
    make_signing_keys,
    timestamp_certificate,
)
from services.ca.signing_settings import ARTEFACT_KEYS, KEYS, TENANTS, TIMESTAMP_KEY
from services.signer_hsm.client import ForbiddenError, NotOfferedError
from services.signing.timestamps import check_chain
from tests.support.ca_world import CaWorld
from tests.support.pki import TRUST_DOMAIN
from tests.support.signer_world import ADMIN, SignerWorld

SERVICE = SpiffeId.service(TRUST_DOMAIN, "signing")
BACKEND = "device"


@pytest.fixture
def pool() -> Iterator[Executor]:
    """For keys."""
    with ThreadPoolExecutor(1) as executor:
        yield executor


@pytest.fixture
async def signer(tmp_path: Path) -> AsyncIterator[SignerWorld]:
    """A signer-hsm under the policy of a ceremony."""
    policy = ceremony_key_policy(ADMIN, [BACKEND], TENANTS)
    opened = await SignerWorld.open(f"sqlite:///{tmp_path / 'signer.sqlite3'}", policy=policy)
    yield opened
    await opened.close()


@pytest.fixture
def layout(tmp_path: Path, world: CaWorld) -> Layout:
    """The trust directories, with the roots of the CA in them."""
    found = Layout(tmp_path / "pki")
    found.signing_trust.mkdir(parents=True)
    found.trust_bundle.write_bytes(to_pem([family.root.certificate for family in world.families.values()]))
    return found


async def test_each_key_is_made_and_its_public_half_is_there_to_trust(
    signer: SignerWorld, layout: Layout, pool: Executor
) -> None:
    """By id and algorithm; the file holds the key that signs, and each takes the payload that the policy will allow."""
    maker = RemoteKeyMaker(signer.client(ADMIN), [BACKEND], pool)
    made = await make_signing_keys(maker, layout)
    assert {key_id: key.algorithm.name for key_id, key in made.items()} == dict(KEYS)
    for key_id, key in made.items():
        assert key.uri == f"signer-hsm:{key_id}/1"
        assert load_pem_public_key(layout.signing_public_key(key_id).read_bytes()) == key.public_key
        assert key.payload_kind == ("mu" if key.algorithm.family == "mldsa" else "digest")
    assert maker.made == list(KEYS)


async def test_what_fails_later_takes_the_keys_with_it(signer: SignerWorld, layout: Layout, pool: Executor) -> None:
    """Nothing of a ceremony that failed is left in the back end."""
    maker = RemoteKeyMaker(signer.client(ADMIN), [BACKEND], pool)
    await make_signing_keys(maker, layout)
    await maker.undo(RuntimeError("the ceremony failed"))
    assert signer.device.keys == {}


async def test_a_back_end_without_mldsa_is_named(signer: SignerWorld, layout: Layout, pool: Executor) -> None:
    """The sentence says which algorithm nobody makes, and what to add."""
    signer.device.kinds = {name: kinds for name, kinds in signer.device.kinds.items() if name != "ml-dsa-65"}
    maker = RemoteKeyMaker(signer.client(ADMIN), [BACKEND], pool)
    with pytest.raises(NotOfferedError, match=r"makes ml-dsa-65 keys.*\[\[backends\]\]"):
        await make_signing_keys(maker, layout)


async def test_a_ceremony_without_it_could_not_make_them(tmp_path: Path, layout: Layout, pool: Executor) -> None:
    """The key policy of its hour knows the tenant of the CA alone."""
    world = await SignerWorld.open(
        f"sqlite:///{tmp_path / 'other.sqlite3'}", policy=ceremony_key_policy(ADMIN, [BACKEND])
    )
    try:
        with pytest.raises(ForbiddenError):
            await make_signing_keys(RemoteKeyMaker(world.client(ADMIN), [BACKEND], pool), layout)
    finally:
        await world.close()


async def test_the_time_stamping_certificate_is_one_that_verifiers_take(
    signer: SignerWorld, layout: Layout, world: CaWorld, pool: Executor
) -> None:
    """For its key, critical and for nothing else, a year long, and with the whole chain up to the root beside it."""
    keys = await make_signing_keys(RemoteKeyMaker(signer.client(ADMIN), [BACKEND], pool), layout)
    key = keys[TIMESTAMP_KEY]
    await certify_key(world.core.issuance, ADMIN, timestamp_certificate("Test", layout), key, layout)
    chain = load_chain(layout.timestamp_chain.read_bytes())
    check_chain(chain, key, world.clock.now())
    check_authority(chain[0], world.clock.now())
    usage = chain[0].extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert (usage.critical, list(usage.value)) == (True, [ExtendedKeyUsageOID.TIME_STAMPING])
    assert chain[0].subject.rfc4514_string() == "CN=Test time-stamping"
    assert (chain[0].not_valid_after_utc - world.clock.now()).days in {364, 365}
    assert chain[-1] == world.families["ecdsa"].root.certificate


async def test_artefact_keys_have_certificates_that_name_them(
    signer: SignerWorld, layout: Layout, world: CaWorld, pool: Executor
) -> None:
    """For code signing, by the family of the key, each with its chain up to the root; CMS names signers by them."""
    keys = await make_signing_keys(RemoteKeyMaker(signer.client(ADMIN), [BACKEND], pool), layout)
    for key_id in ARTEFACT_KEYS:
        await certify_key(world.core.issuance, ADMIN, artefact_certificate(key_id, layout), keys[key_id], layout)
        leaf, issuing, root = load_chain(layout.signing_chain(key_id).read_bytes())
        assert leaf.public_key() == keys[key_id].public_key
        assert leaf.subject.rfc4514_string() == f"CN=key {key_id}"
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.CODE_SIGNING]
        leaf.verify_directly_issued_by(issuing)
        issuing.verify_directly_issued_by(root)
        with pytest.raises(x509.ExtensionNotFound):  # in no log: nobody takes it for an identity
            leaf.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)


async def test_the_service_itself_gets_no_such_certificate(
    signer: SignerWorld, layout: Layout, world: CaWorld, pool: Executor
) -> None:
    """Whoever takes over the signing service cannot have a key of its own certified for a year."""
    keys = await make_signing_keys(RemoteKeyMaker(signer.client(ADMIN), [BACKEND], pool), layout)
    for wanted in (artefact_certificate(ARTEFACT_KEYS[0], layout), timestamp_certificate("Test", layout)):
        with pytest.raises(NotAuthorisedError):
            await certify_key(world.core.issuance, SERVICE, wanted, keys[ARTEFACT_KEYS[0]], layout)
