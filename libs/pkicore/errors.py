"""Everything that pkicore raises, one tree.

PkiError
├─ MalformedError            bytes that do not parse or break a size bound
├─ UnsupportedError          well-formed, but an algorithm, version or form that is not offered
├─ BadKeyError               a public key that the rules refuse
├─ BadSignatureError         a signature that does not verify
├─ ProofError                what a transparency log shows does not prove what it claims
├─ BadTokenError             a token whose claims or signature are not what its issuer's rules want
├─ BadTimestampError         a time-stamp token that does not speak for what was asked
├─ TimestampRefusedError     a time-stamp request that an authority refuses
├─ BadCsrError               a certificate request that breaks a rule
├─ BadCertificateError       a certificate or chain that does not verify
├─ ProfileError              a profile that makes no sense, or a request that does not fit its profile
├─ LintError                 to-be-signed bytes that break a rule
├─ IdentityError             not a SPIFFE ID that is accepted
├─ StatusError               revocation status
│  ├─ RevokedError
│  ├─ StatusUnknownError
│  └─ StaleStatusError
├─ KeyAccessError            a private key that cannot be used
│  ├─ KeyNotFoundError
│  ├─ KeyLockedError         wrong passphrase, or a file that was altered
│  ├─ KeyPermissionError     the file is open to others
│  └─ KeyUnavailableError    the back end is down
├─ TransportError
│  ├─ HandshakeError
│  └─ PeerMismatchError
└─ AuditError                a record or checkpoint that breaks the chain
"""

from __future__ import annotations


class PkiError(Exception):
    """Root of the tree; its text is one sentence, free of secrets."""


class MalformedError(PkiError):
    """Bytes that do not parse or break a size bound."""


class UnsupportedError(PkiError):
    """Well-formed, but an algorithm, version or form that is not offered."""


class BadKeyError(PkiError):
    """A public key that the rules refuse."""


class BadSignatureError(PkiError):
    """A signature that does not verify."""


class ProofError(PkiError):
    """What a transparency log shows does not prove what it claims."""


class BadTokenError(PkiError):
    """A token whose claims or signature are not what its issuer's rules want.

    Attributes:
        reason: one word, fit for a log line or a metric label.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class BadTimestampError(PkiError):
    """A time-stamp token that does not speak for what was asked, or not with the authority's word."""


class TimestampRefusedError(PkiError):
    """A time-stamp request that an authority refuses.

    Attributes:
        failure: the PKIFailureInfo of RFC 3161 §2.4.2, as in "badAlg"; None where an authority gave none.
    """

    def __init__(self, failure: str | None, message: str) -> None:
        super().__init__(message)
        self.failure = failure


class BadCsrError(PkiError):
    """A certificate request that breaks a rule."""


class BadCertificateError(PkiError):
    """A certificate or chain that does not verify."""


class ProfileError(PkiError):
    """A profile that makes no sense, or a request that does not fit its profile."""


class LintError(PkiError):
    """To-be-signed bytes that break a rule.

    Attributes:
        findings: one sentence per broken rule, led by its source, as in "RFC 5280 §4.2.1.9: ...".
    """

    def __init__(self, findings: tuple[str, ...]) -> None:
        super().__init__("; ".join(findings))
        self.findings = findings


class IdentityError(PkiError):
    """Not a SPIFFE ID that is accepted."""


class StatusError(PkiError):
    """The revocation status of a certificate is not provably good."""


class RevokedError(StatusError):
    """The certificate is revoked.

    Attributes:
        serial: the serial number of the revoked certificate.
    """

    def __init__(self, serial: int) -> None:
        super().__init__(f"certificate {serial:x} is revoked")
        self.serial = serial


class StatusUnknownError(StatusError):
    """Nobody vouches for the status of the certificate."""


class StaleStatusError(StatusError):
    """Status information that is too old, not yet valid, or replayed."""


class KeyAccessError(PkiError):
    """A private key that cannot be used."""


class KeyNotFoundError(KeyAccessError):
    """No key at this URI."""


class KeyLockedError(KeyAccessError):
    """Wrong passphrase, or a key file that was altered; the two cannot be told apart."""


class KeyPermissionError(KeyAccessError):
    """The key file is open to others, or closed to us."""


class KeyUnavailableError(KeyAccessError):
    """The back end that holds the key does not answer."""


class TransportError(PkiError):
    """A connection that was not made or not trusted."""


class HandshakeError(TransportError):
    """A TLS handshake that failed.

    Attributes:
        reason: short and stable, fit for a metric label.
        peer: the name of the peer as far as it is known.
    """

    def __init__(self, reason: str, peer: str | None = None) -> None:
        super().__init__(f"handshake with {peer or 'unknown peer'} failed: {reason}")
        self.reason = reason
        self.peer = peer


class PeerMismatchError(TransportError):
    """The peer is somebody, but not the one that was meant."""


class AuditError(PkiError):
    """A record or checkpoint that breaks the chain.

    Attributes:
        sequence: the first bad record, where it is known.
    """

    def __init__(self, message: str, sequence: int | None = None) -> None:
        super().__init__(message)
        self.sequence = sequence
