"""`DIR/endpoints.json`: what a running deployment offers, and where; written by `ztca up`, read by command lines."""

from collections.abc import Mapping
from typing import Any

import orjson

from pkicore.encoding import write_atomically
from services.ca.layout import SIGNER, SIGNING, Layout


def describe(layout: Layout, listeners: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The endpoints of the services that run; `listeners` holds each one's `listeners.json` by service name."""
    found: dict[str, Any] = {
        "tls_ca_bundle": str(layout.tls_ca_bundle),
        "trust_bundle": str(layout.trust_bundle),
        "operator_cert": str(layout.operator_certificate),
        "operator_key": str(layout.operator_key),
        "state_dir": str(layout.root),
        "ops": {_word(service): urls["ops"] for service, urls in listeners.items()},
        "pids": {_word(service): urls["pid"] for service, urls in listeners.items()},
    }
    if SIGNER in listeners:
        found["signer_hsm"] = listeners[SIGNER]["internal"]
    if "ca" in listeners:
        status = listeners["ca"]["status"]
        found["ca_internal"] = listeners["ca"]["internal"]
        found |= {"crl_base": f"{status}/crl", "ocsp": f"{status}/ocsp", "aia_base": f"{status}/aia"}
    if "acme" in listeners:
        found["acme_directory"] = f"{listeners['acme']['public']}/acme/directory"
        found["acme_admin"] = listeners["acme"]["admin"]
    if SIGNING in listeners:
        found["signing"] = listeners[SIGNING]["public"]
    return found


def _word(service: str) -> str:
    """A service's name as a JSON key."""
    return service.replace("-", "_")


def write_endpoints(layout: Layout, endpoints: Mapping[str, Any]) -> None:
    """Replace the file whole."""
    write_atomically(layout.endpoints, orjson.dumps(endpoints, option=orjson.OPT_INDENT_2) + b"\n", 0o644)
