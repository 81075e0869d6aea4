"""SPIFFE IDs: who a peer is, in the one canonical spelling (SPIFFE-ID specification §2, X509-SVID §2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryptography import x509

from pkicore.errors import IdentityError

_MAX_LENGTH = 2048
_MAX_TRUST_DOMAIN = 255
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


@dataclass(frozen=True, order=True)
class SpiffeId:
    """A workload's name: `spiffe://<trust_domain><path>`; the path starts with a slash and is never empty."""

    trust_domain: str
    path: str

    def __post_init__(self) -> None:
        if self.trust_domain != self.trust_domain.lower():
            raise IdentityError("a trust domain is in lower case")
        if not _TRUST_DOMAIN.fullmatch(self.trust_domain) or len(self.trust_domain) > _MAX_TRUST_DOMAIN:
            raise IdentityError("the trust domain has characters that SPIFFE does not allow, or is empty or too long")
        first, *segments = self.path.split("/")
        if first or not segments or not all(_is_segment(segment) for segment in segments):
            raise IdentityError("the path of a SPIFFE ID is /segment/segment, of letters, digits, '.', '-' and '_'")
        if len(str(self)) > _MAX_LENGTH:
            raise IdentityError(f"a SPIFFE ID has at most {_MAX_LENGTH} bytes")

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """From its canonical spelling; case, escapes, ports, queries and empty segments are not repaired.

        Raises:
            IdentityError: any other text.
        """
        if len(text) > _MAX_LENGTH or not text.startswith("spiffe://"):
            raise IdentityError("not a SPIFFE ID: it must start with spiffe:// and be short")
        trust_domain, slash, path = text.removeprefix("spiffe://").partition("/")
        return cls(trust_domain, slash + path)

    @classmethod
    def service(cls, trust_domain: str, name: str) -> SpiffeId:
        """The ID of one of our services.

        Raises:
            IdentityError: the name does not fit into a SPIFFE ID.
        """
        return cls(trust_domain, f"/service/{name}")

    @classmethod
    def workload(cls, trust_domain: str, name: str) -> SpiffeId:
        """The ID of somebody else's workload.

        Raises:
            IdentityError: the name does not fit into a SPIFFE ID.
        """
        return cls(trust_domain, f"/workload/{name}")

    @classmethod
    def operator(cls, trust_domain: str, name: str) -> SpiffeId:
        """The ID of a person who operates the deployment.

        Raises:
            IdentityError: the name does not fit into a SPIFFE ID.
        """
        return cls(trust_domain, f"/operator/{name}")

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"


def _is_segment(segment: str) -> bool:
    return _SEGMENT.fullmatch(segment) is not None and segment not in {".", ".."}


def spiffe_id_of(certificate: x509.Certificate) -> SpiffeId | None:
    """The SPIFFE ID in the URI names of a certificate, or None where it has no URI name (X509-SVID §2).

    Raises:
        IdentityError: several URI names, or one that is no SPIFFE ID.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise IdentityError("the names of the certificate do not parse") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if not uris:
        return None
    if len(uris) > 1:
        raise IdentityError("a certificate with several URI names has no SPIFFE ID")
    return SpiffeId.parse(uris[0])
