import ssl
from typing import Any

import pytest

from services.chassis.public_http import public_client


@pytest.mark.parametrize(("url", "times"), [("http://ca.test:5080/crl", 0), ("https://ca.test/crl", 1)])
async def test_roots_are_loaded_for_https_alone(monkeypatch: pytest.MonkeyPatch, url: str, times: int) -> None:
    """Whoever asks over http does not wait for what he does not need; over https the server is verified."""
    loaded = []
    library = ssl.create_default_context

    def create(*arguments: Any, **options: Any) -> ssl.SSLContext:  # noqa: ANN401 - the library's own
        loaded.append(arguments)
        return library(*arguments, **options)

    monkeypatch.setattr(ssl, "create_default_context", create)
    async with public_client(url, 7.0) as http:
        assert http.timeout.read == 7.0
        assert not http.trust_env
        assert not http.follow_redirects
        assert str(http.build_request("GET", "/root-ecdsa").url) == f"{url}/root-ecdsa"
    assert len(loaded) == times
