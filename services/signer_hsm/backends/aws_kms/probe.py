"""Whether signing would work now, found out without a signature."""

from typing import Final

from services.signer_hsm.backends import BackendKey
from services.signer_hsm.backends.aws_kms.client import KmsClient
from services.signer_hsm.backends.aws_kms.failures import code_of
from services.signer_hsm.backends.aws_kms.names import MESSAGE_TYPES, signing_algorithm
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    KeyNotFoundError,
    NotOfferedError,
    WrongStateError,
)
from services.signer_hsm.schemes import HASH_BYTES, MU_BYTES, schemes_of

DRY_RUN_PASSED: Final = "DryRunOperationException"


class Probe:
    """Rehearses Sign with the key that was seen last; with none, lists one alias."""

    def __init__(self, client: KmsClient) -> None:
        self._client = client
        self._key: BackendKey | None = None

    def may_use(self, key: BackendKey) -> None:
        """A key to rehearse with, if it is enabled."""
        if key.enabled:
            self._key = key

    def must_not_use(self, arn: str) -> None:
        """This key is gone, or off."""
        if self._key is not None and self._key.handle == arn:
            self._key = None

    async def run(self) -> str:
        """Ask; the answer says how.

        Raises:
            BackendError: signing would not work.
        """
        key = self._key
        if key is not None:
            try:
                await self._rehearse(key)
            except (KeyNotFoundError, WrongStateError, NotOfferedError):
                self.must_not_use(key.handle)  # the key's own trouble, not that of the back end
            else:
                return "Sign DryRun"
        await self._client.call("ListAliases", Limit=1)
        return "ListAliases"

    async def _rehearse(self, key: BackendKey) -> None:
        scheme = schemes_of(key.algorithm)[0]
        payload = bytes(HASH_BYTES[scheme.hash] if scheme.hash is not None else MU_BYTES)
        try:
            await self._client.call(
                "Sign",
                KeyId=key.handle,
                Message=payload,
                MessageType=MESSAGE_TYPES[key.algorithm.payload],
                SigningAlgorithm=signing_algorithm(scheme),
                DryRun=True,
            )
        except BackendError as error:
            if code_of(error) != DRY_RUN_PASSED:
                raise
            return
        raise BadAnswerError("AWS KMS signed what it was asked to rehearse only")
