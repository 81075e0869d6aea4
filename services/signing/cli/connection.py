"""How a command reaches the signing service: where it is, whom it must be, what is shown to it, and over what."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import urlsplit

import click
import httpx
from cryptography import x509

from pkicore.clock import Clock, SystemClock
from pkicore.mtls import PUBLIC, TlsClient, load_credentials
from services.chassis.cli.deployed import Deployed
from services.chassis.cli.endpoints_file import read_endpoints
from services.chassis.cli.output import directory_option
from services.chassis.errors import DeploymentError
from services.signing.cli.credentials import Credential, Given, Search
from services.signing.cli.device_grant import Sleep
from services.signing.cli.failures import FILES, USAGE, CommandError, failing, plain
from services.signing.client import SigningClient

_SECONDS: Final = 60.0
_MAX_ROOTS: Final = 1 << 20

_Answer = TypeVar("_Answer")
_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Way:
    """Where the service is.

    Attributes:
        url: scheme, host and port.
        roots: whom its certificate must be of, PEM; None: the deployment's.
        directory: of the deployment.
        is_own: whether it is the service of that deployment: by its URL, or by the roots that it must be of.
    """

    url: str
    roots: Path | None
    directory: Path
    is_own: bool


Connect: TypeAlias = Callable[[Way, Credential | None], AbstractAsyncContextManager[httpx.AsyncClient]]
Call: TypeAlias = Callable[[Callable[[SigningClient], Awaitable[Any]]], Any]


@asynccontextmanager
async def connected(way: Way, credential: Credential | None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service that shows the credential, and its certificate where that is one.

    With the deployment's roots the service must staple a good OCSP response too; with others, which may stand behind a
    proxy of theirs, its chain and host name are checked alone.

    Raises:
        CommandError: the roots cannot be read.
        DeploymentError: nothing runs in the directory.
        KeyAccessError: the certificate or its key cannot be read.
    """
    trust = tuple(Deployed.read(way.directory).roots.values()) if way.roots is None else _read_roots(way.roots)
    shown = None
    if credential is not None and credential.certificate is not None and credential.key is not None:
        shown = load_credentials(credential.certificate, credential.key)
    tls = TlsClient(
        credentials=shown,
        rules=replace(PUBLIC, check_crl=False),
        trust=trust,
        crls=None,
        clock=SystemClock(),
        require_staple=way.roots is None,
    )
    async with tls.http(base_url=way.url, timeout=_SECONDS) as http:
        yield http


@dataclass(frozen=True)
class Surroundings:
    """What a command has around it.

    Attributes:
        environment: its variables.
        clock: the time.
        sleep: waits.
        connect: opens the way to the service.
    """

    environment: Mapping[str, str]
    clock: Clock = field(default_factory=SystemClock)
    sleep: Sleep = asyncio.sleep
    connect: Connect = connected


def surroundings() -> Surroundings:
    """Those that the command was started with, else the process' own."""
    found = click.get_current_context().obj
    return found if isinstance(found, Surroundings) else Surroundings(dict(os.environ))


@dataclass(frozen=True)
class Route:
    """How a command gets to the service: its way, and where its credential comes from."""

    way: Way
    given: Given
    around: Surroundings

    def run(self, act: Callable[[SigningClient], Awaitable[_Answer]], *, oidc_only: bool = False) -> _Answer:
        """One act with the service, as whoever the credential says."""
        return asyncio.run(self._run(act, oidc_only=oidc_only))

    async def _run(self, act: Callable[[SigningClient], Awaitable[_Answer]], *, oidc_only: bool) -> _Answer:
        search = Search(
            self.given,
            self.around.environment,
            self.way.url,
            self.way.directory / "operator",
            self.way.is_own,
            self.around.clock,
            oidc_only,
        )
        credential = await search.credential()
        click.echo(f"credential: {plain(credential.origin)}", err=True)
        return await self._with(credential, act)

    def run_openly(self, act: Callable[[SigningClient], Awaitable[_Answer]]) -> _Answer:
        """Likewise, as nobody: for what is public."""
        return asyncio.run(self._with(None, act))

    async def _with(self, credential: Credential | None, act: Callable[[SigningClient], Awaitable[_Answer]]) -> _Answer:
        async with self.around.connect(self.way, credential) as http:
            if credential is not None and credential.bearer is not None:
                http.headers["authorization"] = f"Bearer {credential.bearer}"
            return await act(SigningClient(http))


def way_options(command: _Command) -> _Command:
    """`--dir`, `--url` and `--ca`; the command gets `way`, and fails cleanly."""

    @wraps(command)
    def wrapped(
        *arguments: Any,  # noqa: ANN401 - the command's own
        directory: Path,
        url: str | None,
        ca: Path | None,
        **options: Any,  # noqa: ANN401 - the command's own
    ) -> None:
        with failing():
            command(*arguments, way=_way(directory, url, ca), **options)

    for option in (
        click.option(
            "--ca",
            type=click.Path(path_type=Path),
            envvar="PQCSIGN_CA",
            show_envvar=True,
            help="Roots of the service's certificate, PEM. [default: those in DIR/trust]",
        ),
        click.option(
            "--url",
            envvar="PQCSIGN_URL",
            show_envvar=True,
            help="https://HOST:PORT of the service. [default: as in DIR/endpoints.json]",
        ),
        directory_option,
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]  # click adds to it what it is called with


def service_command(command: _Command) -> _Command:
    """The options by which the service is reached and a credential is found; the command gets `route`."""

    @wraps(command)
    def wrapped(
        *arguments: Any,  # noqa: ANN401 - the command's own
        way: Way,
        **options: Any,  # noqa: ANN401 - the command's own
    ) -> None:
        given = Given(**{name: options.pop(name) for name in Given.__slots__})
        command(*arguments, route=Route(way, given, surroundings()), **options)

    file = click.Path(path_type=Path)
    for option in (
        click.option("--oidc-ca", type=file, envvar="PQCSIGN_OIDC_CA", help="Roots of the OIDC issuer, PEM."),
        click.option("--audience", help="Whom a token asked of GitHub is for. [default: the service's URL]"),
        click.option("--token-file", type=file, help="File with an OIDC token."),
        click.option("--key-file", type=file, help="Its private key, PKCS#8 PEM."),
        click.option("--cert", type=file, help="PEM chain of a client certificate."),
        click.option("--api-key-file", type=file, help="File with an API key."),
    ):
        wrapped = option(wrapped)
    return way_options(wrapped)  # type: ignore[return-value]  # click adds to it what it is called with


def _way(directory: Path, url: str | None, ca: Path | None) -> Way:
    if url is not None:
        service = _service_url(url)
        return Way(service, ca, directory, ca is None or _is_own(service, directory))
    endpoint = read_endpoints(directory).get("signing")
    if not isinstance(endpoint, str):
        raise CommandError(f"the deployment in {directory} has no signing service", USAGE, "give --url and --ca")
    return Way(_service_url(endpoint), ca, directory, is_own=True)


def _is_own(service: str, directory: Path) -> bool:
    try:
        return read_endpoints(directory).get("signing") == service
    except DeploymentError:
        return False


def _service_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise CommandError("the service's URL must be https://HOST:PORT without a path", USAGE)
    return url.rstrip("/")


def _read_roots(path: Path) -> tuple[x509.Certificate, ...]:
    with path.open("rb") as file:
        content = file.read(_MAX_ROOTS)
    try:
        return tuple(x509.load_pem_x509_certificates(content))
    except ValueError as error:
        raise CommandError(f"{path} has no certificates in PEM", FILES) from error
