"""What a command shows to the signing service: one credential, the first that is there, and its origin for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pkicore.clock import Clock, unix
from services.signing.ci.tokens import MAX_TOKEN, advice, checked_token, ci_token
from services.signing.cli.device_grant import discover, refresh
from services.signing.cli.failures import FILES, USAGE, CommandError
from services.signing.cli.logins import Login, Logins
from services.signing.cli.outbound import outbound

_SPARE: Final = 60  # seconds that a token must still be good for

API_KEY: Final = "PQCSIGN_API_KEY"
API_KEY_FILE: Final = "PQCSIGN_API_KEY_FILE"
CERT: Final = "PQCSIGN_CERT"
KEY_FILE: Final = "PQCSIGN_KEY_FILE"
TOKEN_FILE: Final = "PQCSIGN_TOKEN_FILE"  # noqa: S105 - a variable's name


@dataclass(frozen=True, slots=True)
class Credential:
    """An API key or token, or a certificate with its key.

    Attributes:
        origin: where it came from, for people.
        bearer: what goes into the Authorization header; None where a certificate is shown.
        certificate: PEM chain.
        key: its private key, PKCS#8 PEM.
    """

    origin: str
    bearer: str | None = field(default=None, repr=False)
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """The options of a command that say who calls; None: not given."""

    api_key_file: Path | None = None
    cert: Path | None = None
    key_file: Path | None = None
    token_file: Path | None = None
    audience: str | None = None
    oidc_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """Where credentials are looked for.

    Attributes:
        given: options.
        environment: of the command.
        service: URL of the service.
        operator: directory of the certificate of a deployment's operator; it need not be there.
        is_own: whether the service is the one of that deployment.
        clock: for the end of stored tokens.
        oidc_only: whether only a token of an OIDC issuer is good.
    """

    given: Given
    environment: Mapping[str, str]
    service: str
    operator: Path
    is_own: bool
    clock: Clock
    oidc_only: bool = False

    async def credential(self) -> Credential:
        """The one to show.

        Raises:
            CommandError: there is none, there are two, or one cannot be read.
            CiError: what CI gives is no token.
        """
        options, variables = self._options(), self._variables()
        if self.oidc_only:
            if wrong := {name for name, value in options.items() if value is not None and _KINDS[name] != "token"}:
                raise CommandError(f"{min(wrong)} is no token of an OIDC issuer, which --oidc needs", USAGE)
            variables = {TOKEN_FILE: variables[TOKEN_FILE]}
        found = self._from_options(options) or self._from_options(variables)
        if found is not None:
            return found
        token = await ci_token(self.environment, self.given.audience or self.service, self._fetch)
        if token is not None:
            return Credential(token.origin, token.text)
        if (login := Logins.of(self.environment).find(self.service)) is not None:
            login = await self._fresh(login)
            return Credential(f"{login.subject} at {login.issuer}, as logged in", login.id_token)
        certificate = self.operator / "cert.pem"
        if not self.oidc_only and self.is_own and certificate.exists():
            return Credential(f"the operator, {certificate}", None, certificate, self.operator / "key.pem")
        raise CommandError("there is no credential", USAGE, self._advice())

    def _options(self) -> dict[str, Path | str | None]:
        given = self.given
        return {
            "--api-key-file": given.api_key_file,
            "--cert": given.cert,
            "--key-file": given.key_file,
            "--token-file": given.token_file,
        }

    def _variables(self) -> dict[str, Path | str | None]:
        value = {name: self.environment.get(name) or None for name in (API_KEY_FILE, CERT, KEY_FILE, TOKEN_FILE)}
        paths = {name: None if text is None else Path(text) for name, text in value.items()}
        return {API_KEY: self.environment.get(API_KEY) or None, **paths}

    def _from_options(self, values: Mapping[str, Path | str | None]) -> Credential | None:
        present = {name: value for name, value in values.items() if value is not None}
        kinds = {_KINDS[name] for name in present}
        if len(kinds) > 1 or {API_KEY, API_KEY_FILE} <= present.keys():
            raise CommandError(f"{' and '.join(present)} are two credentials: give one", USAGE)
        if not kinds:
            return None
        if kinds == {"certificate"}:
            return _certificate(present)
        ((name, value),) = present.items()
        text = value if isinstance(value, str) else _line(value)
        return Credential(f"{name} {value}" if isinstance(value, Path) else name, _CHECKS[_KINDS[name]](text, name))

    async def _fetch(self, url: str, headers: Mapping[str, str]) -> bytes:
        async with outbound(self.given.oidc_ca) as out:
            return await out.get(url, headers)

    async def _fresh(self, login: Login) -> Login:
        """The login with a token that is good for a minute at least."""
        if self._is_fresh(login):
            return login
        logins = Logins.of(self.environment)
        with logins.turn(login.service):
            login = logins.find(login.service) or login  # somebody else may have had the turn before
            if self._is_fresh(login):
                return login
            if login.refresh_token is None:
                raise CommandError("the stored login has expired", USAGE, "log in again: `pqcsign login`")
            async with outbound(self.given.oidc_ca) as out:
                tokens = await refresh(out, await discover(out, login.issuer), login.client_id, login.refresh_token)
            tokens.check(unix(self.clock.now()))
            fresh = Login(
                login.service,
                login.issuer,
                login.client_id,
                tokens.subject,
                tokens.id_token,
                tokens.expires_at,
                tokens.refresh_token,
            )
            logins.keep(fresh)
        return fresh

    def _is_fresh(self, login: Login) -> bool:
        return login.expires_at - unix(self.clock.now()) >= _SPARE

    def _advice(self) -> str:
        if (found := advice(self.environment)) is not None:
            return found
        if self.oidc_only:
            return "log in with `pqcsign login`"
        ways = "log in with `pqcsign login`, or give --api-key-file or --cert"
        if self.is_own or not (self.operator / "cert.pem").exists():
            return ways
        return f"{ways}; {self.operator / 'cert.pem'} is of another deployment than {self.service}, so it is not shown"


def _api_key(text: str, where: str) -> str:
    from services.signing.callers.api_keys import is_well_formed  # here: it loads much that others never need

    if not is_well_formed(text):
        raise CommandError(f"{where} holds no API key: it was cut, or mistyped", USAGE)
    return text


_KINDS: Final[Mapping[str, str]] = {
    "--api-key-file": "API key",
    API_KEY_FILE: "API key",
    API_KEY: "API key",
    "--cert": "certificate",
    CERT: "certificate",
    "--key-file": "certificate",
    KEY_FILE: "certificate",
    "--token-file": "token",
    TOKEN_FILE: "token",
}
_CHECKS: Final[Mapping[str, Callable[[str, str], str]]] = {"API key": _api_key, "token": checked_token}


def _certificate(present: Mapping[str, Path | str]) -> Credential:
    paths = [value for value in present.values() if isinstance(value, Path)]
    if len(paths) != 2:  # noqa: PLR2004 - the certificate and its key
        raise CommandError("a certificate and its key belong together: give --cert and --key-file", USAGE)
    return Credential(f"the certificate {paths[0]}", None, *paths)


def _line(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_TOKEN + 2)
    try:
        return content.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not ASCII text", FILES) from error
