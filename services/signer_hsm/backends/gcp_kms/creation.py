"""Making a key: ring, crypto key and its one version, safe against lost answers.

1. The crypto key is looked up; a KMS that is away is noticed here, before anything was done.
2. It is made together with its version, and before that the ring, when KMS misses it.
3. When no answer comes it is asked for once more: what the first request made shows as ALREADY_EXISTS.
4. A crypto key that is there already is taken only if labels, algorithm and protection level are the wanted ones.
5. The version is waited for until its key material is generated. A KMS that goes away now leaves the outcome open.
"""

import asyncio
from typing import Final

from google.cloud import kms_v1

from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.gcp_kms.algorithms import KmsAlgorithm
from services.signer_hsm.backends.gcp_kms.calls import (
    AlreadyExistsError,
    GarbledAnswerError,
    KmsCalls,
    RefusedRequestError,
)
from services.signer_hsm.backends.gcp_kms.evidence import word
from services.signer_hsm.backends.gcp_kms.names import Names, labels_of
from services.signer_hsm.errors import (
    DeadlineError,
    KeyNotFoundError,
    NotOfferedError,
    UnavailableError,
    WrongStateError,
)

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState
_LOST: Final = (UnavailableError, DeadlineError, GarbledAnswerError)


class KeyCreation:
    """Makes keys below one location."""

    def __init__(self, calls: KmsCalls, names: Names) -> None:
        self._calls = calls
        self._names = names

    async def make(self, label: KeyLabel, row: KmsAlgorithm, level: kms_v1.ProtectionLevel) -> None:
        """Make the crypto key of this label, or find that an earlier try has made it.

        Raises:
            NotOfferedError: the location does not have the algorithm at this protection level.
            WrongStateError: the name belongs to another key.
            DeadlineError: it may have been made.
            BackendError: any other failure.
        """
        wanted = kms_v1.CryptoKey(
            purpose=kms_v1.CryptoKey.CryptoKeyPurpose.ASYMMETRIC_SIGN,
            version_template=kms_v1.CryptoKeyVersionTemplate(algorithm=row.kms, protection_level=level),
            labels=labels_of(label),
        )
        try:
            _check_same(await self._key(label, wanted), wanted)
        except RefusedRequestError as error:
            raise NotOfferedError(f"KMS does not make {_words(wanted)} in this location") from error

    async def made(self, label: KeyLabel) -> kms_v1.CryptoKeyVersion:
        """The version of a crypto key that was made, generated and usable.

        Raises:
            WrongStateError: it was made earlier and is disabled or destroyed by now, or could not be generated.
            BackendError: any other failure.
        """
        version = await self.generated(await self.read(self._names.version(label)))
        if version.state != State.ENABLED:
            raise WrongStateError(f"the key is there already and in the state {word(version.state)}")
        return version

    async def generated(self, version: kms_v1.CryptoKeyVersion) -> kms_v1.CryptoKeyVersion:
        """The version once its key material is there; large RSA keys and HSMs take their time."""
        pause = FIRST_PAUSE
        while version.state == State.PENDING_GENERATION:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            version = await self.read(version.name)
        return version

    async def read(self, name: str) -> kms_v1.CryptoKeyVersion:
        """The version as KMS has it now."""
        request = kms_v1.GetCryptoKeyVersionRequest(name=name)
        return await self._calls.ask(self._calls.client.get_crypto_key_version, request)

    async def read_key(self, label: KeyLabel) -> kms_v1.CryptoKey:
        """The crypto key of a label, whoever's it is."""
        request = kms_v1.GetCryptoKeyRequest(name=self._names.key(label))
        return await self._calls.ask(self._calls.client.get_crypto_key, request)

    async def _key(self, label: KeyLabel, wanted: kms_v1.CryptoKey) -> kms_v1.CryptoKey:
        try:
            return await self.read_key(label)
        except KeyNotFoundError:
            pass
        try:
            return await self._new_key(label, wanted)
        except KeyNotFoundError:
            await self._make_ring(label.tenant)
            return await self._new_key(label, wanted)

    async def _new_key(self, label: KeyLabel, wanted: kms_v1.CryptoKey) -> kms_v1.CryptoKey:
        request = kms_v1.CreateCryptoKeyRequest(
            parent=self._names.ring(label.tenant), crypto_key_id=self._names.key_id(label), crypto_key=wanted
        )
        create = self._calls.client.create_crypto_key
        try:
            try:
                return await self._calls.ask(create, request)
            except _LOST:
                return await self._calls.ask(create, request)
        except AlreadyExistsError:
            return await self.read_key(label)
        except _LOST as error:
            raise DeadlineError("KMS gave no answer; the key may have been made") from error

    async def _make_ring(self, tenant: str) -> None:
        request = kms_v1.CreateKeyRingRequest(
            parent=self._names.location, key_ring_id=self._names.ring_id(tenant), key_ring=kms_v1.KeyRing()
        )
        try:
            await self._calls.ask(self._calls.client.create_key_ring, request)
        except AlreadyExistsError:
            return


def _check_same(found: kms_v1.CryptoKey, wanted: kms_v1.CryptoKey) -> None:
    if not is_labelled(found, dict(wanted.labels)):
        raise WrongStateError("a crypto key of that name is in the ring and has not this key's labels")
    if (found.purpose, found.version_template) != (wanted.purpose, wanted.version_template):
        raise WrongStateError(f"the crypto key is for {_words(found)}, not for {_words(wanted)}")


def _words(key: kms_v1.CryptoKey) -> str:
    template = key.version_template
    return f"{word(template.algorithm)} at the protection level {word(template.protection_level)}"


def is_labelled(key: kms_v1.CryptoKey, labels: dict[str, str]) -> bool:
    """Whether the crypto key has these labels among its own."""
    return all(key.labels.get(name) == value for name, value in labels.items())
