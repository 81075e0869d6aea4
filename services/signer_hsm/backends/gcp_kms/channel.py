"""The channel to KMS and who we are on it."""

import asyncio
from pathlib import Path
from typing import Any, Final

import google.auth
import grpc
from cryptography import x509
from google.auth.credentials import Credentials
from google.auth.exceptions import DefaultCredentialsError
from google.cloud.kms_v1 import KeyManagementServiceAsyncClient
from google.cloud.kms_v1.services.key_management_service.transports import (
    KeyManagementServiceGrpcAsyncIOTransport as Transport,
)

from services.signer_hsm.backends.settings import GcpKmsSettings
from services.signer_hsm.errors import MisconfiguredError

SCOPE: Final = "https://www.googleapis.com/auth/cloudkms"
MAX_ANSWER: Final = 1024 * 1024
_LOOPBACK: Final = ("127.0.0.1:", "[::1]:", "localhost:")
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_ANSWER),
    ("grpc.enable_retries", 0),  # repetitions are decided where it is known what is safe
    ("grpc.use_local_subchannel_pool", 1),  # one back end's back-off is not another's
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 30_000),  # a connection that went dead without a word is noticed
    ("grpc.keepalive_timeout_ms", 5_000),
)


async def open_client(settings: GcpKmsSettings) -> KeyManagementServiceAsyncClient:
    """A client whose channel belongs to the running event loop; connects when it is first used.

    Raises:
        MisconfiguredError: no credentials, an unreadable CA file, or plain text to another machine.
    """
    if settings.insecure_channel:
        channel = grpc.aio.insecure_channel(_loopback(settings), options=_OPTIONS)
        return KeyManagementServiceAsyncClient(transport=Transport(channel=channel))
    tls = grpc.ssl_channel_credentials(root_certificates=_roots(settings))
    # Looking for credentials reads files and may ask the machine's metadata server: once, and not on the loop.
    credentials = await asyncio.to_thread(_credentials, settings)
    transport = Transport(
        host=settings.endpoint or Transport.DEFAULT_HOST,
        credentials=credentials,
        always_use_jwt_access=True,
        ssl_channel_credentials=tls,
        channel=_bounded_channel,
    )
    return KeyManagementServiceAsyncClient(transport=transport)


def _bounded_channel(host: str, **given: Any) -> grpc.aio.Channel:  # noqa: ANN401 - what the SDK's transport hands on
    """The SDK's own channel, but with our limits: its own options lift the one on the size of an answer."""
    return Transport.create_channel(host, **(given | {"options": _OPTIONS}))


def _loopback(settings: GcpKmsSettings) -> str:
    if not settings.endpoint.startswith(_LOOPBACK):
        raise MisconfiguredError(f"{settings.name}: insecure_channel is for an endpoint on this machine only")
    return settings.endpoint


def _roots(settings: GcpKmsSettings) -> bytes | None:
    if settings.ca_file is None:
        return None
    try:
        pem = Path(settings.ca_file).read_bytes()
        x509.load_pem_x509_certificates(pem)
    except (OSError, ValueError) as error:
        raise MisconfiguredError(f"{settings.name}: ca_file {settings.ca_file} holds no PEM certificates") from error
    return pem


def _credentials(settings: GcpKmsSettings) -> Credentials:
    try:
        credentials, _project = google.auth.default(scopes=[SCOPE])
    except DefaultCredentialsError as error:
        raise MisconfiguredError(f"{settings.name}: there are no application default credentials") from error
    return credentials
