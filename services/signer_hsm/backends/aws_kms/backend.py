"""The back end: the protocol's methods in calls of the KMS API."""

from collections.abc import Mapping, Sequence
from typing import Final

from pkicore.algorithms import ALGORITHMS, Algorithm, Payload, PrivateKey
from pkicore.clock import Clock, unix
from services.signer_hsm.backends import Attestation, BackendHealth, BackendKey, Destruction, Fact, KeyLabel
from services.signer_hsm.backends.aws_kms import lookup
from services.signer_hsm.backends.aws_kms.answers import (
    ENABLED,
    PENDING_DELETION,
    KeyDescription,
    check_same_key,
    public_key_of,
    signature_of,
    spki,
    text,
    whole_seconds,
)
from services.signer_hsm.backends.aws_kms.batch import sign_each
from services.signer_hsm.backends.aws_kms.client import Answer, KmsClient
from services.signer_hsm.backends.aws_kms.failures import code_of
from services.signer_hsm.backends.aws_kms.names import (
    KINDS,
    MESSAGE_TYPES,
    SPECS,
    alias_of,
    check_handle,
    check_raw,
    signing_algorithm,
    tags_of,
)
from services.signer_hsm.backends.aws_kms.probe import Probe
from services.signer_hsm.backends.aws_kms.settling import Settling
from services.signer_hsm.backends.settings import AwsKmsSettings
from services.signer_hsm.errors import (
    BackendError,
    BadAnswerError,
    BusyError,
    DeadlineError,
    DeniedError,
    KeyNotFoundError,
    NotOfferedError,
    ThrottledError,
    UnavailableError,
    WrongStateError,
)
from services.signer_hsm.schemes import Scheme

NOTHING_WAS_DONE: Final = (UnavailableError, ThrottledError, BusyError, DeniedError, KeyNotFoundError)
SHORTEST_WINDOW_DAYS: Final = 7


class AwsKmsBackend:
    """Keys in AWS KMS; a handle is the ARN of a key."""

    type: Final = "aws_kms"
    imports: Final[frozenset[str]] = frozenset()
    offers: Final[Mapping[str, frozenset[Payload]]] = {name: KINDS[ALGORITHMS[name].family] for name in SPECS}

    def __init__(self, settings: AwsKmsSettings, client: KmsClient, clock: Clock) -> None:
        self.name = settings.name
        self.lane = client.lane
        self._settings = settings
        self._client = client
        self._clock = clock
        self._known: dict[str, BackendKey] = {}
        self._settling = Settling(settings.deadline_seconds / 2)
        self._probe = Probe(client)

    async def create(self, label: KeyLabel, algorithm: Algorithm) -> BackendKey:
        """CreateKey with tags, CreateAlias, GetPublicKey.

        Raises:
            NotOfferedError: an algorithm that KMS does not have.
            DeadlineError: a key was or may have been made; `find` knows, and completes it.
            WrongStateError: there is a key with this label.
            BackendError: nothing was made.
        """
        if algorithm.name not in SPECS:
            raise NotOfferedError(f"AWS KMS has no keys of algorithm {algorithm.name}")
        made = KeyDescription.of(await self._create_key(label, algorithm), None)
        check_handle(made.arn, self._settings.region)
        if made.algorithm != algorithm:
            raise BadAnswerError("AWS KMS made another kind of key than was asked for")
        self._settling.begin(made.arn, KeyNotFoundError, DeniedError)
        try:
            owner = await self._give_alias(label, made.arn)
            if owner == made.arn:
                return await self._read(made)
            await self._schedule_deletion(made.arn, SHORTEST_WINDOW_DAYS)  # without a name it is of no use, and costs
        except NOTHING_WAS_DONE as error:
            raise DeadlineError(f"the key was made in AWS KMS; what should follow was not done: {error}") from error
        raise WrongStateError(f"AWS KMS has a key with the label {label} already")

    async def _create_key(self, label: KeyLabel, algorithm: Algorithm) -> Answer:
        try:
            return await self._client.call_once(
                "CreateKey",
                KeySpec=SPECS[algorithm.name],
                KeyUsage="SIGN_VERIFY",
                Description=f"signer-hsm key {label}",
                Tags=tags_of(self._settings.alias_prefix, label),
            )
        except UnavailableError as error:
            if not error.uncertain:
                raise
            raise DeadlineError("AWS KMS failed while it was making the key; it may exist") from error

    async def _give_alias(self, label: KeyLabel, arn: str) -> str:
        """The ARN that the alias leads to from now on: this one, unless another key has it already."""
        alias = alias_of(self._settings.alias_prefix, label)
        try:
            await self._settling.call(arn, lambda: self._client.call("CreateAlias", AliasName=alias, TargetKeyId=arn))
        except WrongStateError as error:
            if code_of(error) != "AlreadyExistsException":
                raise
            owner = await lookup.arn_behind(self._client, alias)  # ours too, where the SDK repeated a lost answer
            if owner is None:
                raise DeadlineError("the alias exists in AWS KMS, but where it leads is not known yet") from error
            return owner
        return arn

    async def import_key(self, label: KeyLabel, private_key: PrivateKey) -> BackendKey:
        """Refused: move to AWS KMS by rolling to a new key.

        Raises:
            NotOfferedError: always.
        """
        del private_key
        raise NotOfferedError(f"the key {label} is not imported into AWS KMS; make a new key there and roll to it")

    async def find(self, label: KeyLabel) -> BackendKey | None:
        """By alias, else by tags; a key found by tags gets its alias now."""
        prefix = self._settings.alias_prefix
        arn = await lookup.arn_behind(self._client, alias_of(prefix, label))
        if arn is None:
            descriptions = [await self._describe(each) for each in await lookup.unnamed(self._client, prefix, label)]
            alive = [found for found in descriptions if found.state != PENDING_DELETION]
            if not alive:
                return None
            oldest = min(alive, key=lambda found: (found.evidence["CreationDate"], found.arn))
            arn = await self._give_alias(label, oldest.arn)
        check_handle(arn, self._settings.region)
        return await self._read(await self._describe(arn))

    async def load(self, handle: str) -> BackendKey:
        """DescribeKey and GetPublicKey.

        Raises:
            KeyNotFoundError: no such key in this region and account.
            WrongStateError: KMS does not show the public key of a disabled key, and it has not been seen before.
            BackendError: any other failure.
        """
        check_handle(handle, self._settings.region)
        return await self._read(await self._describe(handle))

    async def _describe(self, arn: str) -> KeyDescription:
        answer = await self._settling.call(arn, lambda: self._client.call("DescribeKey", KeyId=arn))
        return KeyDescription.of(answer, arn)

    async def _read(self, description: KeyDescription) -> BackendKey:
        arn, known = description.arn, self._known.get(description.arn)
        try:
            answer = await self._settling.call(arn, lambda: self._client.call("GetPublicKey", KeyId=arn))
            public_key = public_key_of(answer, description)
        except WrongStateError:
            if known is None:
                raise
            public_key = known.public_key
        if known is not None and spki(known.public_key) != spki(public_key):
            raise BadAnswerError("AWS KMS gives another public key for this key than before")
        key = BackendKey(
            handle=arn,
            algorithm=description.algorithm,
            public_key=public_key,
            kinds=self.offers[description.algorithm.name],
            enabled=description.state == ENABLED,
            evidence=description.evidence,
        )
        self._known[arn] = key
        self._probe.may_use(key)
        return key

    async def sign(
        self, handle: str, scheme: Scheme, kind: Payload, payloads: Sequence[bytes], *, once: bool = False
    ) -> Sequence[bytes | BackendError]:
        """One Sign per payload.

        Raises:
            BackendError: none could be signed.
        """
        check_handle(handle, self._settings.region)
        if kind not in KINDS[scheme.family]:
            raise NotOfferedError(f"AWS KMS does not sign the payload kind {kind!r} with {scheme.name}")
        algorithm, message_type = signing_algorithm(scheme), MESSAGE_TYPES[kind]
        call = self._client.call_once if once else self._client.call

        async def sign_one(payload: bytes) -> bytes:
            if kind == "message":
                check_raw(payload)
            answer = await call(
                "Sign",
                KeyId=handle,
                Message=payload,
                MessageType=message_type,
                SigningAlgorithm=algorithm,
            )
            return signature_of(answer, handle, algorithm)

        async def sign_settled(payload: bytes) -> bytes:
            return await self._settling.call(handle, lambda: sign_one(payload))

        return await sign_each(payloads, sign_settled, self._settings.workers)

    async def set_enabled(self, handle: str, *, enabled: bool) -> None:
        """EnableKey or DisableKey; KMS may take some seconds until every part of it knows."""
        check_handle(handle, self._settings.region)
        operation = "EnableKey" if enabled else "DisableKey"
        await self._settling.call(handle, lambda: self._client.call(operation, KeyId=handle))
        if enabled:
            self._settling.begin(handle, WrongStateError)
        else:
            self._settling.end(handle)

    async def destroy(self, handle: str) -> Destruction:
        """ScheduleKeyDeletion: until its date the deletion can be cancelled in AWS, so it is not final before."""
        check_handle(handle, self._settings.region)
        try:
            destruction = await self._schedule_deletion(handle, self._settings.deletion_window_days)
        except WrongStateError as error:
            description = await self._describe(handle)
            if description.state != PENDING_DELETION or description.deletion_date is None:
                raise
            proof: dict[str, Fact] = {"KeyId": handle, "KeyState": PENDING_DELETION}
            proof |= {"DeletionDate": unix(description.deletion_date), "code": code_of(error)}
            destruction = Destruction(final=False, at=description.deletion_date, proof=proof)
        except KeyNotFoundError as error:
            if self._settling.is_settling(handle):
                raise
            proof = {"KeyId": handle, "code": code_of(error)}
            destruction = Destruction(final=True, at=self._clock.now(), proof=proof)
        self._settling.end(handle)
        self._probe.must_not_use(handle)
        return destruction

    async def _schedule_deletion(self, arn: str, days: int) -> Destruction:
        answer = await self._settling.call(
            arn, lambda: self._client.call("ScheduleKeyDeletion", KeyId=arn, PendingWindowInDays=days)
        )
        check_same_key(text(answer, "KeyId"), arn)
        at = whole_seconds(answer.get("DeletionDate"))
        metadata = answer.get("ResponseMetadata")
        request = metadata.get("RequestId") if isinstance(metadata, Mapping) else None
        proof: dict[str, Fact] = {"KeyId": arn, "KeyState": text(answer, "KeyState"), "DeletionDate": unix(at)}
        proof |= {"PendingWindowInDays": days, "RequestId": request}
        return Destruction(final=False, at=at, proof=proof)

    async def attest(self, handle: str) -> Attestation:
        """DescribeKey again: AWS signs no statement about single keys, so it is its word over TLS."""
        check_handle(handle, self._settings.region)
        description = await self._describe(handle)
        claims: dict[str, Fact] = {"KeyId": handle, "KeyState": description.state, **description.evidence}
        return Attestation(format="attributes", by="cloud", verified=False, claims=claims)

    async def health(self) -> BackendHealth:
        """A rehearsed signature (DryRun) with a key of ours, or a listing of one row while there is none."""
        detail: dict[str, Fact] = {"region": self._settings.region, **self.lane.facts()}
        if self.lane.exhausted:
            return BackendHealth(
                ready=False, detail=detail | {"problem": BusyError.cause, "reason": "every thread waits for AWS KMS"}
            )
        try:
            how = await self._probe.run()
        except BackendError as error:
            return BackendHealth(ready=False, detail=detail | {"problem": error.cause, "reason": str(error)})
        return BackendHealth(ready=True, detail=detail | {"probe": how})

    async def aclose(self) -> None:
        """Close connections and threads."""
        await self._client.aclose()
