"""What a log signs before a certificate exists, and the certificate's bytes that carry the answer (RFC 6962 §3)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import known_public_key
from pkicore.ct.sct import MAX_TIMESTAMP, SignedCertificateTimestamp, encode_sct_list, vector
from pkicore.encoding import OCTET_STRING, OID, DerReader, explicit, extension, object_identifier, sequence
from pkicore.errors import MalformedError

SCT_LIST_OID: Final = "1.3.6.1.4.1.11129.2.4.2"
POISON_OID: Final = "1.3.6.1.4.1.11129.2.4.3"
_SCT_LIST: Final = object_identifier(SCT_LIST_OID)[2:]
_POISON: Final = object_identifier(POISON_OID)[2:]
_EXTENSIONS_TAG: Final = 0xA3
_BOOLEAN_TAG: Final = 0x01
_PRECERT_ENTRY: Final = (1).to_bytes(2, "big")
_V1_CERTIFICATE_TIMESTAMP: Final = b"\x00\x00"
_V1_TIMESTAMPED_ENTRY: Final = b"\x00\x00"


class PrecertificateEntry(NamedTuple):
    """What a log is asked to remember of a certificate that is about to be issued (RFC 6962 §3.2).

    Attributes:
        issuer_key_hash: SHA-256 of the issuer's public key as SubjectPublicKeyInfo.
        tbs: the to-be-signed bytes without poison and without timestamps.
    """

    issuer_key_hash: bytes
    tbs: bytes

    @classmethod
    def of(cls, tbs: bytes, issuer_certificate: x509.Certificate) -> PrecertificateEntry:
        """The entry for to-be-signed bytes, with or without poison or timestamps, of this very issuer.

        Precertificate Signing Certificates are not used here.

        Raises:
            MalformedError: the bytes do not parse.
            UnsupportedError: a key of an issuer that is not offered.
        """
        public_key = known_public_key(issuer_certificate.public_key())
        spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(hashlib.sha256(spki).digest(), precertificate_tbs(tbs))

    def message(self, timestamp: int, extensions: bytes = b"") -> bytes:
        """The digitally-signed struct of a timestamp, which the log signs (RFC 6962 §3.2).

        Args:
            timestamp: milliseconds since 1970.
            extensions: CtExtensions without their length, as from `encode_leaf_index`.

        Raises:
            MalformedError: what does not fit its field.
        """
        return _V1_CERTIFICATE_TIMESTAMP + self._timestamped(timestamp, extensions)

    def leaf(self, timestamp: int, extensions: bytes = b"") -> bytes:
        """The MerkleTreeLeaf, whose `leaf_hash` the log appends (RFC 6962 §3.4); arguments as for `message`.

        Raises:
            MalformedError: what does not fit its field.
        """
        return _V1_TIMESTAMPED_ENTRY + self._timestamped(timestamp, extensions)

    def _timestamped(self, timestamp: int, extensions: bytes) -> bytes:
        if not 0 <= timestamp <= MAX_TIMESTAMP:
            raise MalformedError("a timestamp of a log is not negative and has 63 bits")
        entry = self.issuer_key_hash + vector(self.tbs, 3)
        return timestamp.to_bytes(8, "big") + _PRECERT_ENTRY + entry + vector(extensions, 2)


def precertificate_tbs(tbs: bytes) -> bytes:
    """The to-be-signed bytes less the poison or the list of timestamps; all else stays to the bit.

    Raises:
        MalformedError: they do not parse, have both extensions, one doubled, or no other extension.
    """
    head, extensions = _take_apart(tbs)
    if extensions.keys() >= {_SCT_LIST, _POISON}:
        raise MalformedError("a precertificate has no timestamps in it")
    return _put_together(head, [der for oid, der in extensions.items() if oid not in {_SCT_LIST, _POISON}])


def embed(tbs: bytes, scts: Sequence[SignedCertificateTimestamp]) -> bytes:
    """The to-be-signed bytes that `scts` are about, with the list of them as one more extension, the last.

    Raises:
        MalformedError: the bytes do not parse, or are poisoned, or have timestamps already; no timestamps are given.
    """
    head, extensions = _take_apart(tbs)
    if extensions.keys() & {_SCT_LIST, _POISON}:
        raise MalformedError("timestamps are added to a certificate that has none, and no poison")
    return _put_together(head, [*extensions.values(), extension(SCT_LIST_OID, encode_sct_list(scts))])


def may_have_sct_list(tbs: bytes) -> bool:
    """Whether the octets of the extension's OID are anywhere in the bytes: where not, there are no timestamps."""
    return _SCT_LIST in tbs


def sct_list_of(tbs: bytes) -> bytes | None:
    """The value of the extension with the list of timestamps, as it stands there; None without.

    Raises:
        MalformedError: the bytes do not parse.
    """
    der = _take_apart(tbs)[1].get(_SCT_LIST)
    if der is None:
        return None
    fields = DerReader(der).enter()
    fields.read(OID)
    if fields.next_is(_BOOLEAN_TAG):
        fields.read(_BOOLEAN_TAG)
    value = fields.read(OCTET_STRING)
    fields.finish()
    return value


def _take_apart(tbs: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The fields before the extensions, and each extension by the content of its OID."""
    outer = DerReader(tbs)
    fields, head = outer.enter(), list[bytes]()
    outer.finish()
    while not fields.next_is(_EXTENSIONS_TAG):
        head.append(fields.read_element())
    wrapper = fields.enter(_EXTENSIONS_TAG)
    fields.finish()
    elements, extensions = wrapper.enter(), dict[bytes, bytes]()
    wrapper.finish()
    while not elements.at_end:
        der = elements.read_element()
        oid = DerReader(der).enter().read(OID)
        if oid in extensions:
            raise MalformedError("an extension of a certificate is doubled")
        extensions[oid] = der
    return b"".join(head), extensions


def _put_together(head: bytes, extensions: Sequence[bytes]) -> bytes:
    if not extensions:
        raise MalformedError("a certificate without any other extension is not logged")
    return sequence(head, explicit(3, sequence(*extensions)))
