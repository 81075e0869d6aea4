"""AWS KMS as a back end: one KMS key per key version, named by an alias, described by tags.

The SDK is imported when a back end is opened, not before.
"""

from typing import Final

from pkicore.clock import Clock
from services.signer_hsm.backends import Backend
from services.signer_hsm.backends.settings import AwsKmsSettings
from services.signer_hsm.errors import MisconfiguredError

RESERVED_PREFIX: Final = "aws"


async def open_backend(settings: AwsKmsSettings, *, clock: Clock) -> Backend:
    """Make the SDK's client, with credentials found the SDK's usual ways; nothing is asked of AWS yet.

    Credentials that are missing or refused show in health and calls, and are looked for again.

    Raises:
        MisconfiguredError: the SDK is not installed, or the settings make no client.
    """
    if settings.alias_prefix == RESERVED_PREFIX:
        raise MisconfiguredError("alias_prefix: alias/aws/ belongs to AWS; choose another prefix")
    try:
        from services.signer_hsm.backends.aws_kms.backend import AwsKmsBackend
        from services.signer_hsm.backends.aws_kms.client import KmsClient
    except ImportError as error:
        raise MisconfiguredError("the AWS SDK is not installed; install the extra pqcpki[aws-kms]") from error
    return AwsKmsBackend(settings, await KmsClient(settings, clock).open(), clock)
