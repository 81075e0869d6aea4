"""What a rule looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509

from pkicore.algorithms import Algorithm
from pkicore.x509.profiles import Profile
from pkicore.x509.tbs import Issuer

_T = TypeVar("_T", bound=x509.ExtensionType)


@dataclass(frozen=True)
class LintSubject:
    """A certificate to be; `issuer` is None for a root, `claims` and `logged` are as for `lint_tbs`."""

    tbs: bytes
    certificate: x509.Certificate
    extensions: x509.Extensions
    algorithm: Algorithm
    profile: Profile
    issuer: Issuer | None
    claims: Mapping[str, str]
    logged: bool

    @property
    def issuer_certificate(self) -> x509.Certificate:
        """Its own for a root."""
        return self.certificate if self.issuer is None else self.issuer.certificate

    def has(self, oid: x509.ObjectIdentifier) -> bool:
        """Whether it has an extension."""
        return any(extension.oid == oid for extension in self.extensions)

    def value(self, kind: type[_T]) -> _T:
        """The value of an extension.

        Raises:
            ExtensionNotFound: it is not there, which is a finding.
        """
        return self.extensions.get_extension_for_class(kind).value

    def alternative_names(self) -> x509.SubjectAlternativeName | None:
        """The names, where there are any."""
        if not self.has(x509.SubjectAlternativeName.oid):
            return None
        return self.value(x509.SubjectAlternativeName)
