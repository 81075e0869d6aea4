"""Google Cloud KMS, by the SDK's asyncio client.

A tenant has a key ring, and each key version of ours is a crypto key with one version in it.
This module imports no SDK, so that a back end which is not installed is refused in our own words.
"""

from pkicore.clock import Clock
from services.signer_hsm.backends import Backend
from services.signer_hsm.backends.settings import GcpKmsSettings
from services.signer_hsm.errors import MisconfiguredError

__all__ = ["open_backend"]


async def open_backend(settings: GcpKmsSettings, *, clock: Clock) -> Backend:
    """The back end with a channel of its own, bound to the running event loop; asks KMS nothing yet.

    Raises:
        MisconfiguredError: no SDK, no credentials, an unreadable CA file, an endpoint that makes no sense.
    """
    try:
        from services.signer_hsm.backends.gcp_kms.backend import GcpKmsBackend
        from services.signer_hsm.backends.gcp_kms.calls import KmsCalls
        from services.signer_hsm.backends.gcp_kms.channel import open_client
    except ImportError as error:
        raise MisconfiguredError(f"the back end {settings.name} needs the extra gcp-kms: pqcpki[gcp-kms]") from error
    return GcpKmsBackend(settings, KmsCalls(await open_client(settings), settings), clock)
