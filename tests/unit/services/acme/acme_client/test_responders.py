"""Where proofs are shown."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import httpx
import pytest

from services.acme.acme_client.errors import ServerAnswerError
from services.acme.acme_client.responders import Standalone, WebRoot, checked

TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"


def test_a_web_root_has_the_proof_while_it_is_needed(tmp_path: Path) -> None:
    """The file is there within the context, and gone afterwards, also where something failed."""
    file = tmp_path / ".well-known/acme-challenge" / TOKEN
    with contextlib.suppress(ZeroDivisionError), WebRoot(tmp_path).show(TOKEN, "proof"):
        assert file.read_text() == "proof"
        raise ZeroDivisionError
    assert not file.exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_server_of_its_own_shows_the_proof_and_nothing_else(host: str) -> None:
    """It answers for the token with the proof, for other paths with 404, and gives the port back."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, 0), family=family) as free:
            port = free.getsockname()[1]
    except OSError:
        pytest.skip(f"not run: this machine has no {host}")
    with Standalone(host, port).show(TOKEN, "proof"):
        base = f"http://{f'[{host}]' if ':' in host else host}:{port}/.well-known/acme-challenge"
        answers = [httpx.get(f"{base}/{name}", trust_env=False) for name in (TOKEN, "other")]
    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "proof"), (404, "")]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, port), 1)


@pytest.mark.parametrize(
    "token", ["", "short", "../../../../etc/passwd-and-more", "a" * 129, TOKEN + "\n", f"{TOKEN}/.."]
)
def test_what_is_no_token_names_no_file(token: str) -> None:
    """A server cannot make the client write elsewhere (RFC 8555 §8.3: base64url alone)."""
    with pytest.raises(ServerAnswerError, match="a token that is none"):
        checked(token)
