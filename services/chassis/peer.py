"""Who may call which endpoint: one policy file per deployment, default deny.

```toml
[[allow]]
caller = "spiffe://pqcpki.internal/service/acme"
service = "ca"
endpoints = ["POST /v1/certificates", "GET /v1/certificates/{serial}"]
```

A caller is a SPIFFE ID, or one whose last segment is `*` (any one segment there). Endpoints are written as routes are.
"""

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import structlog

from pkicore.errors import IdentityError
from pkicore.identity import SpiffeId
from services.chassis.errors import ForbiddenError, PolicyError
from services.chassis.routes import PathTable, check_pattern

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"})
_ENTRY_FIELDS = frozenset({"caller", "service", "endpoints"})
_WILDCARD = "/*"
_DEBUG = 10


class Peer(Protocol):
    """What the policy asks of a verified TLS peer (`pkicore.mtls.peer.PeerIdentity`)."""

    @property
    def spiffe_id(self) -> SpiffeId | None:
        """Its identity, if its certificate names one."""
        ...


class CallerPolicy:
    """Decides whether a peer may call an endpoint; `load` makes one.

    Args:
        endpoints: (service, caller pattern) → "METHOD /path" patterns.
    """

    def __init__(self, endpoints: Mapping[tuple[str, str], Sequence[str]]) -> None:
        self._tables = {key: _endpoint_table(patterns) for key, patterns in endpoints.items()}
        self._log = structlog.get_logger("policy")
        self._log_allowed = self._log.is_enabled_for(_DEBUG)

    @classmethod
    def load(cls, toml: str) -> Self:
        """Reads a policy file's text.

        Raises:
            PolicyError: the sentence names the entry and what is wrong with it.
        """
        try:
            document = tomllib.loads(toml)
        except tomllib.TOMLDecodeError as error:
            raise PolicyError(f"the policy is not TOML: {error}") from error
        entries = document.pop("allow", [])
        if document or not isinstance(entries, list):
            raise PolicyError(f"the policy holds [[allow]] entries only, not {', '.join(document) or 'allow'}")
        endpoints: dict[tuple[str, str], list[str]] = {}
        for number, entry in enumerate(entries, start=1):
            key, patterns = _parse_entry(entry, f"allow entry {number}")
            endpoints.setdefault(key, []).extend(patterns)
        return cls(endpoints)

    def authorize(self, peer: Peer | None, service: str, method: str, path: str) -> None:
        """Lets the call pass, or raises; the frame logs a refusal, under its budget.

        Args:
            peer: The verified TLS peer; None where the caller showed no certificate.
            service: The service called, as it is named on the wire.
            method: HTTP method.
            path: The path called, decoded as the router sees it.

        Raises:
            ForbiddenError: nothing in the policy allows it.
        """
        caller = None if peer is None or peer.spiffe_id is None else str(peer.spiffe_id)
        if caller is not None and self._allows(caller, service, method, path):
            if self._log_allowed:
                self._log.debug("call allowed", caller=caller, callee=service, method=method)
            return
        raise ForbiddenError("the policy does not allow this caller to call this endpoint")

    def _allows(self, caller: str, service: str, method: str, path: str) -> bool:
        return any(
            table is not None and table.match(f"/{method}{path}") is not None
            for table in (
                self._tables.get((service, caller)),
                self._tables.get((service, caller.rpartition("/")[0] + _WILDCARD)),
            )
        )


def _endpoint_table(patterns: Sequence[str]) -> PathTable[bool]:
    return PathTable({f"/{pattern.replace(' ', '', 1)}": True for pattern in patterns})


def _parse_entry(entry: Any, where: str) -> tuple[tuple[str, str], list[str]]:  # noqa: ANN401 - unchecked TOML
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_FIELDS:
        raise PolicyError(f"{where} must have exactly caller, service and endpoints")
    caller, service, endpoints = entry["caller"], entry["service"], entry["endpoints"]
    if not isinstance(service, str) or not service:
        raise PolicyError(f"{where}: service must be a service's name")
    if not isinstance(endpoints, list) or not endpoints:
        raise PolicyError(f"{where}: endpoints must be a list such as ['POST /v1/certificates']")
    for endpoint in endpoints:
        _check_endpoint(endpoint, where)
    return (service, _check_caller(caller, where)), endpoints


def _check_caller(caller: Any, where: str) -> str:  # noqa: ANN401 - unchecked TOML
    if not isinstance(caller, str):
        raise PolicyError(f"{where}: caller must be a SPIFFE ID")
    try:
        SpiffeId.parse(caller.removesuffix(_WILDCARD))
    except IdentityError as error:
        raise PolicyError(f"{where}: caller {caller!r} is no SPIFFE ID, or one that ends in /*: {error}") from error
    return caller


def _check_endpoint(endpoint: Any, where: str) -> None:  # noqa: ANN401 - unchecked TOML
    method, _, path = endpoint.partition(" ") if isinstance(endpoint, str) else ("", "", "")
    if method not in _METHODS:
        raise PolicyError(f"{where}: endpoint {endpoint!r} must be a method and a path, as in 'POST /v1/certificates'")
    try:
        check_pattern(path)
    except ValueError as error:
        raise PolicyError(f"{where}: {error}") from error
