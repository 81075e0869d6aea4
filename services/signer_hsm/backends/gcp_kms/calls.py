"""One request to KMS: bounded in number and time, never repeated by the SDK, its failures in our own words."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

import grpc
from google.api_core.exceptions import GoogleAPICallError
from google.cloud.kms_v1 import KeyManagementServiceAsyncClient
from google.protobuf.message import Error as ProtobufError
from google.rpc.error_details_pb2 import RetryInfo

from services.signer_hsm.backends.settings import GcpKmsSettings
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    BusyError,
    DeadlineError,
    DeniedError,
    KeyNotFoundError,
    NotOfferedError,
    ThrottledError,
    UnavailableError,
    WrongStateError,
)

Answer = TypeVar("Answer")
Code = grpc.StatusCode

RETRY_SECONDS: Final = 1.0
SHORT_RETRY_SECONDS: Final = 0.1  # a front end that went away: another one answers at once
MAX_RETRY_SECONDS: Final = 60.0
REFUSED_MARK: Final = "pqcpki: refused"
AWAY_MARK: Final = "pqcpki: no token"


class AlreadyExistsError(WrongStateError):
    """The name is taken, perhaps by our own earlier request."""


class RefusedRequestError(BadAnswerError):
    """KMS says that the request makes no sense; what that means depends on the request."""


class GarbledAnswerError(BadAnswerError):
    """What came back is no answer; the request may have been carried out."""


_DONE_ALL_THE_SAME: Final = frozenset({Code.CANCELLED, Code.UNKNOWN, Code.ABORTED, Code.INTERNAL, Code.UNAVAILABLE})
"""What a connection that breaks and a server that fails in mid-call come out as; what was asked may have been done."""
_NEVER_SENT: Final = ("failed to connect to all addresses", "DNS resolution failed", AWAY_MARK)
"""gRPC has one code for both, and says only in words that no connection came about, or no token."""
_TOO_LONG: Final = "larger than max"  # an answer of the server's which gRPC calls RESOURCE_EXHAUSTED

_FAILURES: Final[Mapping[grpc.StatusCode, tuple[type[BackendError], str]]] = MappingProxyType(
    {
        Code.CANCELLED: (UnavailableError, "KMS gave the request up"),
        Code.UNKNOWN: (UnavailableError, "KMS failed without saying why"),
        Code.INVALID_ARGUMENT: (RefusedRequestError, "KMS does not accept the request"),
        Code.DEADLINE_EXCEEDED: (DeadlineError, "KMS did not answer in time"),
        Code.NOT_FOUND: (KeyNotFoundError, "KMS has no such key"),
        Code.ALREADY_EXISTS: (AlreadyExistsError, "the name is taken in KMS"),
        Code.PERMISSION_DENIED: (DeniedError, "KMS does not permit this to the service's account"),
        Code.RESOURCE_EXHAUSTED: (ThrottledError, "KMS wants fewer requests"),
        Code.FAILED_PRECONDITION: (WrongStateError, "the key version's state in KMS does not allow it"),
        Code.ABORTED: (UnavailableError, "another change of the key was under way in KMS"),
        Code.OUT_OF_RANGE: (RefusedRequestError, "KMS does not accept the request"),
        Code.UNIMPLEMENTED: (NotOfferedError, "KMS does not offer this"),
        Code.INTERNAL: (UnavailableError, "KMS has an internal error"),
        Code.UNAVAILABLE: (UnavailableError, "KMS is not reached"),
        Code.DATA_LOSS: (BadAnswerError, "KMS reports lost data"),
        Code.UNAUTHENTICATED: (DeniedError, "KMS does not accept the service's credentials"),
    }
)


class KmsCalls:
    """The requests of one back end.

    At most `workers` are under way and `queue` wait; a permit is kept no longer than `timeout_seconds`.
    """

    def __init__(self, client: KeyManagementServiceAsyncClient, settings: GcpKmsSettings) -> None:
        self.client = client
        self._name = settings.name
        self._timeout = settings.timeout_seconds
        self._limit = settings.workers + settings.queue
        self._permits = asyncio.Semaphore(settings.workers)
        self._present = 0
        self._under_way = 0

    @property
    def under_way(self) -> int:
        """Requests that KMS has not answered yet."""
        return self._under_way

    @property
    def waiting(self) -> int:
        """Requests that have not been sent yet."""
        return self._present - self._under_way

    async def ask(self, method: Callable[..., Awaitable[Answer]], request: object) -> Answer:
        """Send one request.

        Args:
            method: of the client.
            request: its message.

        Raises:
            BackendError: anything but an answer.
        """
        if self._present >= self._limit:
            raise BusyError(f"{self._name}: {self._limit} requests are under way or waiting", retry_after=RETRY_SECONDS)
        self._present += 1
        try:
            async with self._permits:
                return await self._send(method, request)
        finally:
            self._present -= 1

    async def _send(self, method: Callable[..., Awaitable[Answer]], request: object) -> Answer:
        self._under_way += 1
        try:
            answer = await method(request=request, retry=None, timeout=self._timeout)
        except GoogleAPICallError as error:
            raise self._failure(error) from error
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            # A channel that is closed under a request ends it like this, though nobody cancelled the caller.
            raise UnavailableError(f"{self._name}: the channel to KMS was closed", uncertain=True) from error
        except grpc.aio.UsageError as error:
            raise UnavailableError(f"{self._name}: the channel to KMS is closed") from error
        except (ValueError, ProtobufError) as error:
            # The SDK lets its own parser's errors through when a status comes with details that contradict it.
            raise GarbledAnswerError(f"{self._name}: KMS answered with what makes no sense") from error
        finally:
            self._under_way -= 1
        if answer is None:  # what gRPC makes of octets that are no message
            raise GarbledAnswerError(f"{self._name}: KMS answered with what is no message")
        return answer

    def _failure(self, error: GoogleAPICallError) -> BackendError:
        code = error.grpc_status_code if error.grpc_status_code in _FAILURES else Code.UNKNOWN
        kind, sentence = _FAILURES[code]
        if kind is UnavailableError and REFUSED_MARK in error.message:
            kind, sentence = DeniedError, "no access token is to be had with the service's credentials"
        return kind(
            f"{self._name}: {sentence}", retry_after=_retry_after(kind, error), uncertain=_is_uncertain(code, error)
        )

    async def aclose(self) -> None:
        """Close the channel; requests under way fail."""
        await self.client.transport.close()  # type: ignore[no-untyped-call]  # the SDK annotates no result


def _is_uncertain(code: grpc.StatusCode, error: GoogleAPICallError) -> bool:
    if code in {Code.DEADLINE_EXCEEDED, Code.DATA_LOSS}:
        return True
    if code is Code.RESOURCE_EXHAUSTED:
        return _TOO_LONG in error.message
    unsent = REFUSED_MARK in error.message or any(words in error.message for words in _NEVER_SENT)
    return code in _DONE_ALL_THE_SAME and not unsent


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _retry_after(kind: type[BackendError], error: GoogleAPICallError) -> float | None:
    if kind not in {UnavailableError, ThrottledError}:
        return None
    for detail in error.details:
        if isinstance(detail, RetryInfo):
            seconds: float = detail.retry_delay.ToMilliseconds() / 1000
            return min(max(seconds, 0.0), MAX_RETRY_SECONDS)
    return RETRY_SECONDS if kind is ThrottledError else SHORT_RETRY_SECONDS
