"""Making keys through signer-hsm: in the first back end that offers the algorithm, and undone if what follows fails."""

import hashlib
import secrets
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import Payload, PrivateKey, PublicKey, verify_signature
from pkicore.errors import BadSignatureError, KeyAccessError, KeyNotFoundError
from pkicore.keys import SigningKey
from pkicore.keys.remote import RemoteKey, open_remote_key
from services.ca.errors import CeremonyError
from services.ca.own_policy import REHEARSAL
from services.ca.plain_keys import plain_der
from services.ca.signer_settings import TENANT
from services.signer_hsm.client import ApprovalsMissingError, NotOfferedError, SignerClient
from services.signer_hsm.wire import LifeCycleRequest, NewKeyRequest

_PROBE: Final = b"pqcpki: a key is moved; this is no certificate, no list and no answer"


class RemoteKeyMaker:
    """Makes keys, of the CA's tenant where no other is named, and remembers them.

    Args:
        client: calls signer-hsm as somebody who may.
        backends: their names, the preferred one first.
        pool: for the keys.
        user: as whom the keys are used; the same, if not given.
    """

    def __init__(
        self, client: SignerClient, backends: Sequence[str], pool: Executor, user: SignerClient | None = None
    ) -> None:
        self._client = client
        self._user = user or client
        self._backends = backends
        self._pool = pool
        self._run = secrets.token_hex(8)
        self.made: list[str] = []
        self.backend_of: dict[str, str] = {}
        self.kinds: set[str] = set()

    async def make(
        self, name: str, algorithm: str, private_key: PrivateKey | None = None, *, tenant: str = TENANT
    ) -> RemoteKey:
        """A new key, or the given one brought in; its URI has its version.

        Raises:
            NotOfferedError: no back end offers the algorithm, or the import.
            CeremonyError: others must approve it first; the sentence has their command.
            KeyAccessError: signer-hsm or its back end refuses, or does not answer.
        """
        refusal = NotOfferedError("there is no back end")
        for backend in self._backends:
            try:
                return await self._make(f"{tenant}.{name}", algorithm, backend, private_key)
            except NotOfferedError as error:
                refusal = error
        what = "brings in" if private_key is not None else "makes"
        raise NotOfferedError(
            f"none of the back ends {', '.join(self._backends)} {what} {algorithm} keys: {refusal}. "
            f"{_remedy(algorithm, brings_in=private_key is not None)}"
        ) from refusal

    async def _make(self, key_id: str, algorithm: str, backend: str, private_key: PrivateKey | None) -> RemoteKey:
        tenant, _, name = key_id.partition(".")
        self.made.append(key_id)  # before the answer: a lost one may have made it
        pkcs8 = None if private_key is None else plain_der(private_key)
        try:
            made = await self._client.create(
                NewKeyRequest(tenant, name, algorithm, f"{self._run}-{key_id}-{backend}", backend, pkcs8)
            )
        except (NotOfferedError, ApprovalsMissingError) as error:
            self.made.remove(key_id)
            if isinstance(error, ApprovalsMissingError):
                raise CeremonyError(_approving(error, key_id, algorithm, backend, private_key)) from error
            raise
        uri = f"signer-hsm:{key_id}/{made.version}"
        self.backend_of[uri] = made.backend
        return await self.open(uri)

    async def open(self, uri: str) -> RemoteKey:
        """A key that exists; the payload that it takes is noted in `kinds`.

        Raises:
            KeyAccessError: there is none, or signer-hsm does not answer.
        """
        key = await open_remote_key(uri, self._user, self._pool)
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


def _approving(
    error: ApprovalsMissingError, key_id: str, algorithm: str, backend: str, private_key: PrivateKey | None
) -> str:
    act, parameters = "create", {"algorithm": algorithm, "backend": backend}
    if private_key is not None:
        act = "import"
        spki = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        parameters["public_key_sha256"] = hashlib.sha256(spki).hexdigest()
    given = "".join(f" --parameter {name}={value}" for name, value in parameters.items())
    return (
        f"{error}: while the deployment runs, other operators say "
        f"`keyctl approvals approve {act} {key_id}{given}`; then stop it and repeat this"
    )


async def rehearse(
    maker: RemoteKeyMaker, algorithm: str, private_key: PrivateKey | None = None, expected: PublicKey | None = None
) -> Payload:
    """Make a key under a name of its own, or bring the given one in; sign, verify, compare, and destroy it.

    Returns:
        The payload kind that such a key takes.

    Raises:
        NotOfferedError: the back end does not do that.
        KeyAccessError, BadSignatureError: it does, and the key is not good; it is destroyed then, too.
    """
    key = await maker.make(f"{REHEARSAL}{secrets.token_hex(4)}", algorithm, private_key)
    try:
        await prove(key, expected)
    except BaseException as error:
        await maker.undo(error)
        raise
    await maker.destroy(maker.made[-1])
    return key.payload_kind


async def prove(key: SigningKey, expected: PublicKey | None = None) -> None:
    """The key is the expected one, it signs, and its signature verifies.

    Raises:
        KeyNotFoundError: it is another key.
        BadSignatureError: it does not verify.
        KeyAccessError: it does not sign.
    """
    if expected is not None and key.public_key != expected:
        raise KeyNotFoundError(f"{key.uri} is another key than that of its certificate")
    try:
        verify_signature(key.public_key, await key.sign(_PROBE), _PROBE)
    except BadSignatureError as error:
        raise BadSignatureError(f"{key.uri} made a signature that does not verify with its certificate") from error


def _remedy(algorithm: str, *, brings_in: bool) -> str:
    if brings_in:
        return (
            "Set allow_import there if it can; else move this one elsewhere (`--issuer ID --to NAME`, one run each) "
            "or have a new key made: `ztca keys migrate --roll`"
        )
    token = ", or a token with CKM_ML_DSA" if algorithm.startswith("ml-dsa") else ""
    return f'Add one to the [[backends]] that does: type = "file" makes every algorithm{token}'
