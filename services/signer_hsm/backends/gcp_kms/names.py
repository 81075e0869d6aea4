"""Resource names: a ring per tenant, and in it a crypto key with one version for each version of ours.

KMS numbers the versions of a crypto key in the order in which requests arrive, and keeps nothing of the request that
made one: a version whose answer was lost could not be told from another's. A crypto key has the name that we give it,
and labels, and is made once. The price per key is KMS's price per version, so nothing is paid for that.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.settings import GcpKmsSettings
from services.signer_hsm.errors import KeyNotFoundError

TENANT_LABEL: Final = "pqcpki-tenant"
NAME_LABEL: Final = "pqcpki-name"
VERSION_LABEL: Final = "pqcpki-version"
MAX_ID: Final = 63
_HASH_DIGITS: Final = 12


class Names:
    """The resource names below one project, location and key ring prefix."""

    def __init__(self, settings: GcpKmsSettings) -> None:
        self.location = f"projects/{settings.project}/locations/{settings.location}"
        self._prefix = settings.key_ring_prefix
        self._own = re.compile(
            rf"{re.escape(self.location)}/keyRings/{re.escape(self._prefix)}-[a-z0-9][a-z0-9-]{{0,31}}"
            r"/cryptoKeys/[a-z0-9][a-z0-9_-]{0,62}/cryptoKeyVersions/1"
        )

    def ring_id(self, tenant: str) -> str:
        """The last part of a tenant's key ring."""
        return f"{self._prefix}-{tenant}"

    def ring(self, tenant: str) -> str:
        """A tenant's key ring."""
        return f"{self.location}/keyRings/{self.ring_id(tenant)}"

    @staticmethod
    def key_id(label: KeyLabel) -> str:
        """NAME_vN; what does not fit is cut and told apart by a hash. Our names hold no underscore, so none collide."""
        suffix = f"_v{label.version}"
        if len(label.name) + len(suffix) <= MAX_ID:
            return label.name + suffix
        digits = hashlib.sha256(label.name.encode()).hexdigest()[:_HASH_DIGITS]
        return f"{label.name[: MAX_ID - len(suffix) - _HASH_DIGITS - 1]}_{digits}{suffix}"

    def key(self, label: KeyLabel) -> str:
        """The crypto key of a version of ours."""
        return f"{self.ring(label.tenant)}/cryptoKeys/{self.key_id(label)}"

    def version(self, label: KeyLabel) -> str:
        """The only version of that crypto key; it is also our handle."""
        return f"{self.key(label)}/cryptoKeyVersions/1"

    def checked(self, handle: str) -> str:
        """The handle, known to be a key version below our own location and prefix.

        Raises:
            KeyNotFoundError: it is not.
        """
        if self._own.fullmatch(handle) is None:
            raise KeyNotFoundError("the handle is none of this back end's")
        return handle


def labels_of(label: KeyLabel) -> Mapping[str, str]:
    """What a crypto key is labelled with; prefix and tenant share the ring's name, only the label tells them apart."""
    return {TENANT_LABEL: label.tenant, NAME_LABEL: label.name, VERSION_LABEL: str(label.version)}
