"""httpx for what a service shows to everybody: CRLs, OCSP, metrics."""

import ssl

import httpx


def public_client(base_url: str, seconds: float) -> httpx.AsyncClient:
    """A client of one server that takes nothing from the environment and follows nothing.

    Loading the roots that httpx trusts takes 40 ms, as much as the rest of a short command: for https alone. Over http
    none are trusted.

    Args:
        base_url: scheme, host and port, and what every path begins with.
        seconds: of patience.
    """
    verify = base_url.startswith("https://") or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.AsyncClient(base_url=base_url, timeout=seconds, trust_env=False, verify=verify)
