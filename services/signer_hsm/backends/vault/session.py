"""The token: got by AppRole or from a file, renewed before it expires, replaced when it is refused; never logged.

1. A call carries the token that there is; the first call, and one after its expiry, logs in.
2. After two thirds of its time it is renewed in the background; calls go on with it meanwhile.
3. Near its maximum TTL a renewal gives less than half of what the login gave: then there is a fresh login.
4. On 403 the token is looked up once. If it stands, the policy refuses: denied. If not: one login, one repetition.
5. A refused login is not tried again for a while, unless the files change: secret ids can be used up and users locked.

Source: Vault's and OpenBao's documentation of tokens and AppRole.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

import requests
from hvac import exceptions as hvac

from pkicore.clock import Clock
from pkicore.errors import PkiError
from pkicore.keys.passphrase import read_passphrase
from services.signer_hsm.backends.settings import VaultSettings
from services.signer_hsm.backends.vault.errors import translate
from services.signer_hsm.backends.vault.http import Answer, Body, VaultHttp
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    DeadlineError,
    DeniedError,
    KeyNotFoundError,
    MisconfiguredError,
    UnavailableError,
    nothing_done,
)

_TOKEN: Final = re.compile(r"[!-~]{1,4096}", re.ASCII)
_FIRST_PAUSE: Final = timedelta(seconds=5)
_LONGEST_PAUSE: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Token:
    """A token and its time.

    Attributes:
        value: secret.
        lease: for how long it was given; zero: for ever.
        since: when this time began.
        renewable: whether renewing is worth a try.
    """

    value: str = field(repr=False)
    lease: timedelta
    since: datetime
    renewable: bool

    def expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return bool(self.lease) and now >= self.since + self.lease

    def due(self, now: datetime) -> bool:
        """Whether two thirds of its time are over."""
        return bool(self.lease) and now >= self.since + self.lease * 2 / 3

    def seconds_left(self, now: datetime) -> int | None:
        """Until it expires; None: it does not."""
        return max(0, int((self.since + self.lease - now).total_seconds())) if self.lease else None


class Session:
    """Calls with a token; may be used by many threads, of which one at a time logs in."""

    def __init__(self, http: VaultHttp, settings: VaultSettings, clock: Clock) -> None:
        self._http = http
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._lease = timedelta()  # what the login gave
        self._pause = _FIRST_PAUSE
        self._refused: tuple[datetime, tuple[int, ...]] | None = None

    def check_files(self) -> None:
        """Read the files with the credentials once, when the service starts.

        Raises:
            MisconfiguredError: one is missing, empty or open to others.
        """
        if self._settings.role_id_file is not None:
            _role_id(self._settings.role_id_file)
        for path in (self._settings.secret_id_file, self._settings.token_file):
            if path is not None:
                _secret(path)

    def call(
        self,
        method: str,
        path: str,
        body: Body | None = None,
        *,
        request_id: str | None = None,
        slow: bool = False,
    ) -> Answer:
        """One request with the token.

        Raises:
            DeniedError: the token's policy does not allow it, or the login is refused.
            UnavailableError: the login did not work out.
            VaultError: (hvac) the server refuses for another reason.
            RequestException: (requests) it was not reached, or did not answer.
        """
        token = self._current()
        try:
            return self._http.call(method, path, body, token=token.value, request_id=request_id, slow=slow)
        except hvac.Forbidden:
            token = self._replaced(token)
        try:
            return self._http.call(method, path, body, token=token.value, request_id=request_id, slow=slow)
        except hvac.Forbidden as error:
            raise DeniedError("Vault refuses a token that it has just given") from error

    def lookup(self) -> None:
        """Ask the server whether the token stands; log in if it does not.

        Raises:
            BackendError: it does not, and a login does not work out.
        """
        try:
            self.call("GET", "auth/token/lookup-self")
        except (hvac.VaultError, requests.RequestException) as error:
            raise translate(error, "looking the token up") from error

    @property
    def seconds_left(self) -> int | None:
        """Of the token's time; None: there is no token, or it does not expire."""
        token = self._token
        return token.seconds_left(self._clock.now()) if token else None

    @property
    def renewal_due(self) -> bool:
        """Whether `renew` should be called; false while there is no token."""
        token = self._token
        return token is not None and token.due(self._clock.now())

    def renew(self) -> None:
        """Give the token more time, or replace it by a fresh login; calls go on with the old one meanwhile.

        Raises:
            BackendError: neither worked out; the old one serves as long as it lasts.
        """
        token = self._token
        if token is None:
            return
        try:
            fresh = self._renewed(token)
        except (hvac.VaultError, BadAnswerError):
            fresh = None  # not renewable any more, or revoked
        except requests.RequestException as error:
            raise translate(error, "renewing the token") from error
        if fresh is None or fresh.lease * 2 < self._lease:
            fresh = self._fresh(fresh)
        with self._lock:
            if self._token is token:
                self._token = fresh

    def _fresh(self, renewed: Token | None) -> Token:
        """A new login's token; else the renewed one, as long as that lasts."""
        try:
            with self._lock:
                return self._login()
        except BackendError:
            if renewed is None:
                raise
            return renewed

    def _renewed(self, token: Token) -> Token | None:
        if not token.renewable:
            return None
        since = self._clock.now()
        answer = self._http.call("POST", "auth/token/renew-self", {}, token=token.value)
        return _token_of(answer.body.get("auth"), since)

    def _current(self) -> Token:
        token = self._token
        if token is not None and not token.expired(self._clock.now()):
            return token
        with self._lock:
            if self._token is None or self._token.expired(self._clock.now()):
                self._token = self._login()
            return self._token

    def _replaced(self, refused: Token) -> Token:
        with self._lock:
            if self._token is not None and self._token is not refused:
                return self._token
            if self._stands(refused):
                raise DeniedError("Vault's policy does not let this service's token do that")
            self._token = None
            self._token = self._login()
            return self._token

    def _stands(self, token: Token) -> bool:
        try:
            self._http.call("GET", "auth/token/lookup-self", token=token.value)
        except hvac.Forbidden:
            return False
        except (hvac.VaultError, requests.RequestException) as error:
            with nothing_done():
                raise translate(error, "looking the token up") from error
        return True

    def _login(self) -> Token:
        """A fresh token; the lock is held."""
        now = self._clock.now()
        stamps = self._stamps()
        if self._refused and self._refused[0] > now and self._refused[1] == stamps:
            raise DeniedError("Vault has refused this service's login; it is tried again a little later")
        try:
            token = self._token_of_file(now) if self._settings.token_file else self._token_of_approle(now)
        except (hvac.Forbidden, hvac.InvalidRequest, hvac.Unauthorized) as error:
            self._refused = (now + self._pause, stamps)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            raise DeniedError("Vault refuses this service's login") from error
        except (hvac.VaultError, requests.RequestException, MisconfiguredError) as error:
            _raise_of_login(error)
        self._refused, self._pause, self._lease = None, _FIRST_PAUSE, token.lease
        return token

    def _token_of_approle(self, now: datetime) -> Token:
        role, secret = self._settings.role_id_file, self._settings.secret_id_file
        if role is None or secret is None:
            raise MisconfiguredError("give role_id_file and secret_id_file")
        body = {"role_id": _role_id(role), "secret_id": _secret(secret)}
        answer = self._http.call("POST", f"auth/{self._settings.approle_mount.strip('/')}/login", body)
        return _token_of(answer.body.get("auth"), now)

    def _token_of_file(self, now: datetime) -> Token:
        if self._settings.token_file is None:
            raise MisconfiguredError("give token_file")
        value = _secret(self._settings.token_file)
        found = self._http.call("GET", "auth/token/lookup-self", token=value).data
        auth = {"client_token": value, "lease_duration": found.get("ttl"), "renewable": found.get("renewable", False)}
        return _token_of(auth, now)

    def _stamps(self) -> tuple[int, ...]:
        """When the files with the credentials were written last: new ones are tried at once."""
        files = (self._settings.role_id_file, self._settings.secret_id_file, self._settings.token_file)
        return tuple(_written(path) for path in files if path is not None)


def _raise_of_login(error: Exception) -> NoReturn:
    """A login that got no answer has done nothing of what the caller asked for; files may be put right at run time."""
    if isinstance(error, MisconfiguredError):
        sentence = "Vault, logging in: a file with the credentials is missing, empty or open to others"
        raise UnavailableError(sentence, retry_after=1) from error
    ours = translate(error, "logging in")
    ours.uncertain = False
    if isinstance(ours, DeadlineError | KeyNotFoundError):
        raise UnavailableError("Vault, logging in: no answer in time, or no such auth method", retry_after=1) from error
    raise ours from error


def _token_of(auth: object, since: datetime) -> Token:
    """The token in an answer's `auth`; the server's word is bounded before it becomes a header."""
    facts: dict[str, Any] = auth if isinstance(auth, dict) else {}
    value, lease = facts.get("client_token"), facts.get("lease_duration")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise BadAnswerError("Vault's answer to the login has no usable token")
    if type(lease) is not int or not 0 <= lease <= 10**9:
        raise BadAnswerError("Vault's answer to the login has no usable lease duration")
    return Token(value, timedelta(seconds=lease), since, facts.get("renewable") is True)


def _secret(path: Path) -> str:
    try:
        value = read_passphrase(path).decode("ascii").strip()
    except (PkiError, UnicodeDecodeError) as error:
        raise MisconfiguredError(f"{path} is missing, empty, not ASCII, or open to others (chmod 600)") from error
    if not _TOKEN.fullmatch(value):
        raise MisconfiguredError(f"{path} has more in it than one word")
    return value


def _role_id(path: Path) -> str:
    try:
        value = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise MisconfiguredError(f"{path} cannot be read, or is not ASCII") from error
    if not _TOKEN.fullmatch(value):
        raise MisconfiguredError(f"{path} has more in it than one word, or nothing")
    return value


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
