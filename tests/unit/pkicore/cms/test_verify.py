"""What a dishonest signer, courier or stripper can send, and what foreign signers do send."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from pkicore.algorithms import sign_with
from pkicore.clock import SystemClock
from pkicore.cms import (
    ID_DATA,
    MAX_CMS_BYTES,
    MAX_SIGNERS,
    SignerInfo,
    UnverifiedSignedData,
    all_digests,
    assemble,
    signed_attributes,
    verify_detached,
    verify_signed_data,
)
from pkicore.encoding import NULL, explicit, integer, object_identifier, octet_string, sequence, tlv
from pkicore.errors import (
    BadCertificateError,
    BadSignatureError,
    MalformedError,
    PkiError,
    UnsupportedError,
)
from tests.support.cms_forgery import (
    ALGORITHM_PROTECTION,
    CONTENT_TYPE,
    DATA,
    MESSAGE_DIGEST,
    SHA256,
    SHA512,
    algorithm,
    attribute,
    attributes_of,
    certificate_binding,
    der_of,
    implicit,
    issuer_and_serial,
    signed_data,
    signer_info,
)
from tests.support.openssl import openssl
from tests.support.signing_pki import EMAIL_PROTECTION, Holder, SigningPki, key_usage

CONTENT = b"the artefact\n"
PKI = SigningPki.make("ecdsa-p256", SystemClock().now())
SIGNER = PKI.issue("ecdsa-p256", EMAIL_PROTECTION)
QUANTUM_SAFE = PKI.issue("ml-dsa-65", EMAIL_PROTECTION)
ATTRIBUTES = attributes_of(CONTENT)
ECDSA_SHA256 = "1.2.840.10045.4.3.2"
TST_INFO = "1.2.840.113549.1.9.16.1.4"


def forged(info: bytes, holder: Holder = SIGNER) -> bytes:
    """Detached SignedData around a SignerInfo."""
    return signed_data([info], der_of(holder))


def honest(*holders: Holder, content: bytes = CONTENT) -> bytes:
    """What `assemble` makes."""
    infos = []
    for holder in holders:
        attributes = signed_attributes(holder.certificate, all_digests(content), signing_time=PKI.now)
        infos.append(SignerInfo(attributes, sign_with(holder.private_key, attributes.message)))
    return assemble(infos)


GOOD = honest(SIGNER)


def test_the_forger_can_make_good_ones() -> None:
    """Otherwise the tests below would show nothing: with its defaults, what it makes is believed."""
    (found,) = verify_detached(forged(signer_info(SIGNER, ATTRIBUTES)), CONTENT)
    assert found.certificate == SIGNER.certificate
    assert found.signing_time is None
    assert not found.certificate_is_signed


@pytest.mark.parametrize("content", [b"", CONTENT + b"\x00", CONTENT[:-1], all_digests(b"other")])
def test_another_content_is_not_believed(content: bytes | dict[str, bytes]) -> None:
    """Whether it is given whole or as digests."""
    with pytest.raises(BadSignatureError, match="another content"):
        verify_detached(GOOD, content)


def test_digests_do_instead_of_the_content() -> None:
    """The needed one suffices; without it nothing is believed, whatever else is given."""
    verify_detached(GOOD, {"sha256": hashlib.sha256(CONTENT).digest()})
    with pytest.raises(UnsupportedError, match="needs the sha256 digest"):
        verify_detached(GOOD, {"sha512": hashlib.sha512(CONTENT).digest()})
    with pytest.raises(BadSignatureError):
        verify_detached(GOOD, {"sha256": b""})


def test_swapped_attributes_are_not_believed() -> None:
    """Those of another signature by the same key, around this signature; and the digest replaced after signing."""
    other = honest(SIGNER, content=b"other")
    ours, theirs = (UnverifiedSignedData.parse(der).signers[0] for der in (GOOD, other))
    for swapped in (
        GOOD.replace(ours.message[1:], theirs.message[1:]),
        GOOD.replace(ours.message_digest, theirs.message_digest),
    ):
        assert swapped != GOOD
        with pytest.raises(BadSignatureError):
            verify_detached(swapped, b"other")


def test_a_stripped_signature_is_missed_by_name() -> None:
    """Whoever names both certificates notices; the one that is left still counts for itself."""
    both = [SIGNER.certificate, QUANTUM_SAFE.certificate]
    assert len(verify_detached(honest(SIGNER, QUANTUM_SAFE), CONTENT, signers=both)) == 2
    for holder in (SIGNER, QUANTUM_SAFE):
        assert len(verify_detached(honest(holder), CONTENT)) == 1
        with pytest.raises(BadSignatureError, match="no signature by the certificate"):
            verify_detached(honest(holder), CONTENT, signers=both)


def test_a_doubled_signature_is_one() -> None:
    """The first signer twice does not make up for the second."""
    info = signer_info(SIGNER, ATTRIBUTES)
    der = signed_data([info, info], der_of(SIGNER, QUANTUM_SAFE))
    with pytest.raises(BadSignatureError, match="no signature by"):
        verify_detached(der, CONTENT, signers=[SIGNER.certificate, QUANTUM_SAFE.certificate])


def test_one_bad_signature_among_good_ones_spoils_all() -> None:
    """Every signer that is there must have signed, named or not."""
    good, bad = signer_info(SIGNER, ATTRIBUTES), signer_info(SIGNER, attributes_of(b"other"))
    with pytest.raises(BadSignatureError):
        verify_detached(signed_data([good, bad], der_of(SIGNER)), CONTENT)


def test_a_certificate_need_not_travel() -> None:
    """Whoever has it may name it; nobody else can say who signed."""
    der = signed_data([signer_info(SIGNER, ATTRIBUTES)], [])
    assert verify_detached(der, CONTENT, signers=[SIGNER.certificate])[0].certificate == SIGNER.certificate
    for enclosed in ([], der_of(QUANTUM_SAFE)):
        with pytest.raises(BadCertificateError, match="is not there"):
            verify_detached(signed_data([signer_info(SIGNER, ATTRIBUTES)], enclosed), CONTENT)


def test_the_signature_is_by_the_named_certificate() -> None:
    """A stranger who signs in the name of a certificate has not its key."""
    info = signer_info(PKI.issue("ecdsa-p256", None), ATTRIBUTES, signer=issuer_and_serial(SIGNER))
    with pytest.raises(BadSignatureError):
        verify_detached(forged(info), CONTENT)


def _by_key_identifier(holder: Holder) -> bytes:
    identifier = holder.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    return tlv(0x80, identifier)


def test_a_certificate_swapped_for_one_of_the_same_key_is_noticed() -> None:
    """What RFC 5035 is for: the same key certified twice, and the signature meant the other one."""
    twin = PKI.certify(SIGNER.private_key, None)
    attributes = [*ATTRIBUTES, certificate_binding(SIGNER)]
    info = signer_info(SIGNER, attributes, signer=_by_key_identifier(SIGNER))
    assert verify_detached(forged(info), CONTENT)[0].certificate_is_signed
    with pytest.raises(BadSignatureError, match="another certificate"):
        verify_detached(forged(info, twin), CONTENT)


@pytest.mark.parametrize(
    "attributes",
    [
        [attribute(CONTENT_TYPE, object_identifier(TST_INFO)), ATTRIBUTES[1]],
        [ATTRIBUTES[0], attribute(MESSAGE_DIGEST, octet_string(hashlib.sha256(b"other").digest()))],
        [ATTRIBUTES[0], attribute(MESSAGE_DIGEST, octet_string(b""))],
        [*ATTRIBUTES, certificate_binding(SIGNER, digest=bytes(32))],
        [*ATTRIBUTES, certificate_binding(SIGNER, hash_oid=SHA512)],
    ],
    ids=["content type", "digest", "empty digest", "certificate", "certificate hash"],
)
def test_signed_lies_are_not_believed(attributes: list[bytes]) -> None:
    """The signature holds, but what it covers is not what is claimed."""
    with pytest.raises(BadSignatureError):
        verify_detached(forged(signer_info(SIGNER, attributes)), CONTENT)


def _protection(*members: bytes) -> list[bytes]:
    return [*ATTRIBUTES, attribute(ALGORITHM_PROTECTION, sequence(*members))]


ECDSA = algorithm(ECDSA_SHA256)
BOTH_TYPES = (object_identifier(DATA), object_identifier(TST_INFO))


@pytest.mark.parametrize(
    "attributes",
    [
        [],
        ATTRIBUTES[:1],
        ATTRIBUTES[1:],
        [*ATTRIBUTES, ATTRIBUTES[1]],
        [*ATTRIBUTES, attribute(MESSAGE_DIGEST, octet_string(bytes(32)))],
        [attribute(CONTENT_TYPE, *BOTH_TYPES), ATTRIBUTES[1]],
        [attribute(CONTENT_TYPE), ATTRIBUTES[1]],
        [ATTRIBUTES[0], attribute(MESSAGE_DIGEST, integer(1))],
        [attribute(CONTENT_TYPE, octet_string(b"x")), ATTRIBUTES[1]],
        [*ATTRIBUTES, *(attribute(f"1.2.3.{arc}", NULL) for arc in range(40))],
        _protection(algorithm(SHA512), implicit(1, ECDSA)),
        _protection(algorithm(SHA256), implicit(1, algorithm("1.2.840.10045.4.3.4"))),
        _protection(algorithm(SHA256)),
        [*ATTRIBUTES, attribute("1.2.840.113549.1.9.16.2.47", sequence(sequence()))],
    ],
)
def test_attributes_that_mean_two_things_or_nothing_are_refused(attributes: list[bytes]) -> None:
    """Missing, given twice, with two values or none, of another type, too many, or lying about the algorithms."""
    with pytest.raises(MalformedError):
        verify_detached(forged(signer_info(SIGNER, attributes)), CONTENT)


def test_signatures_without_attributes_are_refused() -> None:
    """Over the content alone; else a content that looks like attributes could be signed and replayed as such."""
    with pytest.raises(MalformedError, match="without signed attributes"):
        verify_detached(forged(signer_info(SIGNER, None, content=CONTENT)), CONTENT)


def test_attributes_out_of_order_are_refused() -> None:
    """They are signed in DER; sent in another order they could be read in two ways."""
    unordered = sorted(ATTRIBUTES, reverse=True)
    with pytest.raises(MalformedError, match="order"):
        verify_detached(forged(signer_info(SIGNER, unordered, in_order=False)), CONTENT)


@pytest.mark.parametrize(
    ("holder", "digest", "signature"),
    [
        (SIGNER, algorithm("1.3.14.3.2.26"), None),
        (SIGNER, algorithm("1.2.840.113549.2.5"), None),
        (SIGNER, algorithm(SHA256, integer(1)), None),
        (SIGNER, None, algorithm("1.2.840.10045.4.1")),
        (SIGNER, None, algorithm("1.2.840.10045.4.3.4")),
        (SIGNER, None, algorithm(ECDSA_SHA256, sequence())),
        (SIGNER, None, algorithm("2.16.840.1.101.3.4.3.18")),
        (QUANTUM_SAFE, None, ECDSA),
        (QUANTUM_SAFE, None, None),
    ],
)
def test_other_algorithms_are_refused(holder: Holder, digest: bytes | None, signature: bytes | None) -> None:
    """SHA-1, MD5, parameters, an algorithm of another key; and SHA-256 beside ML-DSA-65 (RFC 9882 §3.3)."""
    info = signer_info(holder, ATTRIBUTES, digest_algorithm=digest, signature_algorithm=signature)
    with pytest.raises(UnsupportedError):
        verify_detached(forged(info, holder), CONTENT)


def test_null_parameters_of_a_hash_are_allowed() -> None:
    """RFC 5754 §2: implementations must accept them."""
    info = signer_info(SIGNER, ATTRIBUTES, digest_algorithm=algorithm(SHA256, NULL))
    verify_detached(forged(info), CONTENT)


def test_the_certificate_must_be_for_signatures() -> None:
    """A key for encipherment signs nothing that is believed; without the extension nothing is forbidden."""
    wrong = PKI.issue("ecdsa-p256", None, extra=[(key_usage(digital_signature=False), True)])
    with pytest.raises(BadCertificateError, match="not for signatures"):
        verify_detached(forged(signer_info(wrong, ATTRIBUTES), wrong), CONTENT)


def _of_type(oid: str, content: bytes | None) -> bytes:
    return object_identifier(oid) + (b"" if content is None else explicit(0, octet_string(content)))


@pytest.mark.parametrize("version", [1, 3])
def test_content_of_another_type_is_not_taken_for_data(version: int) -> None:
    """A time-stamp token or anything else is no signature of an artefact, detached or not, in either version."""
    info = signer_info(SIGNER, attributes_of(CONTENT, TST_INFO))
    der = signed_data([info], der_of(SIGNER), encapsulated=_of_type(TST_INFO, None), version=version)
    with pytest.raises(PkiError):
        verify_detached(der, CONTENT)
    inside = signed_data([info], der_of(SIGNER), encapsulated=_of_type(TST_INFO, CONTENT), version=3)
    found = UnverifiedSignedData.parse(inside)
    assert (found.content_type, found.content) == (TST_INFO, CONTENT)
    with pytest.raises(BadSignatureError, match="of type"):
        verify_signed_data(found, all_digests(CONTENT), content_type=ID_DATA)


def test_a_content_inside_is_not_overlooked() -> None:
    """A detached signature with a content of its own would show one thing and vouch for another."""
    info = signer_info(SIGNER, ATTRIBUTES)
    for content in (CONTENT, b"other", b""):
        der = signed_data([info], der_of(SIGNER), encapsulated=_of_type(DATA, content))
        with pytest.raises(MalformedError, match="content of its own"):
            verify_detached(der, CONTENT)


@pytest.mark.parametrize("outer", ["1.2.840.113549.1.7.3", "1.2.840.113549.1.7.5", "1.2.840.113549.1.7.1", "1.2.3"])
def test_other_kinds_of_cms_are_refused(outer: str) -> None:
    """EnvelopedData, DigestedData, Data and the unknown are no signatures."""
    with pytest.raises(PkiError):
        verify_detached(signed_data([signer_info(SIGNER, ATTRIBUTES)], der_of(SIGNER), outer=outer), CONTENT)


def _indefinite(der: bytes) -> bytes:
    """The outermost SEQUENCE with a length that is told by its end (BER)."""
    return b"\x30\x80" + der[4:] + b"\x00\x00"


def _long_length(der: bytes) -> bytes:
    return b"\x30\x83\x00" + der[2:]


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x00",
        b"\x30\x00",
        GOOD[:-1],
        GOOD + b"\x00",
        GOOD + GOOD,
        _indefinite(GOOD),
        _long_length(GOOD),
        b"-----BEGIN CMS-----\n",
        signed_data([], der_of(SIGNER)),
        signed_data([signer_info(SIGNER, ATTRIBUTES)] * (MAX_SIGNERS + 1), der_of(SIGNER)),
        signed_data([signer_info(SIGNER, ATTRIBUTES)], der_of(SIGNER) * 33),
        signed_data([signer_info(SIGNER, ATTRIBUTES) + NULL], der_of(SIGNER)),
        signed_data([signer_info(SIGNER, ATTRIBUTES)], [b"\x30\x03\x02\x01\x00"]),
        signed_data([signer_info(SIGNER, ATTRIBUTES)], der_of(SIGNER), encapsulated=object_identifier(DATA) + NULL),
        signed_data([signer_info(SIGNER, ATTRIBUTES)], der_of(SIGNER), encapsulated=b""),
        tlv(0x30, bytes(MAX_CMS_BYTES)),
        b"\x30" * 60,
    ],
)
def test_what_is_no_signed_data_is_refused(der: bytes) -> None:
    """BER, bytes behind, too many of anything, strange members, too large."""
    with pytest.raises(MalformedError):
        verify_detached(der, CONTENT)


@pytest.mark.parametrize("version", [0, 2, 4, 5, 17])
def test_other_versions_are_refused(version: int) -> None:
    """Version 1 and 3 are all that signatures by X.509 certificates have (RFC 5652 §5.1)."""
    with pytest.raises(PkiError):
        verify_detached(signed_data([signer_info(SIGNER, ATTRIBUTES)], der_of(SIGNER), version=version), CONTENT)


# cryptography warns of some altered certificates, as of a negative serial number, before they are refused here.
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(st.data())
def test_an_altered_byte_is_refused_or_harmless(data: st.DataObject) -> None:
    """Whatever is altered, nothing but our own errors is raised, and nobody else is said to have signed."""
    index = data.draw(st.integers(0, len(GOOD) - 1))
    altered = GOOD[:index] + bytes([GOOD[index] ^ data.draw(st.integers(1, 255))]) + GOOD[index + 1 :]
    try:
        (found,) = verify_detached(altered, CONTENT)
    except PkiError:
        return
    assert found.certificate == SIGNER.certificate


@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    """Alone and inside a frame that looks right."""
    for der in (noise, sequence(object_identifier("1.2.840.113549.1.7.2"), explicit(0, sequence(noise)))):
        with pytest.raises(PkiError):
            verify_detached(der, CONTENT)


@pytest.mark.parametrize("algorithm_name", ["ecdsa-p256", "rsa-2048"])
@pytest.mark.parametrize("options", [[], ["-keyid"], ["-cades"], ["-nosmimecap"]])
def test_signatures_of_openssl_are_believed(algorithm_name: str, options: list[str], tmp_path: Path) -> None:
    """Named by issuer or key, with or without the certificate's hash; RSA goes by the name rsaEncryption there."""
    holder = PKI.issue(algorithm_name, EMAIL_PROTECTION)
    certificate, key = holder.write(tmp_path, "signer")
    (tmp_path / "content").write_bytes(CONTENT)
    files: list[str | Path] = [
        "-in",
        tmp_path / "content",
        "-signer",
        certificate,
        "-inkey",
        key,
        "-out",
        tmp_path / "signature",
    ]
    openssl("cms", "-sign", "-binary", "-outform", "DER", "-md", "sha256", *files, *options)
    (found,) = verify_detached((tmp_path / "signature").read_bytes(), CONTENT, signers=[holder.certificate])
    assert found.certificate_is_signed == ("-cades" in options)
