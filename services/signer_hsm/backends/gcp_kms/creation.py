"""Making a key: ring, crypto key and version, each safe against a lost answer.

1. The crypto key is looked up, or made without versions; the ring likewise, when KMS misses it.
2. A crypto key that is there already is taken only if its labels, algorithm and protection level are the wanted ones.
3. Version N is looked up; one that is there is our own, whose answer was lost, and is taken.
4. Numbers that were used up without reaching KMS are made and destroyed at once, so that version N of ours is N there.
5. The version is made, once. When no answer comes it is looked up, and only then is the outcome unknown.
"""

import asyncio
from typing import Final

from google.cloud import kms_v1

from services.signer_hsm.backends import KeyLabel
from services.signer_hsm.backends.gcp_kms.algorithms import KmsAlgorithm
from services.signer_hsm.backends.gcp_kms.calls import AlreadyExistsError, KmsCalls, RefusedRequestError
from services.signer_hsm.backends.gcp_kms.evidence import word
from services.signer_hsm.backends.gcp_kms.names import Names, labels_of, number_of
from services.signer_hsm.errors import (
    BadAnswerError,
    DeadlineError,
    KeyNotFoundError,
    NotOfferedError,
    UnavailableError,
    WrongStateError,
)

MAX_GAP: Final = 8
PAGE: Final = 100
FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
State = kms_v1.CryptoKeyVersion.CryptoKeyVersionState


class KeyCreation:
    """Makes key versions below one location."""

    def __init__(self, calls: KmsCalls, names: Names) -> None:
        self._calls = calls
        self._names = names

    async def make(self, label: KeyLabel, row: KmsAlgorithm, level: kms_v1.ProtectionLevel) -> kms_v1.CryptoKeyVersion:
        """The version with this label, generated and usable; made, or taken over from an earlier try.

        Raises:
            NotOfferedError: the location does not have the algorithm at this protection level.
            WrongStateError: the name belongs to another key, or the version was used up.
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
            version = await self._version(label)
        except RefusedRequestError as error:
            raise NotOfferedError(
                f"KMS does not make {word(row.kms)} at the protection level {word(level)} in this location"
            ) from error
        if version.state != State.ENABLED:
            raise WrongStateError(f"version {label.version} is there already and in the state {word(version.state)}")
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
            parent=self._names.ring(label.tenant),
            crypto_key_id=label.name,
            crypto_key=wanted,
            skip_initial_version_creation=True,
        )
        try:
            return await self._calls.ask(self._calls.client.create_crypto_key, request)
        except AlreadyExistsError:
            return await self.read_key(label)

    async def _make_ring(self, tenant: str) -> None:
        request = kms_v1.CreateKeyRingRequest(
            parent=self._names.location, key_ring_id=self._names.ring_id(tenant), key_ring=kms_v1.KeyRing()
        )
        try:
            await self._calls.ask(self._calls.client.create_key_ring, request)
        except AlreadyExistsError:
            return

    async def _version(self, label: KeyLabel) -> kms_v1.CryptoKeyVersion:
        newest = await self._newest(label)
        if newest >= label.version:
            return await self.generated(await self.read(self._names.version(label)))
        if label.version - newest > MAX_GAP:
            raise WrongStateError(f"KMS has {newest} versions of the key; version {label.version} is too far away")
        for _ in range(newest + 1, label.version):
            await self._discard(await self.generated(await self._new_version(label)))
        version = await self._new_version_or_ours(label)
        if number_of(version.name) != label.version:
            await self._discard(await self.generated(version))
            raise WrongStateError("somebody else makes versions of the same key at the same time")
        return await self.generated(version)

    async def _newest(self, label: KeyLabel) -> int:
        newest, token = 0, ""
        while True:
            request = kms_v1.ListCryptoKeyVersionsRequest(
                parent=self._names.key(label), page_size=PAGE, page_token=token
            )
            page = await self._calls.ask(self._calls.client.list_crypto_key_versions, request)
            newest = max(newest, *(number_of(version.name) for version in page.crypto_key_versions), 0)
            token = page.next_page_token
            if not token:
                return newest

    async def _new_version(self, label: KeyLabel) -> kms_v1.CryptoKeyVersion:
        request = kms_v1.CreateCryptoKeyVersionRequest(
            parent=self._names.key(label), crypto_key_version=kms_v1.CryptoKeyVersion()
        )
        return await self._calls.ask(self._calls.client.create_crypto_key_version, request)

    async def _new_version_or_ours(self, label: KeyLabel) -> kms_v1.CryptoKeyVersion:
        try:
            return await self._new_version(label)
        except RefusedRequestError:
            raise
        except (UnavailableError, DeadlineError, BadAnswerError) as lost:
            try:
                return await self.read(self._names.version(label))
            except (KeyNotFoundError, UnavailableError, DeadlineError, BadAnswerError):
                raise DeadlineError("KMS gave no answer; the key version may have been made") from lost

    async def _discard(self, version: kms_v1.CryptoKeyVersion) -> None:
        request = kms_v1.DestroyCryptoKeyVersionRequest(name=version.name)
        await self._calls.ask(self._calls.client.destroy_crypto_key_version, request)


def _check_same(found: kms_v1.CryptoKey, wanted: kms_v1.CryptoKey) -> None:
    if not is_labelled(found, dict(wanted.labels)):
        raise WrongStateError("a crypto key of that name is in the ring and has not this key's labels")
    if (found.purpose, found.version_template) != (wanted.purpose, wanted.version_template):
        raise WrongStateError(f"the crypto key is for {_words(found)}, not for {_words(wanted)}")


def _words(key: kms_v1.CryptoKey) -> str:
    template = key.version_template
    return f"{word(template.algorithm)} at {word(template.protection_level)}"


def is_labelled(key: kms_v1.CryptoKey, labels: dict[str, str]) -> bool:
    """Whether the crypto key has these labels among its own."""
    return all(key.labels.get(name) == value for name, value in labels.items())
