"""While `ztca up` runs: whether the CRLs have ended by which CA and signer-hsm know each other.

A machine that slept, or a signer-hsm that was away, for longer than a CRL lives leaves a CA that trusts signer-hsm no
more, and cannot sign another CRL without it. Neither gets out of that alone; `services.ca.cold_start` does, once both
are stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pkicore.clock import Clock
from pkicore.errors import MalformedError
from services.ca.child import plain_get
from services.ca.layout import Layout
from services.chassis.cli.endpoints_file import read_endpoints
from services.chassis.errors import DeploymentError

LOOK_SECONDS: Final = 30.0
_ASK_SECONDS: Final = 10.0
_NOT_MODIFIED: Final = 304


async def until_run_out(layout: Layout, clock: Clock, patience: float, look_seconds: float = LOOK_SECONDS) -> None:
    """Return when CRLs have been past their end at every look for `patience` seconds: nobody renews them any more."""
    patient = 0.0
    while patient < patience:
        await asyncio.sleep(look_seconds)
        patient = patient + look_seconds if await _have_ended(layout, clock) else 0.0


async def _have_ended(layout: Layout, clock: Clock) -> bool:
    """Whether the running CA has no better than an ended CRL of one of its issuing CAs; not if it does not say."""
    try:
        base = str(read_endpoints(layout.root)["crl_base"])
        async with asyncio.timeout(_ASK_SECONDS):
            return await crls_have_ended(base, layout.issuers.glob("issuing-*.pem"), clock)
    except (OSError, LookupError, MalformedError, TypeError, ValueError, DeploymentError):
        return False  # a CA that does not answer is the supervisor's affair


async def crls_have_ended(base_url: str, issuers: Iterable[Path], clock: Clock) -> bool:
    """Ask the CA's status listener.

    Args:
        base_url: of CRLs; below it each is named after its issuer's file.
        issuers: files with the certificates of the issuing CAs.
        clock: the time.

    Raises:
        OSError, MalformedError, KeyError, ValueError: no answer, or not one about a CRL.
    """
    url = urlsplit(base_url)
    for issuer in issuers:
        # Expires is the CRL's nextUpdate; "*" is whatever there is, so that a long CRL itself is not sent.
        answer = await plain_get(f"{url.scheme}://{url.netloc}", f"{url.path}/{issuer.stem}", {"If-None-Match": "*"})
        if answer.status_code != _NOT_MODIFIED:
            raise MalformedError(f"the CRL of {issuer.stem} is answered with status {answer.status_code}")
        end = parsedate_to_datetime(dict(answer.headers)[b"expires"].decode("ascii"))
        if end <= clock.now():
            return True
    return False
