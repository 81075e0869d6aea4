"""The state of the server: sealed, standby, uninitialised, and which signature algorithms it has.

`sys/health` needs no token. Its status code tells the states apart: 200 active, 429 standby, 472 standby of a disaster
recovery cluster, 473 performance standby, 501 not initialised, 503 sealed. Source: the API documentation of sys/health.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import requests
from hvac import exceptions as hvac

from services.signer_hsm.backends.vault.errors import RETRY_AFTER, translate
from services.signer_hsm.backends.vault.http import VaultHttp
from services.signer_hsm.errors import BackendError, BadAnswerError, UnavailableError

MlDsa: TypeAlias = Literal["vault", "openbao"]
"""How the server names ML-DSA keys."""

_STATES: Final[Mapping[int, str]] = MappingProxyType(
    {
        200: "active",
        429: "standby",
        472: "recovery-standby",
        473: "performance-standby",
        501: "uninitialised",
        503: "sealed",
    }
)
_SENTENCES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "standby": "the node is a standby and reaches no active one",
        "recovery-standby": "the cluster is the standby of another one, for disaster recovery",
        "performance-standby": "the node is a performance standby that has not caught up",
        "uninitialised": "the server is not initialised",
        "sealed": "the server is sealed: it must be unsealed",
    }
)
_VERSION: Final = re.compile(r"v?([0-9]{1,4})\.([0-9]{1,4})\.[0-9]{1,4}([-+.0-9A-Za-z]{0,64})", re.ASCII)
_OPENBAO_WITH_MLDSA: Final = (2, 7)
_VAULT_WITH_MLDSA: Final = (1, 19)


@dataclass(frozen=True, slots=True)
class ServerState:
    """What `sys/health` says.

    Attributes:
        state: active, standby, recovery-standby, performance-standby, uninitialised or sealed.
        version: as the server names it.
        mldsa: how it names ML-DSA keys; None where it has none.
    """

    state: str
    version: str
    mldsa: MlDsa | None

    @property
    def serves(self) -> bool:
        """Whether it may answer requests; a standby does, by its active node."""
        return self.state in {"active", "standby", "performance-standby"}


def ask(http: VaultHttp) -> ServerState:
    """The server's state.

    Raises:
        BackendError: it does not say.
    """
    try:
        answer = http.call("GET", "sys/health", health=True)
    except (hvac.VaultError, requests.RequestException) as error:
        raise translate(error, "asking for its health") from error
    state = _STATES.get(answer.status)
    if state is None:
        raise BadAnswerError("Vault's health has an unknown status")
    version = answer.body.get("version")
    text = version[:64] if isinstance(version, str) else ""
    return ServerState(state, text, _mldsa(text, enterprise=answer.body.get("enterprise")))


def diagnosed(http: VaultHttp, error: BackendError) -> BackendError:
    """A more precise error where the server's state explains it; else the same."""
    if not isinstance(error, UnavailableError | BadAnswerError):
        return error
    try:
        state = ask(http).state
    except BackendError:
        return error
    if state == "active" or (state == "standby" and isinstance(error, BadAnswerError)):
        return error
    return UnavailableError(f"Vault: {_SENTENCES[state]}", retry_after=RETRY_AFTER, uncertain=error.uncertain)


def _mldsa(version: str, *, enterprise: object) -> MlDsa | None:
    """OpenBao's health knows no `enterprise`; Vault's has said so since before it had ML-DSA."""
    found = _VERSION.fullmatch(version)
    if found is None:
        return None
    number = (int(found[1]), int(found[2]))
    if enterprise is True or "+ent" in found[3]:
        return "vault" if number >= _VAULT_WITH_MLDSA else None
    if enterprise is None and number >= _OPENBAO_WITH_MLDSA:
        return "openbao"
    return None
