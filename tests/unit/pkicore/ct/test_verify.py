import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from sigstore._internal.sct import verify_sct as sigstore_verify_sct
from sigstore._internal.trust import CTKeyring, Keyring
from sigstore.errors import VerificationError
from sigstore_models.common import v1 as common

from pkicore.algorithms import ALGORITHMS, PrivateKey, PublicKey, generate_private_key, sign_with
from pkicore.ct import (
    PrecertificateEntry,
    SignedCertificateTimestamp,
    embed,
    encode_leaf_index,
    log_id,
    verify_embedded_sct,
    verify_sct,
)
from pkicore.errors import BadSignatureError, MalformedError, ProofError, UnsupportedError
from pkicore.tlog.frontier import Frontier
from pkicore.tlog.merkle import leaf_hash
from pkicore.tlog.proofs import inclusion_plan, verify_inclusion
from pkicore.x509.certificate import sign_certificate
from pkicore.x509.names import Names
from tests.support.pki import Hierarchy

VECTOR = json.loads((Path(__file__).parents[3] / "vectors/transparency.json").read_text())["sct"]


class Log(NamedTuple):
    """A log's key and what it does with an entry."""

    private_key: PrivateKey

    @property
    def public_key(self) -> PublicKey:
        """Its public half."""
        return self.private_key.public_key()

    def promise(self, entry: PrecertificateEntry, at: datetime, index: int = 5) -> SignedCertificateTimestamp:
        """Its timestamp for the entry."""
        timestamp, extensions = int(at.timestamp()) * 1000, encode_leaf_index(index)
        signature = sign_with(self.private_key, entry.message(timestamp, extensions))
        return SignedCertificateTimestamp.assemble(self.public_key, timestamp, extensions, signature)


@pytest.fixture(scope="module", params=["ecdsa-p256", "rsa-2048"])
def log(request: pytest.FixtureRequest) -> Log:
    """One of each kind that RFC 6962 has."""
    return Log(generate_private_key(ALGORITHMS[request.param]))


async def plain_tbs(hierarchy: Hierarchy) -> bytes:
    """What the CA would sign without a log."""
    leaf = await hierarchy.issue("server", names=Names.build(dns=["a.example"]))
    return leaf.certificate.tbs_certificate_bytes


async def certify(hierarchy: Hierarchy, tbs: bytes, *scts: SignedCertificateTimestamp) -> x509.Certificate:
    """The certificate with these timestamps in it."""
    signed = embed(tbs, scts) if scts else tbs
    return await sign_certificate(signed, hierarchy.issuing_key, hierarchy.issuing.certificate)


async def issue(hierarchy: Hierarchy, log: Log) -> x509.Certificate:
    """As a CA does it: build, have it logged, embed, sign."""
    tbs = await plain_tbs(hierarchy)
    sct = log.promise(PrecertificateEntry.of(tbs, hierarchy.issuing.certificate), hierarchy.clock.now())
    return await certify(hierarchy, tbs, sct)


def keyring(*keys: PublicKey) -> CTKeyring:
    """Sigstore's trust in these logs."""
    return CTKeyring(Keyring([_sigstore_key(key) for key in keys]))


def _sigstore_key(key: PublicKey) -> common.PublicKey:
    details = "PKIX_RSA_PKCS1V15_2048_SHA256" if isinstance(key, rsa.RSAPublicKey) else "PKIX_ECDSA_P256_SHA_256"
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return common.PublicKey.from_json(json.dumps({"rawBytes": base64.b64encode(spki).decode(), "keyDetails": details}))


async def test_a_certificate_of_ours_verifies(hierarchy: Hierarchy, log: Log) -> None:
    """Of either family, by either kind of log; the timestamp says where the entry is."""
    certificate = await issue(hierarchy, log)
    sct = verify_embedded_sct(certificate, hierarchy.issuing.certificate, log.public_key, hierarchy.clock.now())
    assert sct.leaf_index == 5


async def test_sigstore_accepts_a_certificate_of_ours(ecdsa: Hierarchy, log: Log) -> None:
    """sigstore-python's own verification, and not with another log's key."""
    certificate, chain = await issue(ecdsa, log), [ecdsa.issuing.certificate, ecdsa.root.certificate]
    sigstore_verify_sct(certificate, chain, keyring(log.public_key))
    with pytest.raises(VerificationError, match="invalid signature"):
        sigstore_verify_sct(certificate, chain, keyring(ec.generate_private_key(ec.SECP256R1()).public_key()))


async def test_the_promise_is_kept(ecdsa: Hierarchy, log: Log) -> None:
    """From certificate to log: the entry's leaf is proved to be at the index that its timestamp names."""
    certificate = await issue(ecdsa, log)
    issuer = ecdsa.issuing.certificate
    sct = verify_embedded_sct(certificate, issuer, log.public_key, ecdsa.clock.now())
    entry = PrecertificateEntry.of(certificate.tbs_certificate_bytes, issuer)
    leaf = leaf_hash(entry.leaf(sct.timestamp, sct.extensions))
    others = [leaf_hash(bytes((n,))) for n in range(8)]
    frontier, tiles = Frontier.empty().append([*others[:5], leaf, *others[5:]])
    assert sct.leaf_index is not None
    proof = inclusion_plan(sct.leaf_index, frontier.size).prove(tiles)
    verify_inclusion(leaf, sct.leaf_index, frontier.size, proof, frontier.root)


def public_certificate() -> tuple[x509.Certificate, x509.Certificate, PublicKey]:
    """A certificate of a public CA with a public log's timestamp in it: leaf, issuer, log key."""
    leaf, issuer, key = (base64.b64decode(VECTOR[name]) for name in ("certificate", "issuer", "log_key"))
    log_key = load_der_public_key(key)
    assert isinstance(log_key, ec.EllipticCurvePublicKey)
    return x509.load_der_x509_certificate(leaf), x509.load_der_x509_certificate(issuer), log_key


def test_a_public_certificate_verifies() -> None:
    """Of Sigstore's CA and CT log, from the 2024-03-19."""
    leaf, issuer, log_key = public_certificate()
    at = datetime(2024, 3, 20, tzinfo=UTC)
    assert verify_embedded_sct(leaf, issuer, log_key, at).timestamp == VECTOR["timestamp"]
    sigstore_verify_sct(leaf, [issuer], keyring(log_key))
    with pytest.raises(BadSignatureError):
        verify_embedded_sct(leaf, leaf, log_key, at)


def test_a_timestamp_from_the_future_is_refused() -> None:
    """RFC 6962 §5.2; within the second in which it was made it is of the present."""
    leaf, issuer, log_key = public_certificate()
    second = datetime.fromtimestamp(VECTOR["timestamp"] // 1000, UTC)
    assert VECTOR["timestamp"] % 1000
    verify_embedded_sct(leaf, issuer, log_key, second)
    with pytest.raises(ProofError, match="future"):
        verify_embedded_sct(leaf, issuer, log_key, second - timedelta(seconds=1))


async def test_a_certificate_without_a_timestamp_of_this_log_is_refused(ecdsa: Hierarchy, log: Log) -> None:
    """Without any, or with another log's."""
    issuer, now = ecdsa.issuing.certificate, ecdsa.clock.now()
    tbs, stranger = await plain_tbs(ecdsa), Log(generate_private_key(ALGORITHMS["ecdsa-p256"]))
    sct = stranger.promise(PrecertificateEntry.of(tbs, issuer), now)
    for certificate in (await certify(ecdsa, tbs), await certify(ecdsa, tbs, sct)):
        with pytest.raises(ProofError, match="0 timestamps of this log"):
            verify_embedded_sct(certificate, issuer, log.public_key, now)


async def test_timestamps_of_other_logs_do_no_harm(ecdsa: Hierarchy, log: Log) -> None:
    """Each log's is found among the others'; two of one log are refused."""
    issuer, now = ecdsa.issuing.certificate, ecdsa.clock.now()
    tbs, stranger = await plain_tbs(ecdsa), Log(generate_private_key(ALGORITHMS["ecdsa-p256"]))
    entry = PrecertificateEntry.of(tbs, issuer)
    both = (stranger.promise(entry, now, 1), log.promise(entry, now, 2))
    certificate = await certify(ecdsa, tbs, *both)
    assert verify_embedded_sct(certificate, issuer, log.public_key, now).leaf_index == 2
    assert verify_embedded_sct(certificate, issuer, stranger.public_key, now).leaf_index == 1
    doubled = await certify(ecdsa, tbs, both[1], both[1])
    with pytest.raises(ProofError, match="2 timestamps of this log"):
        verify_embedded_sct(doubled, issuer, log.public_key, now)


async def test_a_timestamp_does_not_carry_over(ecdsa: Hierarchy, mldsa: Hierarchy, log: Log) -> None:
    """Neither to another certificate, nor to the same bytes by another issuer's key."""
    now, issuer = ecdsa.clock.now(), ecdsa.issuing.certificate
    sct = log.promise(PrecertificateEntry.of(await plain_tbs(ecdsa), issuer), now)
    other = await certify(ecdsa, await plain_tbs(ecdsa), sct)
    with pytest.raises(BadSignatureError):
        verify_embedded_sct(other, issuer, log.public_key, now)
    with pytest.raises(BadSignatureError):
        verify_embedded_sct(await issue(ecdsa, log), mldsa.issuing.certificate, log.public_key, now)


async def test_a_timestamp_that_was_touched_is_refused(ecdsa: Hierarchy, log: Log) -> None:
    """In its time, extensions, algorithm or signature."""
    tbs, issuer, now = await plain_tbs(ecdsa), ecdsa.issuing.certificate, ecdsa.clock.now()
    entry = PrecertificateEntry.of(tbs, issuer)
    good = log.promise(entry, now)
    verify_sct(good, entry, log.public_key)
    touched = (
        replace(good, timestamp=good.timestamp - 1),
        replace(good, extensions=encode_leaf_index(6)),
        replace(good, extensions=b""),
        replace(good, algorithm=b"\x05\x03"),
        replace(good, signature=good.signature[:-1] + bytes((good.signature[-1] ^ 1,))),
    )
    for bad in touched:
        with pytest.raises(BadSignatureError):
            verify_embedded_sct(await certify(ecdsa, tbs, bad), issuer, log.public_key, now)
    stranger = Log(generate_private_key(ALGORITHMS["ecdsa-p256"]))
    with pytest.raises(BadSignatureError, match="another log's"):
        verify_sct(good, entry, stranger.public_key)


async def test_an_algorithm_that_is_not_the_keys_is_refused(ecdsa: Hierarchy, log: Log) -> None:
    """Though the signature is good: what the octets say must be what was done."""
    entry = PrecertificateEntry.of(await plain_tbs(ecdsa), ecdsa.issuing.certificate)
    good = log.promise(entry, ecdsa.clock.now())
    with pytest.raises(BadSignatureError, match="another algorithm"):
        verify_sct(replace(good, algorithm=b"\x02\x03"), entry, log.public_key)


async def test_a_log_key_of_another_kind_verifies_nothing(ecdsa: Hierarchy) -> None:
    """ML-DSA has no place in version 1, whatever the timestamp claims."""
    tbs, issuer, now = await plain_tbs(ecdsa), ecdsa.issuing.certificate, ecdsa.clock.now()
    key = generate_private_key(ALGORITHMS["ml-dsa-44"])
    template = Log(generate_private_key(ALGORITHMS["ecdsa-p256"])).promise(PrecertificateEntry.of(tbs, issuer), now)
    claimed = replace(template, log_id=log_id(key.public_key()))
    with pytest.raises(UnsupportedError):
        verify_embedded_sct(await certify(ecdsa, tbs, claimed), issuer, key.public_key(), now)


async def test_a_list_that_does_not_parse_is_refused(ecdsa: Hierarchy, log: Log) -> None:
    """A certificate signed over a list whose one entry claims an octet more than there is."""
    tbs, issuer, now = await plain_tbs(ecdsa), ecdsa.issuing.certificate, ecdsa.clock.now()
    sct = log.promise(PrecertificateEntry.of(tbs, issuer), now)
    whole = bytearray(embed(tbs, [sct]))
    whole[whole.index(sct.to_bytes()) - 1] += 1
    certificate = await sign_certificate(bytes(whole), ecdsa.issuing_key, issuer)
    with pytest.raises(MalformedError, match="ends too early"):
        verify_embedded_sct(certificate, issuer, log.public_key, now)
