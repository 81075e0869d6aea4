import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.ct import (
    PrecertificateEntry,
    SignedCertificateTimestamp,
    embed,
    encode_leaf_index,
    encode_sct_list,
    precertificate_tbs,
)
from pkicore.ct.precertificate import POISON_OID, SCT_LIST_OID, may_have_sct_list, sct_list_of
from pkicore.ct.sct import MAX_TIMESTAMP
from pkicore.encoding import NULL, explicit, extension, object_identifier, octet_string, sequence
from pkicore.errors import MalformedError
from pkicore.x509.certificate import sign_certificate
from pkicore.x509.names import Names
from tests.support.pki import Hierarchy

LOG_KEY = ec.derive_private_key(7, ec.SECP256R1()).public_key()
AT = 1_900_000_000_000
SCT = SignedCertificateTimestamp.assemble(LOG_KEY, AT, b"", b"signature")
POISON = extension(POISON_OID, NULL, critical=True)
SCT_LIST = extension(SCT_LIST_OID, encode_sct_list([SCT]))


@pytest.fixture
async def certificate(hierarchy: Hierarchy) -> x509.Certificate:
    """As the CA makes it, without poison and without timestamps."""
    return (await hierarchy.issue("server", names=Names.build(dns=["a.example"]))).certificate


@pytest.fixture
def tbs(certificate: x509.Certificate) -> bytes:
    """Its to-be-signed bytes."""
    return certificate.tbs_certificate_bytes


def rebuilt(certificate: x509.Certificate, issuer: Hierarchy, *more: tuple[x509.ExtensionType, bool]) -> bytes:
    """The same certificate by cryptography's builder, with these extensions too."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.issuer)
        .serial_number(certificate.serial_number)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
        .public_key(certificate.public_key())
    )
    for item in certificate.extensions:
        builder = builder.add_extension(item.value, item.critical)
    for value, critical in more:
        builder = builder.add_extension(value, critical)
    hashed = hashes.SHA256() if issuer.issuing_key.algorithm.family == "ecdsa" else None
    return builder.sign(issuer.issuing_key.private_key, hashed).tbs_certificate_bytes


def test_bytes_without_either_extension_stay_as_they_are(tbs: bytes) -> None:
    """What our CA builds is what its log signs."""
    assert precertificate_tbs(tbs) == tbs
    assert sct_list_of(tbs) is None
    assert not may_have_sct_list(tbs)


def test_the_poison_is_taken_out(tbs: bytes, certificate: x509.Certificate, hierarchy: Hierarchy) -> None:
    """A poisoned precertificate by cryptography's builder comes to the same entry."""
    poisoned = rebuilt(certificate, hierarchy, (x509.PrecertPoison(), True))
    assert poisoned != tbs
    assert precertificate_tbs(poisoned) == tbs


def test_timestamps_are_taken_out_as_cryptography_does(
    tbs: bytes, certificate: x509.Certificate, hierarchy: Hierarchy
) -> None:
    """Added by its builder, removed by us and by it: the same bytes. And our list is the one that it would write."""
    opaque = x509.UnrecognizedExtension(x509.ObjectIdentifier(SCT_LIST_OID), encode_sct_list([SCT, SCT]))
    built = rebuilt(certificate, hierarchy, (opaque, False))
    assert built == embed(tbs, [SCT, SCT])
    assert precertificate_tbs(built) == tbs
    assert sct_list_of(built) == encode_sct_list([SCT, SCT])
    assert may_have_sct_list(built)


async def test_what_is_embedded_is_all_that_changes(tbs: bytes, hierarchy: Hierarchy) -> None:
    """The library cryptography reads the timestamp out of the certificate, and finds our bytes without it."""
    sct = SignedCertificateTimestamp.assemble(LOG_KEY, AT + 7, encode_leaf_index(5), b"signature")
    embedded = embed(tbs, [sct])
    made = await sign_certificate(embedded, hierarchy.issuing_key, hierarchy.issuing.certificate)
    found = made.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)
    assert made.tbs_precertificate_bytes == tbs == precertificate_tbs(embedded)
    assert not found.critical
    (read,) = found.value
    assert (read.log_id, read.signature, read.extension_bytes) == (sct.log_id, b"signature", encode_leaf_index(5))
    assert read.entry_type is x509.certificate_transparency.LogEntryType.PRE_CERTIFICATE
    assert read.version is x509.certificate_transparency.Version.v1
    assert isinstance(read.signature_hash_algorithm, hashes.SHA256)
    assert read.signature_algorithm is x509.certificate_transparency.SignatureAlgorithm.ECDSA
    assert round(read.timestamp.timestamp() * 1000) % 1000 == 7


def test_what_a_log_signs_is_the_structure_of_the_specification(tbs: bytes, hierarchy: Hierarchy) -> None:
    """Octet for octet, as message and as leaf, which differ in the meaning of their first two alone (§3.2, §3.4)."""
    entry = PrecertificateEntry.of(tbs, hierarchy.issuing.certificate)
    spki = hierarchy.issuing_key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    expected = (
        b"\x00\x00"
        + AT.to_bytes(8, "big")
        + b"\x00\x01"
        + hashlib.sha256(spki).digest()
        + len(tbs).to_bytes(3, "big")
        + tbs
    )
    assert entry.message(AT) == entry.leaf(AT) == expected + b"\x00\x00"
    index = encode_leaf_index(5)
    assert entry.message(AT, index) == entry.leaf(AT, index) == expected + b"\x00\x08" + index


def test_an_entry_is_the_same_before_and_after_issuance(tbs: bytes, hierarchy: Hierarchy) -> None:
    """From the plain bytes, and from those with the timestamp."""
    issuer = hierarchy.issuing.certificate
    assert PrecertificateEntry.of(tbs, issuer) == PrecertificateEntry.of(embed(tbs, [SCT]), issuer)


@pytest.mark.parametrize("timestamp", [-1, MAX_TIMESTAMP + 1])
def test_a_time_out_of_range_is_not_signed(timestamp: int) -> None:
    """Before anything is signed."""
    with pytest.raises(MalformedError, match="63 bits"):
        PrecertificateEntry(bytes(32), b"tbs").message(timestamp)
    with pytest.raises(MalformedError, match="63 bits"):
        PrecertificateEntry(bytes(32), b"tbs").leaf(timestamp)


def test_fields_that_are_too_long_are_not_signed() -> None:
    """Extensions beyond 16 bits of length."""
    with pytest.raises(MalformedError, match="do not fit"):
        PrecertificateEntry(bytes(32), b"tbs").message(AT, bytes(65536))


def with_extensions(*ders: bytes) -> bytes:
    """To-be-signed bytes in outline, with these extensions."""
    return sequence(b"\x02\x01\x05", explicit(3, sequence(*ders)))


OTHER = extension("2.5.29.14", b"\x04\x01k")


@pytest.mark.parametrize(
    "extensions",
    [
        (OTHER, POISON, SCT_LIST),
        (OTHER, POISON, POISON),
        (OTHER, SCT_LIST, SCT_LIST),
        (OTHER, OTHER),
        (POISON,),
        (SCT_LIST,),
        (),
    ],
    ids=["both", "two poisons", "two lists", "one doubled", "nothing else", "nothing else but a list", "nothing"],
)
def test_extensions_that_make_no_sense_are_refused(extensions: tuple[bytes, ...]) -> None:
    """There is no one answer what the log should sign."""
    with pytest.raises(MalformedError):
        precertificate_tbs(with_extensions(*extensions))


@pytest.mark.parametrize("present", [POISON, SCT_LIST])
def test_timestamps_are_not_added_to_what_has_them_or_poison(present: bytes) -> None:
    """A poisoned certificate with timestamps would be neither one thing nor the other."""
    with pytest.raises(MalformedError, match="has none, and no poison"):
        embed(with_extensions(OTHER, present), [SCT])


def test_an_empty_list_is_not_embedded() -> None:
    """RFC 6962 §3.3: at least one."""
    with pytest.raises(MalformedError, match="at least one"):
        embed(with_extensions(OTHER), [])


PLAIN = with_extensions(OTHER)


@pytest.mark.parametrize(
    "tbs",
    [
        b"",
        PLAIN[:-1],
        PLAIN + b"\x00",
        sequence(b"\x02\x01\x05"),
        sequence(b"\x02\x01\x05", explicit(3, sequence(OTHER)), b"\x05\x00"),
        sequence(b"\x02\x01\x05", explicit(3, sequence(OTHER) + b"\x05\x00")),
        sequence(b"\x02\x01\x05", explicit(3, sequence(OTHER, b"\x05\x00"))),
        sequence(b"\x02\x01\x05", explicit(3, sequence(sequence(b"\x05\x00")))),
        sequence(b"\x02\x01\x05", explicit(3, OTHER + OTHER)),
        b"\x30\x80" + PLAIN[2:] + b"\x00\x00",
    ],
)
def test_bytes_that_are_no_certificate_are_refused(tbs: bytes) -> None:
    """Cut, with more behind, without extensions, or in BER."""
    for use in (precertificate_tbs, sct_list_of, lambda data: embed(data, [SCT])):
        with pytest.raises(MalformedError):
            use(tbs)


def test_a_list_with_more_beside_it_is_refused() -> None:
    """An extension is an OID, a flag, a value, and nothing else."""
    fields = (object_identifier(SCT_LIST_OID), octet_string(encode_sct_list([SCT])))
    assert sct_list_of(with_extensions(OTHER, sequence(*fields))) == encode_sct_list([SCT])
    with pytest.raises(MalformedError, match="stray"):
        sct_list_of(with_extensions(OTHER, sequence(*fields, NULL)))


@pytest.mark.parametrize("at", range(len(PLAIN)))
def test_no_bit_of_what_is_taken_apart_is_lost(at: int) -> None:
    """Bytes changed anywhere are refused, or come back as they are: nothing is silently repaired."""
    changed = PLAIN[:at] + bytes((PLAIN[at] ^ 0x41,)) + PLAIN[at + 1 :]
    try:
        assert precertificate_tbs(changed) == changed
    except MalformedError:
        return
