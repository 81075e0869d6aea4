"""The SDK's client in threads of its own; whatever it raises comes out as a `BackendError`."""

from collections.abc import Mapping
from typing import Any, Final, Self, TypeAlias

import boto3
from botocore.config import Config

from pkicore.clock import Clock
from services.signer_hsm.backends.aws_kms.failures import failure_of
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
ONCE: Final = "CreateKey"
FIRST_BACKOFF_SECONDS: Final = 0.05


class KmsClient:
    """Two clients of one session: one repeats what failed in passing, the other makes keys and repeats nothing.

    CreateKey has no idempotency token, so a repetition after a lost answer would leave a second key.
    """

    def __init__(self, repeating: Any, once: Any, lane: Lane, clock: Clock) -> None:  # noqa: ANN401 - untyped SDK
        self._repeating = repeating
        self._once = once
        self.lane = lane
        self._clock = clock

    @classmethod
    async def open(cls, settings: AwsKmsSettings, clock: Clock, session: boto3.Session | None = None) -> Self:
        """Make the clients in the lane: it takes 0.2 s, and credentials may come over the network.

        Args:
            settings: of the back end.
            clock: to tell a clock that is off.
            session: the SDK's session, if not one with the usual sources of credentials.

        Raises:
            MisconfiguredError: the settings make no client.
            DeniedError: the credentials' source refuses.
        """
        lane = Lane(settings.name, settings.workers, settings.queue)

        def make() -> tuple[Any, Any]:
            try:
                used = session or boto3.Session()
                return _client(used, settings, settings.attempts), _client(used, settings, 1)
            except Exception as error:
                raise failure_of(error, "opening", clock.now()) from error

        try:
            repeating, once = await lane.run(make)
        except BaseException:
            await lane.aclose()
            raise
        return cls(repeating, once, lane, clock)

    async def call(self, operation: str, **parameters: object) -> Answer:
        """One call of the API, by the API's own names.

        Raises:
            BackendError: it failed; the SDK's exception is the cause.
        """
        return await self.lane.run(self._call, operation, parameters)

    def _call(self, operation: str, parameters: Mapping[str, object]) -> Answer:
        client = self._once if operation == ONCE else self._repeating
        try:
            answer: Answer = getattr(client, METHODS[operation])(**parameters)
        except Exception as error:  # the SDK's parser raises whatever it trips over in a garbled answer
            raise failure_of(error, operation, self._clock.now()) from error
        return answer

    async def aclose(self) -> None:
        """Close connections and threads."""
        self._repeating.close()
        self._once.close()
        await self.lane.aclose()


def _client(session: boto3.Session, settings: AwsKmsSettings, attempts: int) -> Any:  # noqa: ANN401 - untyped SDK
    connect, read = _timeouts(settings, attempts)
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


def _timeouts(settings: AwsKmsSettings, attempts: int) -> tuple[float, float]:
    """Time-outs of connecting and reading, shortened where all attempts would not fit into the deadline."""
    backoff = FIRST_BACKOFF_SECONDS * (2 ** (attempts - 1) - 1)
    share = max(settings.deadline_seconds - backoff, settings.deadline_seconds / 2) / attempts
    connect = min(settings.connect_timeout_seconds, share / 2)
    return connect, min(settings.timeout_seconds, share - connect)
