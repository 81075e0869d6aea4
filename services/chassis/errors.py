"""The errors of the chassis.

ChassisError
├─ SettingsError            a setting that is missing, unknown or out of bounds; the sentence names it
├─ BindError                a listener's address that cannot be had
├─ DeploymentError          a directory in which nothing runs, or whose files make no sense
├─ PolicyError              a caller policy file that makes no sense
├─ ForbiddenError           a caller that the policy does not allow
├─ OutboundError            a request to a host that somebody else has named came to nothing
│  ├─ NotResolvedError        its name has no address, or DNS did not say
│  └─ NotReachedError         no address may be dialled, none answers, or the answer is not HTTP
├─ RequestError             a request that breaks a rule of HTTP or of this server's frame
│  ├─ RouteNotFoundError
│  ├─ MethodNotAllowedError   `.allowed`
│  ├─ MediaTypeError          `.expected`
│  ├─ BodyTooLargeError       `.limit` in bytes
│  ├─ BodyTimeoutError        the body did not arrive in time
│  ├─ BodyMalformedError      a body that is not the JSON that was asked for
│  └─ ClientGoneError         the caller hung up while sending
└─ DatabaseError
   ├─ ConflictError         a conditional write met another state; nothing of its unit was written
   ├─ DuplicateError        a unique key exists already
   ├─ ConstraintError       a foreign key, NOT NULL or CHECK rule
   ├─ InvalidValueError     a value that the column cannot hold
   ├─ OverloadedError       the queue of writes is full
   └─ UnavailableError      disk full, connection lost, locked for too long, closed
      └─ CommitUnknownError   the connection went while COMMIT was under way: it may have happened
"""


class ChassisError(Exception):
    """The root of this package's errors."""


class SettingsError(ChassisError):
    """A setting is missing, unknown or out of bounds."""


class BindError(ChassisError):
    """A listener's address cannot be had."""


class DeploymentError(ChassisError):
    """A directory holds no running deployment, or its files make no sense."""


class PolicyError(ChassisError):
    """A caller policy makes no sense."""


class ForbiddenError(ChassisError):
    """The policy does not allow this caller to call this endpoint."""


class OutboundError(ChassisError):
    """A request to a host that somebody else has named came to nothing; the sentence holds nothing that was fetched."""


class NotResolvedError(OutboundError):
    """The host has no address, or DNS did not say."""


class NotReachedError(OutboundError):
    """None of the host's addresses may be dialled, none answers, or the answer is not HTTP."""


class RequestError(ChassisError):
    """A request breaks a rule of HTTP or of the frame."""


class RouteNotFoundError(RequestError):
    """No route has this path."""


class MethodNotAllowedError(RequestError):
    """The path exists, the method does not."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__("this resource answers " + ", ".join(allowed))
        self.allowed = allowed


class MediaTypeError(RequestError):
    """The request's Content-Type is not one that the resource takes."""

    def __init__(self, expected: tuple[str, ...]) -> None:
        super().__init__("the Content-Type must be " + " or ".join(expected))
        self.expected = expected


class BodyTooLargeError(RequestError):
    """The request's body is longer than the resource takes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is longer than {limit} bytes")
        self.limit = limit


class BodyTimeoutError(RequestError):
    """The request's body did not arrive in time."""


class BodyMalformedError(RequestError):
    """The request's body is not the JSON that was asked for."""


class ClientGoneError(RequestError):
    """The caller hung up before its request was complete."""


class DatabaseError(ChassisError):
    """The database refused or could not do what was asked."""


class ConflictError(DatabaseError):
    """A conditional write met another state; nothing of its unit was written.

    Attributes:
        label: The unit's label.
        write: Which of its writes, from 0.
        rows: How many rows it changed.
    """

    def __init__(self, label: str, write: int, rows: int, expected: int) -> None:
        super().__init__(f"{label}: write {write} changed {rows} rows where {expected} were expected")
        self.label = label
        self.write = write
        self.rows = rows


class DuplicateError(DatabaseError):
    """A unique key exists already; nothing of the unit was written."""


class ConstraintError(DatabaseError):
    """A foreign key, NOT NULL or CHECK rule was broken; nothing of the unit was written."""


class InvalidValueError(DatabaseError):
    """A value does not fit its column (NUL in a text, a number beyond 64 bits, not UTF-8)."""


class OverloadedError(DatabaseError):
    """More units wait to be written than the queue may hold; try again later."""


class UnavailableError(DatabaseError):
    """The database cannot be reached or cannot write; what was asked did not happen."""


class CommitUnknownError(UnavailableError):
    """The connection went while COMMIT was under way: the unit may have been written."""
