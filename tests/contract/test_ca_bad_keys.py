"""Keys that prove nothing, in CSRs that are in order otherwise: refused in step 1, whoever asks and for whatever."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.algorithms import PrivateKey
from pkicore.identity import SpiffeId
from pkicore.weak_keys import PublishedKeys
from services.ca.client import BadPublicKeyError, CaClient
from services.ca.wire import CertificateRequest
from tests.support.ca_world import ACME, OPERATOR, CaWorld, identifiers, server_request
from tests.support.weak_keys import close_primes_key, roca_key, small_factor_key

LEAKED = ec.generate_private_key(ec.SECP256R1())
WEAK: dict[str, tuple[Callable[[], PrivateKey], str]] = {
    "small factor": (small_factor_key, "small factor"),
    "ROCA": (roca_key, "CVE-2017-15361"),
    "close primes": (close_primes_key, "close together"),
    "exponent 3": (lambda: rsa.generate_private_key(3, 2048), "65537"),
    "1024 bits": (lambda: rsa.generate_private_key(65537, 1024), "1024"),  # noqa: S505 - to be refused
    "secp256k1": (lambda: ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
    "published": (lambda: LEAKED, "published"),
}


def published() -> PublishedKeys:
    """A list with one key."""
    x = LEAKED.public_key().public_numbers().x
    digest = hashlib.sha256(x.to_bytes((x.bit_length() + 7) // 8, "big")).digest()
    return PublishedKeys(digest[:15] + b"\1")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[CaWorld]:
    """A started CA without listeners, with a list of published keys."""
    opened = await (await CaWorld.open(tmp_path, published=published())).start()
    yield opened
    await opened.close()


@pytest.mark.parametrize("caller", [ACME, OPERATOR])
@pytest.mark.parametrize("case", list(WEAK))
async def test_bad_keys(world: CaWorld, case: str, caller: SpiffeId) -> None:
    """The problem is bad-public-key, says what is wrong with the key, and stays on record; no serial is used."""
    make, said = WEAK[case]
    key = make()
    if case in {"exponent 3", "1024 bits", "secp256k1"}:  # our own maker of CSRs knows no such keys
        request = request_by_any_key(key)
    else:
        request = server_request("a.example", key=key)
    async with world.internal(caller) as http:
        with pytest.raises(BadPublicKeyError, match=said):
            await CaClient(http).issue(request)
    assert await world.core.store.by_idempotency_key(str(caller), request.idempotency_key) is None
    async with world.internal(OPERATOR) as http:
        (refusal,) = (await http.get("/v1/ledger/refusals")).json()["refusals"]
    assert refusal["problem"] == "bad-public-key"
    assert said in refusal["detail"]


def request_by_any_key(key: PrivateKey) -> CertificateRequest:
    """A request for a.example by a key that the algorithm table does not have."""
    names = x509.SubjectAlternativeName([x509.DNSName("a.example")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    assert isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    return CertificateRequest(csr, "server", identifiers("a.example"), "odd")


async def test_good_keys_pass_beside_a_list(world: CaWorld) -> None:
    """A list of published keys refuses no other."""
    assert (await world.issue("a.example")).serial
    key = rsa.generate_private_key(65537, 2048)
    assert (await world.issue("b.example", key=key, idempotency_key="rsa")).serial


async def test_the_second_opinion() -> None:
    """The library badkeys finds in our broken keys what they are meant to have."""
    from badkeys.rsakeys import fermat, roca, smallfactors

    for make, finds in ((close_primes_key, fermat), (roca_key, roca), (small_factor_key, smallfactors)):
        assert finds(make().public_key().public_numbers().n)
        assert not finds(rsa.generate_private_key(65537, 2048).public_key().public_numbers().n)
