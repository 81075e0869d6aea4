"""What this deployment publishes for verifiers: its own trusted root and signing configuration, for anybody."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pkicore.algorithms import PublicKey, known_public_key
from pkicore.errors import PkiError
from pkicore.x509.certificate import load_chain
from services.ca.client.way import Trust
from services.chassis.asgi import Request, Response, Route
from services.chassis.errors import SettingsError
from services.signing.timestamps import PATH as TIMESTAMP_PATH
from services.signing.trusted_root import Period, Service, TrustedAuthority, TrustedLog, TrustedRoot, signing_config

_JSON: Final = (b"content-type", b"application/json")
_PUBLIC: Final = (b"cache-control", b"public, max-age=300")


def read_public_key(path: Path, setting: str) -> PublicKey:
    """A public key in PEM.

    Raises:
        SettingsError: the file has none; the sentence names the setting.
    """
    try:
        return known_public_key(load_pem_public_key(path.read_bytes()))
    except (OSError, ValueError, PkiError) as error:
        raise SettingsError(f"{setting}: {path} holds no public key: {error}") from error


def read_chain(path: Path, setting: str) -> tuple[x509.Certificate, ...]:
    """Certificates in PEM.

    Raises:
        SettingsError: the file has none; the sentence names the setting.
    """
    try:
        return tuple(load_chain(path.read_bytes()))
    except (OSError, PkiError) as error:
        raise SettingsError(f"{setting}: {path} holds no certificates: {error}") from error


def authorities(trust: Trust, url: str) -> tuple[TrustedAuthority, ...]:
    """The issuing CAs whose certificates foreign verifiers can follow to a root: ECDSA and RSA."""
    found = []
    for issuer in trust.crl_paths:
        root = next((one for one in trust.roots if one.subject == issuer.issuer), None)
        if root is None or not isinstance(issuer.public_key(), ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            continue
        found.append(TrustedAuthority(url, (issuer, root), _period(issuer)))
    return tuple(found)


def timestamp_authority(chain: Sequence[x509.Certificate], base_url: str) -> TrustedAuthority:
    """Our time-stamping authority."""
    return TrustedAuthority(f"{base_url}{TIMESTAMP_PATH}", tuple(chain), _period(chain[0]))


def trusted_log(url: str, public_key: PublicKey, since: datetime) -> TrustedLog:
    """A log of ours."""
    return TrustedLog(url, public_key, Period(since))


def trust_routes(root: TrustedRoot, operator: str, base_url: str, issuers: Sequence[str]) -> list[Route]:
    """`GET /v1/trusted-root` and `GET /v1/signing-config`, the same for the life of the process."""
    period = [authority.period for authority in root.timestamp_authorities]
    timestamps = [Service(f"{base_url}{TIMESTAMP_PATH}", one) for one in period]
    oidc = [Service(issuer, one) for issuer in issuers for one in period[:1]]
    return [
        _fixed("/v1/trusted-root", root.to_json()),
        _fixed("/v1/signing-config", signing_config(operator, timestamps=timestamps, issuers=oidc)),
    ]


def _fixed(path: str, body: bytes) -> Route:
    async def answer(_: Request) -> Response:
        return Response(200, body, [_JSON, _PUBLIC])

    return Route("GET", path, answer)


def _period(certificate: x509.Certificate) -> Period:
    return Period(certificate.not_valid_before_utc, certificate.not_valid_after_utc)
