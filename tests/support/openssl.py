"""What the openssl command says: a verifier that shares no code with the project."""

from __future__ import annotations

import base64
import subprocess
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID
from OpenSSL import crypto


def openssl(*arguments: str | Path, check: bool = True, stdin: bytes = b"") -> str:
    """Run openssl; both of its outputs as one text."""
    command = ["openssl", *map(str, arguments)]
    result = subprocess.run(
        command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False
    )
    output = result.stdout.decode(errors="replace")
    if check:
        assert result.returncode == 0, output
    return output


def wheel_verifies(root: Path, pem: bytes) -> None:
    """The OpenSSL in cryptography's wheel, which knows ML-DSA, accepts a chain with all of its CRLs, or raises."""
    first, *above = (crypto.X509.from_cryptography(one) for one in x509.load_pem_x509_certificates(pem))
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(x509.load_pem_x509_certificate(root.read_bytes())))
    for certificate in (first, *above):
        store.add_crl(x509.load_der_x509_crl(fetch(_crl_url(certificate.to_cryptography()))))
    checks = crypto.X509StoreFlags.CRL_CHECK | crypto.X509StoreFlags.CRL_CHECK_ALL | crypto.X509StoreFlags.X509_STRICT
    store.set_flags(checks)
    crypto.X509StoreContext(store, first, above).verify_certificate()


def fetch(url: str) -> bytes:
    """GET a status URL of the CA."""
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 -- the deployment's own loopback URL
        content: bytes = response.read()
        return content


@dataclass(frozen=True)
class Relying:
    """A relying party: it has the root, a folder to work in, and what is written in the certificates.

    Attributes:
        root: PEM file it trusts.
        directory: for the files that openssl wants.
    """

    root: Path
    directory: Path

    def verify(self, leaf: Path, chain: Path, *, check: bool = True) -> str:
        """`openssl verify -crl_check_all` with CRLs downloaded from the certificates' distribution points."""
        crls = self.directory / "crls.pem"
        certificates = x509.load_pem_x509_certificates(leaf.read_bytes() + chain.read_bytes())
        downloaded = (fetch(_crl_url(certificate)) for certificate in certificates)
        crls.write_bytes(b"".join(x509.load_der_x509_crl(der).public_bytes(Encoding.PEM) for der in downloaded))
        arguments: list[str | Path] = [
            "-crl_check_all",
            "-CRLfile",
            crls,
            "-CAfile",
            self.root,
            "-untrusted",
            chain,
            leaf,
        ]
        return openssl("verify", "-x509_strict", *arguments, check=check)

    def ocsp(self, leaf: Path, chain: Path) -> str:
        """`openssl ocsp` by POST to the URL in the certificate; the answer's signature is verified."""
        arguments: list[str | Path] = [
            "-issuer",
            chain,
            "-cert",
            leaf,
            "-CAfile",
            self.root,
            "-url",
            _ocsp_url(leaf),
            "-text",
        ]
        output = openssl("ocsp", *arguments)
        assert "Response verify OK" in output, output
        return output

    def ocsp_by_get(self, leaf: Path, chain: Path) -> str:
        """The same by GET (RFC 6960 appendix A.1), without nonce, as caches and browsers ask."""
        request, response = self.directory / "request.der", self.directory / "response.der"
        openssl("ocsp", "-issuer", chain, "-cert", leaf, "-no_nonce", "-reqout", request)
        path = urllib.parse.quote(base64.b64encode(request.read_bytes()).decode(), safe="")
        response.write_bytes(fetch(f"{_ocsp_url(leaf)}/{path}"))
        arguments: list[str | Path] = [
            "-respin",
            response,
            "-issuer",
            chain,
            "-cert",
            leaf,
            "-CAfile",
            self.root,
            "-text",
        ]
        output = openssl("ocsp", *arguments)
        assert "Response verify OK" in output, output
        return output


def _crl_url(certificate: x509.Certificate) -> str:
    points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    names = points[0].full_name
    assert names
    url: str = names[0].value
    return url


def _ocsp_url(leaf: Path) -> str:
    certificate = x509.load_pem_x509_certificate(leaf.read_bytes())
    access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    return next(
        str(item.access_location.value) for item in access if item.access_method == AuthorityInformationAccessOID.OCSP
    )
