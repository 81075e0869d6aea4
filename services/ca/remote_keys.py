"""Making keys through signer-hsm: in the first back end that offers the algorithm, and undone if what follows fails."""

import secrets
from collections.abc import Sequence
from concurrent.futures import Executor

from pkicore.algorithms import PrivateKey
from pkicore.errors import KeyAccessError, KeyNotFoundError
from pkicore.keys.remote import RemoteKey, open_remote_key
from services.ca.csr import plain_der
from services.ca.errors import CeremonyError
from services.ca.signer_settings import TENANT
from services.signer_hsm.client import NotOfferedError, SignerClient
from services.signer_hsm.wire import LifeCycleRequest, NewKeyRequest


class RemoteKeyMaker:
    """Makes keys of the CA's tenant and remembers them.

    Args:
        client: calls signer-hsm as somebody who may.
        backends: their names, the preferred one first.
        pool: for the keys.
    """

    def __init__(self, client: SignerClient, backends: Sequence[str], pool: Executor) -> None:
        self._client = client
        self._backends = backends
        self._pool = pool
        self._run = secrets.token_hex(8)
        self.made: list[str] = []
        self.kinds: set[str] = set()

    async def make(self, name: str, algorithm: str, private_key: PrivateKey | None = None) -> RemoteKey:
        """A new key, or the given one brought in; its URI has its version.

        Raises:
            NotOfferedError: no back end offers the algorithm, or the import.
            KeyAccessError: signer-hsm or its back end refuses, or does not answer.
        """
        refusal = NotOfferedError("there is no back end")
        for backend in self._backends:
            try:
                return await self._make(name, algorithm, backend, private_key)
            except NotOfferedError as error:
                refusal = error
        what = "brings in" if private_key is not None else "makes"
        raise NotOfferedError(
            f"none of the back ends {', '.join(self._backends)} {what} {algorithm} keys: {refusal}"
        ) from refusal

    async def _make(self, name: str, algorithm: str, backend: str, private_key: PrivateKey | None) -> RemoteKey:
        key_id = f"{TENANT}.{name}"
        self.made.append(key_id)  # before the answer: a lost one may have made it
        pkcs8 = None if private_key is None else plain_der(private_key)
        try:
            made = await self._client.create(
                NewKeyRequest(TENANT, name, algorithm, f"{self._run}-{name}-{backend}", backend, pkcs8)
            )
        except NotOfferedError:
            self.made.remove(key_id)
            raise
        return await self.open(f"signer-hsm:{key_id}/{made.version}")

    async def open(self, uri: str) -> RemoteKey:
        """A key that exists; the payload that it takes is noted in `kinds`.

        Raises:
            KeyAccessError: there is none, or signer-hsm does not answer.
        """
        key = await open_remote_key(uri, self._client, self._pool)
        self.kinds.add(key.payload_kind)
        return key

    async def destroy(self, key_id: str) -> None:
        """Destroy a key; not an error where it does not exist.

        Raises:
            KeyAccessError: it may still exist.
        """
        await self._client.destroy(key_id, LifeCycleRequest(f"{self._run}-destroy-{key_id}"))
        self.made = [name for name in self.made if name != key_id]

    async def undo(self, why: BaseException) -> None:
        """Destroy all that was made, since what it was for has failed.

        Raises:
            CeremonyError: a key may be left; the sentence names it.
        """
        left = []
        for key_id in dict.fromkeys(self.made):
            try:
                await self.destroy(key_id)
            except KeyNotFoundError:  # its making had failed
                continue
            except KeyAccessError as error:
                left.append(f"{key_id} ({error})")
        if left:
            raise CeremonyError(f"{why}; in the back end these keys may be left: {', '.join(left)}") from why
