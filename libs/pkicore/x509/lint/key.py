"""The key and what it may do."""

from __future__ import annotations

from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from pkicore.algorithms import known_public_key
from pkicore.x509.lint.subject import LintSubject
from pkicore.x509.profiles import EXTENDED_KEY_USAGES

_ENCRYPTS = frozenset({"keyEncipherment", "dataEncipherment", "keyAgreement", "encipherOnly", "decipherOnly"})
_SOURCES = {"mldsa": "RFC 9881 §5", "ecdsa": "RFC 8813 §3", "eddsa": "RFC 8410 §5"}


def _offered(subject: LintSubject) -> Iterator[str]:
    """The profile names the keys that it takes."""
    if subject.algorithm.name not in subject.profile.keys:
        yield f"profile: {subject.algorithm.name} keys are not in the profile"


def _identifier(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.2.1.2."""
    expected = x509.SubjectKeyIdentifier.from_public_key(known_public_key(subject.public_key))
    if subject.value(x509.SubjectKeyIdentifier) != expected:
        yield "RFC 5280 §4.2.1.2: the subject key identifier is not the SHA-1 of the key"


def _usages(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.2.1.3."""
    wanted = set(subject.profile.key_usage) - (set() if _is_rsa(subject) else {"keyEncipherment"})
    if usages_of(subject.value(x509.KeyUsage)) != wanted:
        yield "RFC 5280 §4.2.1.3: the key usage is not the profile's"


def _authority_usages(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.2.1.3 and §4.2.1.9."""
    signs = usages_of(subject.value(x509.KeyUsage)) & {"keyCertSign", "cRLSign"}
    if signs and not subject.value(x509.BasicConstraints).ca:
        yield "RFC 5280 §4.2.1.3: keyCertSign and cRLSign are for CAs"


def _signs_alone(subject: LintSubject) -> Iterator[str]:
    """RFC 9881 §5, RFC 8813 §3, RFC 8410 §5."""
    if not _is_rsa(subject) and usages_of(subject.value(x509.KeyUsage)) & _ENCRYPTS:
        yield f"{_SOURCES[subject.algorithm.family]}: {subject.algorithm.name} keys sign and do nothing else"


def _extended_usages(subject: LintSubject) -> Iterator[str]:
    """RFC 5280 §4.2.1.12."""
    expected = [EXTENDED_KEY_USAGES[name] for name in subject.profile.extended_key_usage]
    if not expected:
        return
    found = [oid.dotted_string for oid in subject.value(x509.ExtendedKeyUsage)]
    if sorted(found) != sorted(expected):
        yield "RFC 5280 §4.2.1.12: the extended key usage is not the profile's"


def usages_of(usage: x509.KeyUsage) -> set[str]:
    """The names of RFC 5280 §4.2.1.3 whose bits are set."""
    bits = {
        "digitalSignature": usage.digital_signature,
        "contentCommitment": usage.content_commitment,
        "keyEncipherment": usage.key_encipherment,
        "dataEncipherment": usage.data_encipherment,
        "keyAgreement": usage.key_agreement,
        "keyCertSign": usage.key_cert_sign,
        "cRLSign": usage.crl_sign,
        "encipherOnly": usage.key_agreement and usage.encipher_only,
        "decipherOnly": usage.key_agreement and usage.decipher_only,
    }
    return {name for name, bit in bits.items() if bit}


def _is_rsa(subject: LintSubject) -> bool:
    return isinstance(subject.public_key, rsa.RSAPublicKey)


OF_THE_SHAPE = (_offered, _usages, _authority_usages, _signs_alone, _extended_usages)
OF_EACH = (_identifier,)
