"""What a client asks to be certified, and what it makes of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.algorithms import PrivateKey, algorithm_of
from pkicore.errors import PkiError
from pkicore.x509.certificate import load_chain
from pkicore.x509.names import Names
from services.acme.acme_client.errors import RequestInputError, ServerAnswerError


def names_of(texts: Sequence[str]) -> Names:
    """The names as they are written in requests.

    Raises:
        RequestInputError: a wildcard (http-01 proves none), or what is no name.
    """
    addresses = [text for text in texts if _is_address(text)]
    try:
        names = Names.build(dns=[text for text in texts if text not in addresses], ip=addresses)
    except PkiError as error:
        raise RequestInputError(str(error)) from error
    if names.wildcards:
        raise RequestInputError("a wildcard is proven by DNS alone, which this client does not do: name each host")
    return names


def request_of(key: PrivateKey, names: Names) -> bytes:
    """The DER of a certificate request (RFC 2986)."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName(names.general_names()), critical=True)
    digest = hashes.SHA256() if algorithm_of(key.public_key()).family in {"ecdsa", "rsa"} else None
    return builder.sign(key, digest).public_bytes(Encoding.DER)


def checked(pem: bytes, key: PrivateKey, names: Names) -> tuple[x509.Certificate, ...]:
    """The chain, whose first certificate is for this key and these names.

    Raises:
        ServerAnswerError: it is not.
    """
    try:
        chain = load_chain(pem)
        found = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (PkiError, IndexError, ValueError, x509.ExtensionNotFound) as error:
        raise ServerAnswerError(f"what the server delivers is no chain: {error}") from error
    if chain[0].public_key() != key.public_key():
        raise ServerAnswerError("the certificate is for another key")
    if set(found) != set(names.general_names()):
        raise ServerAnswerError("the certificate is for other names")
    return chain


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
