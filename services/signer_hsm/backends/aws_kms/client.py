"""The SDK's client in threads of its own; whatever it raises comes out as a `BackendError`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import Any, Final, Literal, Self, TypeAlias

import boto3
from botocore.config import Config

from pkicore.clock import Clock
from services.signer_hsm.backends.aws_kms.failures import are_credentials_stale, failure_of, opening_failure_of
from services.signer_hsm.backends.lane import Lane
from services.signer_hsm.backends.settings import AwsKmsSettings

Answer: TypeAlias = Mapping[str, object]

METHODS: Final[Mapping[str, str]] = {
    "CreateKey": "create_key",
    "CreateAlias": "create_alias",
    "DescribeKey": "describe_key",
    "GetPublicKey": "get_public_key",
    "Sign": "sign",
    "EnableKey": "enable_key",
    "DisableKey": "disable_key",
    "ScheduleKeyDeletion": "schedule_key_deletion",
    "ListAliases": "list_aliases",
    "ListKeys": "list_keys",
    "ListResourceTags": "list_resource_tags",
}
FIRST_BACKOFF_SECONDS: Final = 0.05
RENEWAL_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Clients:
    """Two clients of one session: one repeats what failed in passing, the other nothing.

    CreateKey and Sign have no idempotency token: a repetition after a lost answer would make a second key or signature.
    """

    repeating: Any
    once: Any

    def close(self) -> None:
        self.repeating.close()
        self.once.close()


class KmsClient:
    """Calls the API in threads of its own; reads the credentials anew when AWS no longer takes the ones it has.

    Attributes:
        lane: the threads.
    """

    def __init__(self, settings: AwsKmsSettings, clock: Clock, make_session: Callable[[], Any] = boto3.Session) -> None:
        """Nothing is opened yet.

        Args:
            settings: of the back end.
            clock: to tell a clock that is off.
            make_session: the SDK's session, with the SDK's usual sources of credentials.
        """
        self.lane = Lane(settings.name, settings.workers, settings.queue)
        self._settings = settings
        self._clock = clock
        self._make_session = make_session
        self._lock = Lock()
        self._clients: _Clients | None = None
        self._renewable_at = 0.0

    async def open(self) -> Self:
        """Make the clients in the lane: it takes 0.2 s, and credentials may come over the network.

        Raises:
            MisconfiguredError: the settings make no client.
        """
        try:
            await self.lane.run(self._current)
        except Exception as error:
            await self.lane.aclose()
            raise opening_failure_of(error) from error
        return self

    async def call(self, operation: str, **parameters: object) -> Answer:
        """One call of the API, by the API's own names.

        Raises:
            BackendError: it failed; the SDK's exception is the cause.
        """
        return await self.lane.run(self._call, "repeating", operation, parameters)

    async def call_once(self, operation: str, **parameters: object) -> Answer:
        """The same, and the SDK repeats nothing."""
        return await self.lane.run(self._call, "once", operation, parameters)

    def _call(self, how: Literal["repeating", "once"], operation: str, parameters: Mapping[str, object]) -> Answer:
        clients = None
        try:
            clients = self._current()
            client = clients.once if how == "once" else clients.repeating
            answer: Answer = getattr(client, METHODS[operation])(**parameters)
        except Exception as error:  # the SDK's parser raises whatever it trips over in a garbled answer
            if clients is not None and are_credentials_stale(error):
                self._discard(clients)
            raise failure_of(error, operation, self._clock.now()) from error
        return answer

    def _current(self) -> _Clients:
        with self._lock:
            if self._clients is None:
                session = self._make_session()
                attempts, seconds = self._settings.attempts, self._settings.deadline_seconds
                connect, read = timeouts(self._settings, attempts)
                self._clients = _Clients(
                    repeating=_client(session, self._settings, connect, read, attempts),
                    once=_client(session, self._settings, connect, seconds, 1),  # a long RSA key takes its time
                )
            return self._clients

    def _discard(self, clients: _Clients) -> None:
        """The next call makes new clients; not more often than now and then, for it costs 0.2 s."""
        with self._lock:
            if self._clients is not clients or monotonic() < self._renewable_at:
                return
            self._clients = None
            self._renewable_at = monotonic() + RENEWAL_SECONDS
        clients.close()

    async def aclose(self) -> None:
        """Close connections and threads."""
        await self.lane.aclose()
        if self._clients is not None:
            self._clients.close()


def _client(session: Any, settings: AwsKmsSettings, connect: float, read: float, attempts: int) -> Any:  # noqa: ANN401 - the SDK has no types
    config = Config(
        connect_timeout=connect,
        read_timeout=read,
        max_pool_connections=settings.workers,
        retries={"mode": "standard", "total_max_attempts": attempts},
        ignore_configured_endpoint_urls=True,
        tcp_keepalive=True,
    )
    return session.client(
        "kms",
        region_name=settings.region,
        endpoint_url=settings.endpoint_url or None,
        verify=str(settings.ca_file) if settings.ca_file else None,
        config=config,
    )


def timeouts(settings: AwsKmsSettings, attempts: int) -> tuple[float, float]:
    """Time-outs of connecting and reading, shortened where all attempts would not fit into the deadline."""
    backoff = FIRST_BACKOFF_SECONDS * (2 ** (attempts - 1) - 1)
    share = max(settings.deadline_seconds - backoff, settings.deadline_seconds / 2) / attempts
    connect = min(settings.connect_timeout_seconds, share / 2)
    return connect, min(settings.timeout_seconds, share - connect)
