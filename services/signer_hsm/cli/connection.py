"""How a command reaches signer-hsm, and what it says where signer-hsm does not do what was asked."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import click

from pkicore.identity import SpiffeId
from pkicore.mtls import INTERNAL
from services.chassis.cli.deployed import Deployed, trust_domain_of
from services.chassis.cli.output import directory_option, failing_cleanly
from services.chassis.errors import DeploymentError
from services.chassis.http_client import Answer, Http
from services.signer_hsm.client import SignerClient, SignerClientError, SignerRefusedError
from services.signer_hsm.errors import SignerError

REFUSED: Final = 3
UNAVAILABLE: Final = 4
_MAX_TOKEN: Final = 16 * 1024

_Answer = TypeVar("_Answer")
_Command = TypeVar("_Command", bound=Callable[..., Any])

_NEXT: Final[Mapping[str, str]] = {
    "forbidden": "a rule of config/keys.toml must name this identity, and config/policy.toml the endpoint; "
    "why it was refused stands in signer-hsm's audit log: `ztca audit export --service signer-hsm`",
    "key-not-found": "`keyctl keys list --tenant TENANT` shows the keys that there are",
    "wrong-state": "`keyctl keys show KEY` shows the versions and their states",
    "bad-payload": "`keyctl pubkey KEY --json` shows the kinds and schemes of the key",
    "not-offered": "`keyctl pubkey KEY --json` shows the kinds and schemes of the key",
    "approvals-missing": "have others run `keyctl approvals approve` for it, then repeat",
    "rate-limited": "wait, or have the tenant's or rule's rate raised",
    "idempotency-conflict": "give another --idempotency-key",
    "outcome-unknown": "give another --idempotency-key",
}


@dataclass(frozen=True)
class Way:
    """Where signer-hsm is, and who calls it; `certificate` and `key` are the operator's where None."""

    directory: Path
    url: str | None
    certificate: Path | None
    key: Path | None
    token_file: Path | None


Connect: TypeAlias = Callable[[Way], AbstractAsyncContextManager[SignerClient]]


def signer_command(command: _Command) -> _Command:
    """The options by which signer-hsm is reached; the command gets `call`, which runs one coroutine with a client."""

    @wraps(command)
    def wrapped(
        *arguments: Any,  # noqa: ANN401 - the command's own
        directory: Path,
        url: str | None,
        cert: Path | None,
        key: Path | None,
        token_file: Path | None,
        **options: Any,  # noqa: ANN401 - the command's own
    ) -> None:
        connect: Connect = click.get_current_context().obj or connected
        with failing():
            if (cert is None) != (key is None):
                raise DeploymentError("--cert and --key belong together: give both or neither")
            way = Way(directory, url, cert, key, token_file)
            command(*arguments, call=lambda act: asyncio.run(_with_client(connect, way, act)), **options)

    file = click.Path(path_type=Path)
    for option in (
        click.option("--token-file", type=file, help="File with the OIDC token to show, for rules with subjects."),
        click.option("--key", type=file, envvar="PQCPKI_KEY", help="Its private key, PKCS#8 PEM."),
        click.option(
            "--cert", type=file, envvar="PQCPKI_CERT", help="PEM chain of the identity. [default: the operator's]"
        ),
        click.option("--url", help="https://HOST:PORT of signer-hsm. [default: as in DIR/endpoints.json]"),
        directory_option,
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]  # click adds to it what it is called with


async def _with_client(connect: Connect, way: Way, act: Callable[[SignerClient], Awaitable[_Answer]]) -> _Answer:
    async with connect(way) as client:
        return await act(client)


@asynccontextmanager
async def connected(way: Way) -> AsyncIterator[SignerClient]:
    """signer-hsm of a running deployment.

    Raises:
        DeploymentError: nothing runs there, or it has no signer-hsm.
        KeyAccessError: the identity cannot be read.
    """
    deployed = Deployed.read(way.directory)
    url = way.url or deployed.endpoints.get("signer_hsm")
    if not isinstance(url, str):
        raise DeploymentError(
            f"{deployed.directory} has no signer-hsm, or it does not run: `ztca init --keys signer-hsm` and "
            "`ztca keys migrate` make deployments that have one"
        )
    token = None if way.token_file is None else _token(way.token_file)
    certificate, key = way.certificate or deployed.operator_certificate, way.key or deployed.operator_key
    expected = SpiffeId.service(trust_domain_of(certificate), "signer-hsm")
    tls = await deployed.client(INTERNAL, certificate, key, require_staple=True)
    async with tls.http1(expected, url) as http:
        yield SignerClient(http if token is None else _Bearer(http, token))


@dataclass(frozen=True)
class _Bearer:
    """Shows a token (RFC 6750 §2.1) with each request."""

    http: Http
    token: str

    async def request(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None,
        headers: Mapping[str, str],
        timeout: float,  # noqa: ASYNC109 -- Http's signature
    ) -> Answer:
        """As `Http.request`."""
        shown = {**headers, "authorization": f"Bearer {self.token}"}
        return await self.http.request(method, url, content=content, headers=shown, timeout=timeout)


def _token(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MAX_TOKEN + 1)
    text = content.decode("ascii", "replace").strip()
    if len(content) > _MAX_TOKEN or not text or not text.isascii() or not text.isprintable() or " " in text:
        raise DeploymentError(f"{path} holds no token: it must be one line of at most {_MAX_TOKEN} characters")
    return text


@contextmanager
def failing() -> Iterator[None]:
    """Turn every expected error into a sentence with what to do next, and its exit status."""
    with failing_cleanly("keyctl", SignerError):
        try:
            yield
        except SignerClientError as error:
            click.echo(f"keyctl: {error}", err=True)
            refused = isinstance(error, SignerRefusedError)
            if advice := _NEXT.get(error.kind) or (None if refused else _later(error)):
                click.echo(f"  {advice}", err=True)
            sys.exit(REFUSED if refused else UNAVAILABLE)


def _later(error: SignerClientError) -> str:
    wait = "" if error.retry_after is None else f" in {error.retry_after:g} s"
    return f"`keyctl health` says what is wrong; repeat{wait}, with the same --idempotency-key where there is one"
