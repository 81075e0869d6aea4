"""What a rule looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, cast

from cryptography import x509

from pkicore.algorithms import Algorithm
from pkicore.x509.names import Names, names_of
from pkicore.x509.profiles import Profile
from pkicore.x509.tbs import Issuer

_T = TypeVar("_T", bound=x509.ExtensionType)


@dataclass(frozen=True)
class LintSubject:
    """A certificate to be; `issuer` is None for a root, `claims` and `logged` are as for `lint_tbs`.

    `elements` are version, serial, signature, issuer, validity, subject, key, and what follows, in DER.
    """

    tbs: bytes
    elements: Sequence[bytes]
    certificate: x509.Certificate
    public_key: object
    algorithm: Algorithm
    profile: Profile
    issuer: Issuer | None
    claims: Mapping[str, str]
    logged: bool

    @property
    def issuer_certificate(self) -> x509.Certificate:
        """Its own for a root."""
        return self.certificate if self.issuer is None else self.issuer.certificate

    @cached_property
    def names(self) -> Names | None:
        """The alternative names in canonical form; None where there is no such extension.

        Raises:
            BadCsrError: one that no certificate may carry.
        """
        return names_of(self.value(x509.SubjectAlternativeName)) if self.has(x509.SubjectAlternativeName.oid) else None

    @cached_property
    def extensions(self) -> x509.Extensions:
        """All of them."""
        return self.certificate.extensions

    @cached_property
    def uris(self) -> Sequence[str]:
        """The URIs among the alternative names, as they stand there."""
        if not self.has(x509.SubjectAlternativeName.oid):
            return ()
        return self.value(x509.SubjectAlternativeName).get_values_for_type(x509.UniformResourceIdentifier)

    @cached_property
    def _by_oid(self) -> Mapping[x509.ObjectIdentifier, x509.Extension[x509.ExtensionType]]:
        return {extension.oid: extension for extension in self.extensions}

    def has(self, oid: x509.ObjectIdentifier) -> bool:
        """Whether it has an extension."""
        return oid in self._by_oid

    def extension(self, kind: type[_T]) -> x509.Extension[_T]:
        """An extension.

        Raises:
            ExtensionNotFound: it is not there, which is a finding.
        """
        found = self._by_oid.get(kind.oid)
        if found is None:
            raise x509.ExtensionNotFound(f"no {kind.oid.dotted_string}", kind.oid)
        return cast("x509.Extension[_T]", found)

    def value(self, kind: type[_T]) -> _T:
        """The value of an extension.

        Raises:
            ExtensionNotFound: it is not there, which is a finding.
        """
        return self.extension(kind).value
