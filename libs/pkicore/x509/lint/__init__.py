"""The last look before the key signs: parse the to-be-signed bytes afresh and hold them against rules and profile.

Refuses, never warns. It shares no code with `tbs` beyond the tables, so that a mistake there is seen here. Each rule is
one function, and what it finds begins with the section that it enforces: of an RFC, of the X509-SVID standard, of the
CA/Browser Forum's requirements (BR), or `profile` where the profile alone wants it so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from cryptography import x509

from pkicore.encoding import bit_string, sequence
from pkicore.errors import LintError, PkiError
from pkicore.x509 import PARSE_ERRORS
from pkicore.x509.key_rules import check_certificate_key
from pkicore.x509.lint import authority, encoding, extensions, key, names, svid
from pkicore.x509.lint.shape import Shape
from pkicore.x509.lint.subject import LintSubject
from pkicore.x509.profiles import Profile
from pkicore.x509.tbs import Issuer

__all__ = ["TbsLint", "lint_tbs", "unsigned"]

_NO_CLAIMS: Mapping[str, str] = MappingProxyType({})
_Rule: TypeAlias = Callable[[LintSubject], Iterator[str]]
_Kind: TypeAlias = tuple[str, str, str, int]
_OF_EACH: tuple[_Rule, ...] = (
    *encoding.OF_EACH,
    *authority.OF_EACH,
    *key.OF_EACH,
    *names.OF_EACH,
    *svid.OF_EACH,
)
_OF_THE_SHAPE: tuple[_Rule, ...] = (
    *encoding.OF_THE_SHAPE,
    *authority.OF_THE_SHAPE,
    *key.OF_THE_SHAPE,
    *extensions.OF_THE_SHAPE,
)
_ALL = (*_OF_THE_SHAPE, *_OF_EACH)


def lint_tbs(
    tbs: bytes,
    profile: Profile,
    issuer: Issuer | None,
    *,
    claims: Mapping[str, str] = _NO_CLAIMS,
    logged: bool = False,
) -> None:
    """Refuse to-be-signed bytes that break a rule.

    Args:
        tbs: the bytes.
        profile: what they must be.
        issuer: whose key will sign them; None for a root.
        claims: Fulcio's extensions that were asked for, OID to value; these must be there, and no others.
        logged: whether the timestamps of a log must be there already; else they must not.

    Raises:
        LintError: with every finding, each named after its source.
    """
    _refuse(tbs, profile, issuer, claims, logged=logged, look=lambda subject: _findings(subject, _ALL))


class TbsLint:
    """The same for a process that makes many: rules on what is alike in them are applied to the first of a kind.

    A kind is a profile, an issuer with the shard of its CRL, and a key algorithm: what those rules look at beside the
    bytes of the shape. Where claims or timestamps are in a certificate, every rule is applied to it.
    """

    def __init__(self) -> None:
        self._known: dict[_Kind, Shape] = {}

    def lint(
        self,
        tbs: bytes,
        profile: Profile,
        issuer: Issuer,
        *,
        claims: Mapping[str, str] = _NO_CLAIMS,
        logged: bool = False,
    ) -> None:
        """As `lint_tbs`.

        Raises:
            LintError: with every finding, each named after its source.
        """
        if claims or logged:
            lint_tbs(tbs, profile, issuer, claims=claims, logged=logged)
        else:
            _refuse(tbs, profile, issuer, claims, logged=False, look=lambda subject: self._findings(subject, issuer))

    def _findings(self, subject: LintSubject, issuer: Issuer) -> list[str]:
        profile, tbs = subject.profile, subject.tbs
        kind = profile.name, issuer.id, subject.algorithm.name, issuer.shard_of(subject.certificate.serial_number)
        known = self._known.get(kind)
        if known is not None and known.fits(tbs, profile, issuer):
            return _findings(subject, _OF_EACH)
        found = _findings(subject, _ALL)
        if not found and (shape := Shape.of(tbs, profile, issuer)) is not None:
            self._known[kind] = shape
        return found


def _refuse(
    tbs: bytes,
    profile: Profile,
    issuer: Issuer | None,
    claims: Mapping[str, str],
    *,
    logged: bool,
    look: Callable[[LintSubject], list[str]],
) -> None:
    try:
        elements = encoding.elements_of(tbs)
        # cryptography refuses, or warns of, what these are about; so they come before its parser.
        findings = list(encoding.version_and_serial(elements))
        if not findings:
            certificate = x509.load_der_x509_certificate(_unsigned(tbs, elements))
            public_key = certificate.public_key()
            algorithm = check_certificate_key(public_key)
            findings = look(
                LintSubject(
                    tbs, elements, certificate, public_key, algorithm, profile, issuer, claims=claims, logged=logged
                )
            )
    except (PkiError, *PARSE_ERRORS) as error:
        raise LintError((f"RFC 5280 §4.1: the to-be-signed bytes do not parse: {error}",)) from error
    if findings:
        raise LintError(tuple(dict.fromkeys(findings)))


def _findings(subject: LintSubject, rules: tuple[_Rule, ...]) -> list[str]:
    found = list[str]()
    for rule in rules:
        try:
            found.extend(rule(subject))
        except x509.ExtensionNotFound as error:
            found.append(f"RFC 5280 §4.2: the extension {error.oid.dotted_string} is missing")
    return found


def unsigned(tbs: bytes) -> bytes:
    """A certificate of these bytes with an empty signature: what a parser needs that takes nothing less.

    Raises:
        MalformedError: they are no TBSCertificate.
    """
    return _unsigned(tbs, encoding.elements_of(tbs))


def _unsigned(tbs: bytes, elements: Sequence[bytes]) -> bytes:
    return sequence(tbs, elements[2], bit_string(b""))
