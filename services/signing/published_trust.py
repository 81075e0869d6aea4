"""What this deployment publishes for verifiers: its own trusted root and signing configuration, for anybody."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pkicore.algorithms import PublicKey, known_public_key
from pkicore.errors import PkiError
from pkicore.x509.certificate import load_chain
from services.ca.client.trust import Trust
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
    for issuer in (one for one in trust.crl_paths if one not in trust.roots):
        root = next((one for one in trust.roots if one.subject == issuer.issuer), None)
        if root is None or not isinstance(issuer.public_key(), ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            continue
        found.append(TrustedAuthority(url, (issuer, root), _period(issuer)))
    return tuple(found)


class IssuingCas:
    """The issuing CAs of the trust in force, for verifiers; `url` is the CA's."""

    def __init__(self, trust: Callable[[], Trust], url: str) -> None:
        self._trust = trust
        self._url = url
        self._seen: Trust | None = None
        self._found: tuple[TrustedAuthority, ...] = ()

    def __call__(self) -> tuple[TrustedAuthority, ...]:
        """Those of now."""
        trust = self._trust()
        if trust is not self._seen:
            self._seen, self._found = trust, authorities(trust, self._url)
        return self._found


def timestamp_authority(chain: Sequence[x509.Certificate], base_url: str) -> TrustedAuthority:
    """Our time-stamping authority, with one of its certificates."""
    return TrustedAuthority(f"{base_url}{TIMESTAMP_PATH}", tuple(chain), _period(chain[0]))


def log_url(base_url: str, origin: str) -> str:
    """Where the log is said to be: at this service, or, where it keeps a former name of it, at that name.

    Verifiers take the host of this URL for the log's origin, and fetch nothing from there.
    """
    return base_url if urlsplit(base_url).hostname == origin else f"https://{origin}"


def trusted_log(url: str, public_key: PublicKey, since: datetime) -> TrustedLog:
    """A log of ours."""
    return TrustedLog(url, public_key, Period(since))


class PublishedTrust:
    """The trusted root as it is now: the authority's certificates come and stay, issuing CAs come and go.

    The logs are for the process's life.

    Args:
        root: what verifiers are told; its time-stamping authorities are those of `timestamp_chains`, its issuing CAs
            those of `issuing`.
        base_url: of this service.
        operator: whose services these are.
        issuers: OIDC issuers.
        issuing: the issuing CAs that are trusted now; asked at every turn.
    """

    def __init__(
        self,
        root: TrustedRoot,
        base_url: str,
        operator: str,
        issuers: Sequence[str] = (),
        *,
        issuing: Callable[[], tuple[TrustedAuthority, ...]] = lambda: (),
    ) -> None:
        self._base_url = base_url
        self._operator = operator
        self._issuers = issuers
        self._issuing = issuing
        self._publish(replace(root, authorities=issuing()))

    @property
    def root(self) -> TrustedRoot:
        """What verifiers are told now."""
        self._follow()
        return self._root

    def timestamp_chains(self, chains: Sequence[Sequence[x509.Certificate]]) -> None:
        """From now on these are the certificates of the authority: former, present, and the next one."""
        found = tuple(timestamp_authority(chain, self._base_url) for chain in chains)
        self._publish(replace(self._root, timestamp_authorities=found))

    def to_json(self) -> bytes:
        """The trusted root."""
        self._follow()
        return self._trusted_root

    def routes(self) -> list[Route]:
        """`GET /v1/trusted-root` and `GET /v1/signing-config`."""
        return [
            _json("/v1/trusted-root", self.to_json),
            _json("/v1/signing-config", lambda: self._signing_config),
        ]

    def _follow(self) -> None:
        found = self._issuing()
        if found != self._root.authorities:
            self._publish(replace(self._root, authorities=found))

    def _publish(self, root: TrustedRoot) -> None:
        self._root = root
        self._trusted_root = root.to_json()
        periods = [authority.period for authority in root.timestamp_authorities]
        timestamps = [Service(f"{self._base_url}{TIMESTAMP_PATH}", one) for one in _together(periods)]
        oidc = [Service(issuer, one) for issuer in self._issuers for one in _together(periods)]
        self._signing_config = signing_config(self._operator, timestamps=timestamps, issuers=oidc)


def _json(path: str, body: Callable[[], bytes]) -> Route:
    async def answer(_: Request) -> Response:
        return Response(200, body(), [_JSON, _PUBLIC])

    return Route("GET", path, answer)


def _together(periods: Sequence[Period]) -> list[Period]:
    """One period over all of them; none where there are none."""
    ends = [period.end for period in periods if period.end is not None]
    if not periods:
        return []
    return [Period(min(period.start for period in periods), max(ends) if len(ends) == len(periods) else None)]


def _period(certificate: x509.Certificate) -> Period:
    return Period(certificate.not_valid_before_utc, certificate.not_valid_after_utc)
