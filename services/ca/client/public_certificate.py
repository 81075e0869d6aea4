"""A public listener's own certificate: obtained from the CA by CSR at the first start, renewed in time."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pkicore.clock import Clock
from pkicore.errors import MalformedError, PkiError
from pkicore.mtls import load_credentials
from pkicore.x509.certificate import load_chain
from pkicore.x509.names import Names, names_of
from services.chassis.identity import IdentityFiles, Issue

PUBLIC_PROFILE: Final = "server"

_log = structlog.get_logger("public-certificate")


def public_names(tls_names: Iterable[str], external_url: str) -> Names:
    """What the public certificate stands for: the names of the settings and the host that clients use.

    Raises:
        BadCsrError: one of them is no name for a certificate.
    """
    wanted = [*tls_names, urlsplit(external_url).hostname or ""]
    addresses = [name for name in wanted if _is_address(name)]
    return Names.build(dns=[name for name in wanted if name and name not in addresses], ip=addresses)


class PublicCertificate:
    """The pair of the public listener, in a directory of its own."""

    def __init__(self, directory: Path, names: Names, issue: Issue, clock: Clock) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.files = IdentityFiles(directory)
        self._names = names
        self._issue = issue
        self._clock = clock

    async def ensure(self) -> None:
        """See to it that there is a usable pair: the one on disk if it is good for every name, else a new one.

        Raises:
            CaError: a new one is needed, and the CA did not give it.
            PkiError: what the CA gave does not fit.
        """
        if self._is_usable():
            return
        key = ec.generate_private_key(ec.SECP256R1())
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        builder = builder.add_extension(x509.SubjectAlternativeName(self._names.general_names()), critical=False)
        chain = await self._issue(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))
        leaf = load_chain(chain)[0]
        if leaf.public_key() != key.public_key():
            raise MalformedError("the CA answered with a certificate for another key")
        pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.files.install(chain, pkcs8, self._clock.now())
        _log.info("public certificate obtained", serial=f"{leaf.serial_number:x}")

    def _is_usable(self) -> bool:
        try:
            leaf = load_credentials(self.files.certificate_file, self.files.key_file).certificate
            held = names_of(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        except (PkiError, OSError, x509.ExtensionNotFound) as error:
            _log.info("public certificate wanted", reason=str(error))
            return False
        if leaf.not_valid_after_utc <= self._clock.now():
            _log.info("public certificate wanted", reason="the one on disk has expired")
            return False
        if held != self._names:
            _log.info("public certificate wanted", reason="the one on disk has other names than the settings")
            return False
        return True


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
