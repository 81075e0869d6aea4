"""One token: found by label or serial, logged in once, a session for each thread, and what revives them.

The login belongs to the process, not to a session, and counts for all of them. Its session is never closed while the
back end is open. Nothing here is repeated that could lock the PIN.
"""

import hmac
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import structlog
from pkcs11 import Attribute, ObjectClass, Session, Token, TokenFlag
from pkcs11.exceptions import MultipleObjectsReturned, NoSuchKey, PKCS11Error, SessionHandleInvalid
from pkcs11.types import Object, SignMixin

from services.signer_hsm.backends.pkcs11 import cryptoki
from services.signer_hsm.backends.pkcs11.errors import RETRY_SECONDS, STALE, BrokenOffError, translate
from services.signer_hsm.backends.pkcs11.keys import ed25519_works, is_handle, schemes_of_object
from services.signer_hsm.backends.pkcs11.mechanisms import Offers, probe
from services.signer_hsm.backends.pkcs11.module import Module
from services.signer_hsm.backends.pkcs11.settings import read_pin
from services.signer_hsm.backends.settings import Pkcs11Settings
from services.signer_hsm.errors import BackendError, MisconfiguredError, SecretRefusedError, UnavailableError

Result = TypeVar("Result")

_CACHED_KEYS: Final = 4096
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, eq=False)
class Connection:
    """A login, and what it is good for; threads compare it by identity.

    Attributes:
        token: as python-pkcs11 knows it.
        session: read-write, kept open for the sake of the login; keys are made and destroyed in it, one at a time.
        generation: the module's, when it was made.
    """

    token: Token
    session: Session
    generation: int


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A private key that a session can use, and the schemes that it signs with: a module signs with any."""

    key: SignMixin
    schemes: frozenset[str]


@dataclass(slots=True)
class ThreadSession:
    """A session that one thread has for itself, with the private keys it has found."""

    connection: Connection
    session: Session
    module: Module
    keys: dict[str, FoundKey] = field(default_factory=dict)

    def find(self, handle: str) -> FoundKey:
        """The private key with this CKA_ID (in hexadecimal), looked up once.

        Raises:
            PKCS11Error: there is none, more than one, or the search failed.
        """
        found = search(self.module, self.session, ObjectClass.PRIVATE_KEY, handle) if is_handle(handle) else []
        if not found:
            raise NoSuchKey
        key = found[0]
        if len(found) > 1 or not isinstance(key, SignMixin):
            raise MultipleObjectsReturned
        if len(self.keys) >= _CACHED_KEYS:
            self.keys.clear()
        self.keys[handle] = FoundKey(key, schemes_of_object(key))
        return self.keys[handle]


def serial_of(token: Token) -> str:
    """The token's serial number."""
    return token.serial.decode(errors="replace")


def search(module: Module, session: Session, kind: ObjectClass, handle: str) -> list[Object]:
    """The objects of a class with this CKA_ID (in hexadecimal).

    Raises:
        PKCS11Error: the search failed.
    """
    if not module.cryptoki.alive(session):
        raise SessionHandleInvalid  # python-pkcs11 does not clean up after a search that could not begin
    return list(session.get_objects({Attribute.CLASS: kind, Attribute.ID: bytes.fromhex(handle)}))


class TokenSessions:
    """The sessions of one back end."""

    def __init__(self, module: Module, settings: Pkcs11Settings) -> None:
        self.module = module
        self._settings = settings
        self._lock = threading.RLock()
        self._own = threading.local()
        self._connection: Connection | None = None
        self._opened: list[Session] = []
        self._refused: bytes | None = None
        self.offers: Offers = {}
        self.logins = 0

    @property
    def connected(self) -> bool:
        """Whether there is a login to use, as far as is known."""
        return self._connection is not None

    def call(self, act: Callable[..., Result], *arguments: object, check_first: bool = False) -> Result:
        """`act(thread's session, *arguments)`; once more with new handles where the old ones have gone stale.

        Args:
            act: what to do.
            arguments: for it.
            check_first: for what must not be repeated: look whether token and login are there, then do it once.

        Raises:
            BackendError: it failed.
        """
        connection = self.look() if check_first else self.connect()
        try:
            return self._attempt(connection, act, arguments)
        except BrokenOffError as broken:
            self._let_go_of_the_stale(connection)
            raise self._failed(broken.error) from broken.error
        except PKCS11Error as error:
            if check_first or type(error) not in STALE:
                raise self._failed(error) from error
            _log.debug("pkcs11 handle gone stale", backend=self._settings.name, error=type(error).__name__)
        self._let_go_of_the_stale(connection)
        try:
            return self._attempt(self.connect(), act, arguments)
        except BrokenOffError as broken:
            raise self._failed(broken.error) from broken.error
        except PKCS11Error as error:
            raise self._failed(error) from error

    def _failed(self, error: PKCS11Error) -> BackendError:
        level = logging.DEBUG if type(error) is NoSuchKey else logging.WARNING
        _log.log(level, "pkcs11 call failed", backend=self._settings.name, error=type(error).__name__)
        return translate(error)

    def _attempt(self, connection: Connection, act: Callable[..., Result], arguments: tuple[object, ...]) -> Result:
        with self.module.gate:
            if connection is not self._connection or connection.generation != self.module.generation:
                raise SessionHandleInvalid
            own: ThreadSession | None = getattr(self._own, "session", None)
            if own is None or own.connection is not connection:
                own = self._open(connection)
            return act(own, *arguments)

    def _open(self, connection: Connection) -> ThreadSession:
        session = connection.token.open()
        self._opened.append(session)
        self._own.session = own = ThreadSession(connection, session, self.module)
        return own

    def connect(self) -> Connection:
        """The connection, made if there is none.

        Raises:
            UnavailableError: the module or the token is not there.
            MisconfiguredError: two tokens fit, or the PIN was refused.
        """
        connection = self._connection
        if connection is not None and connection.generation == self.module.generation:
            return connection
        with self._lock:
            connection = self._connection
            if connection is not None and connection.generation == self.module.generation:
                return connection
            self._connection = None
            seen = self.module.generation
            if seen:
                try:
                    return self._connect()
                except PKCS11Error as error:
                    if type(error) not in STALE:
                        raise self._failed(error) from error
                    _log.warning("pkcs11 module restarts", backend=self._settings.name, error=type(error).__name__)
            self.module.start(seen)
            try:
                return self._connect()
            except PKCS11Error as error:
                raise self._failed(error) from error

    def _connect(self) -> Connection:
        with self.module.gate:
            generation = self.module.generation
            token = self._find_token()
            offers = probe(token.slot)
            session = token.open(rw=True)
            try:
                self._log_in(token, session)
                if "ed25519" in offers and not ed25519_works(session):
                    offers = {name: kinds for name, kinds in offers.items() if name != "ed25519"}
            except BaseException:
                session.close()
                raise
        self.offers = offers
        self._opened = [session]
        self._connection = Connection(token, session, generation)
        _log.info("pkcs11 token ready", backend=self._settings.name, label=token.label, serial=serial_of(token))
        return self._connection

    def _find_token(self) -> Token:
        if self._settings.token_label:
            return self.module.library.get_token(token_label=self._settings.token_label)
        return self.module.library.get_token(token_serial=self._settings.token_serial.encode())

    def _log_in(self, token: Token, session: Session) -> None:
        if self.module.cryptoki.logged_in(session):
            return
        try:
            pin = read_pin(self._settings)
        except MisconfiguredError as error:  # it was there at the start, and may be again
            raise SecretRefusedError(str(error)) from error
        if self._refused is not None and hmac.compare_digest(pin, self._refused):
            raise SecretRefusedError("the token has refused this PIN; it is not tried again until it has changed")
        if token.flags & TokenFlag.USER_PIN_LOCKED:
            raise SecretRefusedError("the token's user PIN is locked")
        if token.flags & TokenFlag.USER_PIN_FINAL_TRY:
            raise SecretRefusedError("one more wrong PIN would lock the token; log in by hand first")
        self.logins += 1
        status = self.module.cryptoki.login(session, pin)
        if status in {cryptoki.OK, cryptoki.USER_ALREADY_LOGGED_IN}:
            return
        if status in cryptoki.MAY_PASS:
            raise UnavailableError(f"the token does not log in: {status:#x}", retry_after=RETRY_SECONDS)
        self._refused = pin
        _log.error("pkcs11 PIN refused", backend=self._settings.name, status=f"{status:#x}")
        raise SecretRefusedError("the token refuses the PIN; it is not tried again until it has changed")

    def _let_go_of_the_stale(self, seen: Connection) -> None:
        """Forget this thread's handles, and the connection with every session if token or login have gone."""
        if not self._still_there(seen):
            return
        own: ThreadSession | None = getattr(self._own, "session", None)
        with self.module.gate:
            if own is not None and own.connection is seen and self.module.cryptoki.alive(own.session):
                own.keys.clear()
            else:
                self._own.session = None

    def _still_there(self, seen: Connection) -> bool:
        """Whether this connection is still the one to use; it is given up if token or login have gone."""
        with self._lock:
            if self._connection is seen and not self.present(seen):
                self._hang_up()
            return self._connection is seen

    def _hang_up(self) -> None:
        """Close what is still open, with the gate closed: a handle given out again must not meet its last owner."""
        connection, self._connection = self._connection, None
        with self.module.gate.closed():
            if connection is not None and connection.generation == self.module.generation:
                for session in self._opened:
                    if self.module.cryptoki.alive(session):
                        session.close()

    def look(self) -> Connection:
        """The connection, after looking whether token and login are there, and reviving them if not.

        Raises:
            BackendError: they are not there.
        """
        connection = self.connect()
        return connection if self._still_there(connection) else self.connect()

    def present(self, connection: Connection) -> bool:
        """Whether the token is in its slot and this process is logged in; a session alone can outlive both."""
        try:
            with self.module.gate:
                if connection.generation != self.module.generation:
                    return False
                token = connection.token.slot.get_token()
                same = (token.label, token.serial) == (connection.token.label, connection.token.serial)
                return same and self.module.cryptoki.logged_in(connection.session)
        except PKCS11Error:
            return False

    def close(self) -> None:
        """Close the sessions; the module logs out with the last one of the process.

        Raises:
            UnavailableError: the module is stuck in a call.
        """
        with self._lock:
            self._hang_up()
