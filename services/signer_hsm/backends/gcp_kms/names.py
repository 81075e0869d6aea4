"""Resource names. Tenants and key names fit KMS's rules as they are: letters, digits and dashes, 63 at most."""

import re
from collections.abc import Mapping

from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.settings import GcpKmsSettings
from services.signer_hsm.errors import BadAnswerError, KeyNotFoundError

TENANT_LABEL = "pqcpki-tenant"
NAME_LABEL = "pqcpki-name"
_VERSION = re.compile(r"/cryptoKeyVersions/([1-9][0-9]{0,9})\Z")


class Names:
    """The resource names below one project, location and key ring prefix."""

    def __init__(self, settings: GcpKmsSettings) -> None:
        self.location = f"projects/{settings.project}/locations/{settings.location}"
        self._prefix = settings.key_ring_prefix
        self._own = re.compile(
            rf"{re.escape(self.location)}/keyRings/{re.escape(self._prefix)}-[a-z0-9][a-z0-9-]{{0,31}}"
            r"/cryptoKeys/[a-z0-9][a-z0-9-]{0,62}/cryptoKeyVersions/[1-9][0-9]{0,9}"
        )

    def ring_id(self, tenant: str) -> str:
        """The last part of a tenant's key ring."""
        return f"{self._prefix}-{tenant}"

    def ring(self, tenant: str) -> str:
        """A tenant's key ring."""
        return f"{self.location}/keyRings/{self.ring_id(tenant)}"

    def key(self, label: KeyLabel) -> str:
        """The crypto key that holds all versions of a key."""
        return f"{self.ring(label.tenant)}/cryptoKeys/{label.name}"

    def version(self, label: KeyLabel) -> str:
        """The crypto key version; it is also our handle."""
        return f"{self.key(label)}/cryptoKeyVersions/{label.version}"

    def checked(self, handle: str) -> str:
        """The handle, known to be a key version below our own location and prefix.

        Raises:
            KeyNotFoundError: it is not.
        """
        if self._own.fullmatch(handle) is None:
            raise KeyNotFoundError("the handle is none of this back end's")
        return handle


def labels_of(label: KeyLabel) -> Mapping[str, str]:
    """What a crypto key of ours is labelled with; prefix and tenant share one name, only the label tells them apart."""
    return {TENANT_LABEL: label.tenant, NAME_LABEL: label.name}


def number_of(version_name: str) -> int:
    """The number of a version. Names are text and 10 sorts before 9: compare the numbers.

    Raises:
        BadAnswerError: KMS named something else.
    """
    match = _VERSION.search(version_name)
    if match is None:
        raise BadAnswerError("KMS answered with a name that is no key version's")
    return int(match[1])
