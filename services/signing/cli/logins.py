"""Where `pqcsign login` keeps its tokens: one file per service below the user's state directory, for the user alone.

A login is for one service: its token is shown to no other.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import orjson

from pkicore.encoding import write_atomically
from pkicore.errors import MalformedError
from services.chassis.fields import Fields
from services.signing.cli.failures import FILES, CommandError

_MAX_FILE: Final = 128 * 1024
_MAX_TOKEN: Final = 32 * 1024
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Login:
    """What an issuer gave for one service.

    Attributes:
        service: URL of the service that the token is shown to.
        issuer: who gave it.
        client_id: to whom.
        subject: who logged in, as the issuer calls them.
        id_token: what is shown to the service.
        expires_at: when it is of no more use, Unix seconds.
        refresh_token: good for another; None where the issuer gave none.
    """

    service: str
    issuer: str
    client_id: str
    subject: str
    id_token: str = field(repr=False)
    expires_at: int
    refresh_token: str | None = field(default=None, repr=False)


class Logins:
    """The logins of one user.

    Args:
        directory: made for the user alone where it is missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Logins:
        """Those of the user whose environment this is (XDG Base Directory Specification).

        Raises:
            CommandError: there is no home.
        """
        state = environment.get("XDG_STATE_HOME", "")
        if not Path(state).is_absolute():  # "all paths must be absolute", others are to be ignored
            home = environment.get("HOME", "")
            if not Path(home).is_absolute():
                raise CommandError("neither XDG_STATE_HOME nor HOME says where logins are kept", FILES)
            state = f"{home}/.local/state"
        return cls(Path(state) / "pqcsign")

    def find(self, service: str) -> Login | None:
        """The login for a service, None where there is none.

        Raises:
            CommandError: the file is somebody else's or open to others, or is no login.
            OSError: it cannot be read.
        """
        path = self.path(service)
        try:
            content = _read_private(path)
        except FileNotFoundError:
            return None
        try:
            return _login(Fields.parse(content), service)
        except MalformedError as error:
            raise CommandError(f"{path} is no login: {error}", FILES, "log in again: `pqcsign login`") from error

    def keep(self, login: Login) -> Path:
        """Store a login, in place of the one before.

        Raises:
            OSError: the directory cannot be written.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.path(login.service)
        write_atomically(path, orjson.dumps(asdict(login)), 0o600)
        return path

    def forget(self, service: str) -> bool:
        """Remove a login; whether there was one.

        Raises:
            OSError: it cannot be removed.
        """
        path = self.path(service)
        existed = path.exists()
        path.unlink(missing_ok=True)
        return existed

    @contextmanager
    def turn(self, service: str) -> Iterator[None]:
        """Have a login to oneself: a refresh token is often good for one use, and two commands may start at once."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path(service).with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def path(self, service: str) -> Path:
        """Where the login for a service is, or would be."""
        return self._directory / f"{hashlib.sha256(service.encode()).hexdigest()[:32]}.json"


def _read_private(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if found.st_uid != os.getuid() or found.st_mode & _OTHERS or not stat.S_ISREG(found.st_mode):
            raise CommandError(f"{path} is not yours alone", FILES, "who else had it may have used it: log in again")
        return file.read(_MAX_FILE)


def _login(body: Fields, service: str) -> Login:
    if body.text("service") != service:
        raise MalformedError("it is for another service")
    return Login(
        service,
        body.text("issuer"),
        body.text("client_id"),
        body.text("subject"),
        body.text("id_token", _MAX_TOKEN),
        body.time("expires_at"),
        body.optional_text("refresh_token", _MAX_TOKEN),
    )
