"""Whether `ztca up` may start signer-hsm as it is: nothing that it or the CA needs of the other has run out.

The answer costs a look at certificates, CRLs and a staple, where `services.ca.cold_start` loads a whole CA. It is no
wherever there is a doubt; a cold start then finds out what there is to do.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

from cryptography import x509

from pkicore.clock import Clock
from pkicore.errors import PkiError
from pkicore.mtls import CrlCache, StapleCache
from pkicore.x509.certificate import load_chain
from services.ca.deployment import recorded_settings
from services.ca.errors import CeremonyError
from services.ca.layout import SIGNER, Layout

_MARGIN: Final = timedelta(minutes=10)  # what ends sooner than this does not last until everything is up
_STALENESS_SECONDS: Final = 3600  # the default of signer-hsm
_TELLING: Final = ("PQCPKI_CA_", "PQCPKI_SIGNER_HSM_")


class _Soon:
    """The time when everything is up."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def now(self) -> datetime:
        return self._clock.now() + _MARGIN


async def is_warm(layout: Layout, environment: Mapping[str, str], clock: Clock) -> bool:
    """Whether a deployment with signer-hsm needs no cold start."""
    told_otherwise = any(name.startswith(_TELLING) and not name.endswith("_PORT") for name in environment)
    if told_otherwise or any(layout.root.glob("bootstrap-*")):
        return False
    try:
        settings = recorded_settings(layout, "ca")
        roots = {item["id"] for item in _trusted(settings)}
        wanted = {f"{item['id']}.pem" for item in settings["issuers"] if item["root"] in roots}
        if {path.name for path in layout.issuers.glob("issuing-*.pem")} != wanted:
            return False
        soon = _Soon(clock)
        if any(_leaf(path).not_valid_after_utc <= soon.now() for path in _certificates(settings)):
            return False
        return await _status_lasts(layout, settings, soon)
    except (OSError, LookupError, TypeError, PkiError, CeremonyError):
        return False


def _certificates(settings: Mapping[str, Any]) -> Iterator[Path]:
    """The CA's identity, those that it renews, and those of its OCSP responders."""
    yield Path(settings["tls_certificate"])
    for item in settings["identities"]:
        yield Path(item["directory"]) / "cert.pem"
    for item in settings["issuers"]:
        yield Path(settings["state_dir"]) / "responders" / f"{item['id']}.pem"


def _trusted(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [item for item in settings["roots"] if item.get("state") != "retired"]


async def _status_lasts(layout: Layout, settings: Mapping[str, Any], soon: Clock) -> bool:
    """Whether signer-hsm will find a CRL of every issuer on its disk, and a staple of its own certificate.

    Raises:
        PkiError: it will not.
    """
    roots = [Path(item["certificate"]) for item in _trusted(settings)]
    issuers = [_leaf(path) for path in (*roots, *layout.issuers.glob("*.pem"))]
    status = layout.state(SIGNER) / "status"
    staleness = recorded_settings(layout, SIGNER).get("crl_max_staleness_seconds", _STALENESS_SECONDS)
    CrlCache(issuers, _fetch_nothing, status, soon, timedelta(seconds=staleness), on_error=_ignore).current()
    leaf, issuer, *_ = load_chain((layout.identity(SIGNER) / "cert.pem").read_bytes())
    await StapleCache(_fetch_nothing, status, soon, on_error=_ignore).prepare(leaf, issuer)
    return True


async def _fetch_nothing(*_certificates: x509.Certificate) -> NoReturn:
    raise OSError("nobody is asked before anything runs")


def _ignore(_certificate: x509.Certificate, _error: Exception) -> None:
    """What is not good enough is missed by what comes next."""


def _leaf(path: Path) -> x509.Certificate:
    return load_chain(path.read_bytes())[0]
