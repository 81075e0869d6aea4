"""`ztca acme`: what the ACME server keeps of its clients, and a client."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import click

from services.chassis.cli.lazy import LazyGroup

_COMMANDS: Final[Mapping[str, tuple[str, str, str]]] = MappingProxyType(
    {
        "accounts": ("accounts", "accounts", "ACME accounts: find, show, agree to terms for one, deactivate."),
        "limits": ("limits", "limits", "Rate limits: list, set, reset."),
        "request": ("request", "request", "Get certificates by ACME, for keys of every kind, ML-DSA included."),
        "renew": ("request", "renew", "Renew what is due of them."),
        "revoke": ("request", "revoke", "Revoke one of them."),
    }
)


@click.group(cls=LazyGroup, package=__package__, table=_COMMANDS)
def acme() -> None:
    """What the ACME server keeps of its clients (accounts, limits); and a client (request, renew, revoke)."""
