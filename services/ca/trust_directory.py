"""The trust directory: what services, commands and verifiers read. It follows the settings, and never goes before them.

roots.pem              every root that is trusted, and one file for each: root-ecdsa.pem, ...
tls.pem                those of them that the public listeners' chains end in
issuers/<id>.pem       the issuing CAs below them; a service lets nobody in without the CRL of each
issuers/active         the ids of those that issue: what others have issued is renewed
cross/<root>-by-<root>.pem   cross-certificates
"""

from collections.abc import Mapping
from pathlib import Path

from pkicore.algorithms import algorithm_of
from pkicore.encoding import write_atomically
from pkicore.x509.certificate import to_pem
from services.ca.client.trust import ACTIVE
from services.ca.hierarchy import read_certificate, trusted_issuers, trusted_roots
from services.ca.layout import PUBLIC_FAMILIES, Layout
from services.ca.settings import CaSettings


def publish_trust(settings: CaSettings, layout: Layout) -> None:
    """Have the trust directory say what the settings say, and nothing that earlier ones said.

    Raises:
        KeyNotFoundError, MalformedError: a certificate that the settings name cannot be read.
        OSError: it cannot be written.
    """
    roots = {item.id: read_certificate(item.certificate) for item in trusted_roots(settings)}
    issuers = {item.id: read_certificate(item.certificate) for item in trusted_issuers(settings)}
    public = [root for root in roots.values() if algorithm_of(root.public_key()).family in PUBLIC_FAMILIES]
    crosses = {layout.cross / path.name: path.read_bytes() for item in trusted_roots(settings) for path in item.cross}
    active = [item.id for item in trusted_issuers(settings) if item.state == "active"]
    # Roots first: whoever reads in between must not find an issuing CA without its root.
    _write({layout.trust / f"{name}.pem": to_pem([root]) for name, root in roots.items()})
    _write({layout.trust_bundle: to_pem(list(roots.values())), layout.tls_ca_bundle: to_pem(public)} | crosses)
    _write({layout.issuers / f"{name}.pem": to_pem([issuer]) for name, issuer in issuers.items()})
    _write({layout.issuers / ACTIVE: "".join(f"{name}\n" for name in active).encode()})
    for directory, pattern, wanted in (
        (layout.issuers, "issuing-*.pem", {f"{name}.pem" for name in issuers}),
        (layout.trust, "root-*.pem", {f"{name}.pem" for name in roots}),
        (layout.cross, "*.pem", {path.name for path in crosses}),
    ):
        for path in directory.glob(pattern):
            if path.name not in wanted:
                path.unlink()


def _write(files: Mapping[Path, bytes]) -> None:
    for path, content in files.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            write_atomically(path, content, 0o644)
