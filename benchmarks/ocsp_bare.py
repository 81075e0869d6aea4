"""The floor of `ocsp.py`: uvicorn with httptools and uvloop, and an application that looks an answer up and sends it.

Standard input has a JSON object, requests to answers, both in base64: the port is printed once it listens. There is
no log, no header beside the needed ones and no check of anything: what this costs, every server of its kind costs.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import unquote

import orjson
import uvicorn

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]


class Application:
    """Answers by POST from the octets, by GET from the base64 in the path."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        self._by_octets = {base64.b64decode(text): base64.b64decode(answer) for text, answer in answers.items()}
        self._by_path = {f"/ocsp/{unquote(text)}": base64.b64decode(answer) for text, answer in answers.items()}

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """One request."""
        body = self._by_octets[(await receive())["body"]] if scope["method"] == "POST" else self._by_path[scope["path"]]
        headers = [(b"content-type", b"application/ocsp-response"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Announced(uvicorn.Server):
    """Says where it listens."""

    async def startup(self, sockets: Any = None) -> None:  # noqa: ANN401 -- uvicorn's own signature
        """Listen, then print the port."""
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)


if __name__ == "__main__":
    application = Application(orjson.loads(sys.stdin.buffer.read()))
    config = uvicorn.Config(
        application,
        port=0,
        http="httptools",
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="error",
        server_header=False,
        date_header=False,
    )
    Announced(config).run()
