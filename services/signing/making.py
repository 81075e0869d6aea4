"""From a job to its signatures: all that is wanted is planned, signed, then witnessed.

All signatures of a job are asked for at once: they travel to signer-hsm together. Nothing is witnessed before all of
them are there. What is long is hashed piece by piece, beside the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeAlias, TypeVar

from pkicore.dsse import IN_TOTO_PAYLOAD, pae_head
from pkicore.keys.remote import Reduction
from services.signing.errors import NotOfferedError
from services.signing.formats import Output, SignedWith, cms, composite, jws, raw
from services.signing.formats.log_entry import entry_digest_name
from services.signing.jobs import ArtefactToSign, Job, StatementToSign
from services.signing.keys import JobKey
from services.signing.witnesses import Witnesses

_Answer = TypeVar("_Answer")
_Work: TypeAlias = Callable[[], Coroutine[Any, Any, _Answer]]


@dataclass(slots=True)
class Wanted:
    """One signature on its way.

    Attributes:
        key: that makes it.
        work: makes it.
        entry_digest: of what is signed, under the hash that the signature's log entry names.
    """

    key: JobKey
    work: _Work[bytes]
    entry_digest: _Work[bytes]
    _made: SignedWith | None = field(default=None, repr=False)

    @property
    def made(self) -> SignedWith:
        """The signature; asked for after `Making.sign`."""
        if self._made is None:
            raise RuntimeError("this signature has not been made")
        return self._made

    async def sign(self) -> None:
        """Make it."""
        key, signature = self.key, await self.work()
        self._made = SignedWith(key.key_id, key.algorithm, key.public_key, signature, key.chain)

    async def witness(self, witnesses: Witnesses, *, timestamp: bool, log: bool) -> None:
        """Have it time-stamped and logged."""
        digest = await self.entry_digest() if log else None
        self._made = await witnesses.witnessed(self.made, digest, timestamp=timestamp, log=log)


@dataclass(slots=True)
class Plan:
    """What a job comes to, by format; `composite` is there once it is signed.

    Attributes:
        artefacts: signatures of the artefacts themselves, for raw signatures and message bundles.
        statements: those of each statement, in the order of the job's attestation keys, for DSSE and bundles.
        jws: by each attestation key.
        cms: by each key.
        composite: the one by both keys.
    """

    artefacts: list[tuple[ArtefactToSign, Wanted]] = field(default_factory=list)
    statements: list[tuple[StatementToSign, list[Wanted]]] = field(default_factory=list)
    jws: list[Wanted] = field(default_factory=list)
    cms: list[tuple[cms.PreparedSigner, Wanted]] = field(default_factory=list)
    composite: Output | None = None

    def signatures(self) -> Iterator[Wanted]:
        """All but the composite one."""
        yield from (one for _, one in self.artefacts)
        yield from (one for _, group in self.statements for one in group)
        yield from self.jws
        yield from (one for _, one in self.cms)


class Making:
    """One job on its way.

    Args:
        job: what is wanted.
        witnesses: of this deployment.
        now: of CMS signatures.
    """

    def __init__(self, job: Job, witnesses: Witnesses, now: datetime) -> None:
        self._job = job
        self._formats = frozenset(job.profile.formats)
        self._witnesses = witnesses
        self._now = now

    async def sign(self) -> Plan:
        """Sign all of it.

        Raises:
            SignerError: signer-hsm did not sign.
            UnsupportedError, NotOfferedError: formats that these keys cannot have.
        """
        plan = Plan(artefacts=[(one, _of_artefact(one)) for one in self._job.artefact_signatures()])
        if self._formats & {"dsse", "bundle"}:
            plan.statements = [(one, await self._of_statement(one)) for one in self._job.statements]
        if "jws" in self._formats:
            plan.jws = [self._of_jws(key) for key in self._job.attestation_keys]
        if "cms" in self._formats:
            plan.cms = [self._of_cms(key) for key in self._job.keys]
        await together([one.sign for one in plan.signatures()])
        if "composite" in self._formats:
            plan.composite = await self._composite()
        return plan

    async def witness(self, plan: Plan) -> None:
        """Have the signatures time-stamped and logged, where the profile wants that.

        Raises:
            SignerDownError: a witness cannot do it now.
        """
        profile = self._job.profile
        witness = partial(Wanted.witness, witnesses=self._witnesses, timestamp=profile.timestamp, log=profile.log)
        await together([partial(witness, one) for one in plan.signatures()])

    async def _of_statement(self, statement: StatementToSign) -> list[Wanted]:
        keys = self._job.attestation_keys
        digests = [partial(_statement_digest, statement, entry_digest_name(key.algorithm)) for key in keys]
        if not statement.is_long:
            message = pae_head(IN_TOTO_PAYLOAD, statement.length) + statement.content()
            works = [partial(key.sign, message) for key in keys]
        else:
            reductions = [await key.reduction() for key in keys]
            await asyncio.to_thread(_feed, reductions, statement)
            works = [
                partial(key.sign_reduced, one.kind, one.payload()) for key, one in zip(keys, reductions, strict=True)
            ]
        return [Wanted(*parts) for parts in zip(keys, works, digests, strict=True)]

    def _of_jws(self, key: JobKey) -> Wanted:
        return _of_message(key, jws.to_sign(key.key_id, key.public_key, self._job.statements[0].content()).message)

    def _of_cms(self, key: JobKey) -> tuple[cms.PreparedSigner, Wanted]:
        digests = {name: bytes.fromhex(text) for name, text in self._job.subjects[0].digest.items()}
        chain = key.chain or self._job.profile.chains.get(key.key_id, ())
        prepared = cms.prepare(key.key_id, chain, digests, self._now)
        return prepared, _of_message(key, prepared.to_sign.message)

    async def _composite(self) -> Output:
        keys = self._job.attestation_keys
        halves = {key.algorithm.family == "mldsa": key for key in keys}
        if len(halves) != len(keys) or len(halves) != 2:  # noqa: PLR2004 - a composite has two halves
            raise NotOfferedError("a composite signature is made by one ML-DSA key and one classical key")
        mldsa, classical = halves[True], halves[False]
        prepared = composite.PreparedComposite(
            (mldsa.key_id, mldsa.public_key),
            (classical.key_id, classical.public_key),
            self._job.statements[0].content(),
            algorithm=composite_of(mldsa, classical),
        )
        mu = (prepared.mldsa.digest or {})[raw.MU]
        first, second = await together(
            [partial(mldsa.sign_reduced, "mu", mu), partial(classical.sign, prepared.traditional.message or b"")]
        )
        return prepared.finish(first, second)


def composite_of(mldsa: JobKey, classical: JobKey) -> str:
    """The name of the combination of two keys."""
    names = {
        ("ml-dsa-65", "ecdsa-p256"): "id-MLDSA65-ECDSA-P256-SHA512",
        ("ml-dsa-65", "ed25519"): "id-MLDSA65-Ed25519-SHA512",
        ("ml-dsa-87", "ecdsa-p384"): "id-MLDSA87-ECDSA-P384-SHA512",
    }
    pair = (mldsa.algorithm.name, classical.algorithm.name)
    if pair not in names:
        raise NotOfferedError(f"there is no composite signature of {pair[0]} and {pair[1]}")
    return names[pair]


async def together(work: Sequence[_Work[_Answer]]) -> list[_Answer]:
    """All of it at once; the first that fails ends the others, and is what is raised."""
    if len(work) == 1:
        return [await work[0]()]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one()) for one in work]
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    return [task.result() for task in tasks]


def _of_artefact(wanted: ArtefactToSign) -> Wanted:
    async def entry_digest() -> bytes:
        return wanted.entry_digest

    key = wanted.key
    return Wanted(key, partial(key.sign_reduced, key.algorithm.payload, wanted.digest), entry_digest)


def _of_message(key: JobKey, message: bytes | None) -> Wanted:
    text = message or b""

    async def entry_digest() -> bytes:
        return hashlib.new(entry_digest_name(key.algorithm), text).digest()

    return Wanted(key, partial(key.sign, text), entry_digest)


async def _statement_digest(statement: StatementToSign, name: str) -> bytes:
    """Of the PAE of a statement."""
    found = hashlib.new(name)
    if statement.is_long:
        await asyncio.to_thread(_feed, [found], statement)
    else:
        _feed([found], statement)
    return found.digest()


def _feed(reductions: Sequence[Reduction | Any], statement: StatementToSign) -> None:
    """Give the PAE of a statement to all of them, in one pass over it; `reductions` may be hashes, too."""
    head = pae_head(IN_TOTO_PAYLOAD, statement.length)
    for one in reductions:
        one.update(head)
    for piece in statement.pieces():
        for one in reductions:
            one.update(piece)


def _first(errors: BaseException) -> BaseException:
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors
