"""The channel to KMS and who we are on it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import google.auth
import grpc
from cryptography import x509
from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.auth.transport.grpc import AuthMetadataPlugin
from google.auth.transport.requests import Request
from google.cloud.kms_v1 import KeyManagementServiceAsyncClient
from google.cloud.kms_v1.services.key_management_service.transports import (
    KeyManagementServiceGrpcAsyncIOTransport as Transport,
)

from services.signer_hsm.backends.gcp_kms.calls import AWAY_MARK, REFUSED_MARK
from services.signer_hsm.backends.settings import GcpKmsSettings
from services.signer_hsm.errors import MisconfiguredError, UnavailableError

SCOPE: Final = "https://www.googleapis.com/auth/cloudkms"
HOST: Final = "cloudkms.googleapis.com"
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


class TokenPlugin(AuthMetadataPlugin):
    """Gives each request its token, and tells a token that is refused from a token server that is away.

    gRPC hands on only the text of what fails here, so the difference is put into the text.
    """

    def __call__(self, context: object, callback: Callable[[object, BaseException | None], None]) -> None:
        """Called by gRPC in a thread of its own."""
        try:
            super().__call__(context, callback)  # type: ignore[no-untyped-call]  # the SDK annotates nothing here
        except GoogleAuthError as error:
            away = isinstance(error, TransportError) or error.retryable
            callback((), RuntimeError(f"{AWAY_MARK if away else REFUSED_MARK}: {error}"))


async def open_client(settings: GcpKmsSettings) -> KeyManagementServiceAsyncClient:
    """A client whose channel belongs to the running event loop; connects when it is first used.

    Raises:
        MisconfiguredError: no credentials, an unreadable CA file, or plain text to another machine.
        UnavailableError: the credentials have to be asked for, and who gives them is away.
    """
    if settings.insecure_channel:
        channel = grpc.aio.insecure_channel(_loopback(settings), options=_OPTIONS)
    else:
        tls = grpc.ssl_channel_credentials(root_certificates=_roots(settings))
        # Looking for credentials reads files and may ask the machine's metadata server: once, and not on the loop.
        credentials = await asyncio.to_thread(_credentials, settings)
        plugin = TokenPlugin(credentials, Request(), default_host=HOST)  # type: ignore[no-untyped-call]  # likewise
        tokens = grpc.metadata_call_credentials(plugin)
        channel = grpc.aio.secure_channel(
            settings.endpoint or f"{HOST}:443", grpc.composite_channel_credentials(tls, tokens), options=_OPTIONS
        )
    return KeyManagementServiceAsyncClient(transport=Transport(channel=channel))


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
    except TransportError as error:
        raise UnavailableError(f"{settings.name}: whoever gives out credentials is not reached") from error
    except GoogleAuthError as error:
        raise MisconfiguredError(f"{settings.name}: there are no valid application default credentials") from error
    return _self_signing(credentials)


def _self_signing(credentials: Any) -> Credentials:  # noqa: ANN401 - only some kinds can do that
    """A service account's key signs its tokens here, without asking for one (AIP-4111), where the kind can."""
    signs = hasattr(credentials, "with_always_use_jwt_access")
    signing: Credentials = credentials.with_always_use_jwt_access(True) if signs else credentials
    return signing
