"""From a job to what is kept of it: everything is signed, then witnessed, then put into its formats.

What is small stays in memory; what is not goes to files, piece by piece, beside the event loop. All signatures of a job
are asked for at once: they travel to signer-hsm together. Nothing is witnessed before all signatures are there.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import repeat
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import orjson
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.dsse import IN_TOTO_PAYLOAD, pae_head
from pkicore.encoding import pem_join
from services.signing.errors import NotOfferedError
from services.signing.formats import LogEntry, Output, SignedWith, bundle, cms, composite, dsse, jws, raw, short_name
from services.signing.formats.log_entry import entry_digest_name
from services.signing.jobs import ArtefactToSign, Job, StatementToSign
from services.signing.keys import JobKey
from services.signing.objects import Scratch, WrittenFile
from services.signing.store import INLINE_OCTETS, Artefact
from services.signing.wire import INLINE_SIGNATURE, MadeBundle, MadeSignature
from services.signing.witnesses import Witnesses

HYBRID: Final = "hybrid"
_MOST_INLINE: Final = 64  # signatures that stand in the record itself
_ENCODINGS: Final = {"ecdsa": "der", "rsa": "pkcs1", "eddsa": "raw", "mldsa": "raw"}
_STATEMENT: Final = "statement.intoto.json"
_JSON: Final = "application/json"

_Answer = TypeVar("_Answer")
_Work: TypeAlias = Callable[[], Coroutine[Any, Any, _Answer]]


@dataclass(slots=True)
class Made:
    """What a job came to.

    Attributes:
        signatures: for the record.
        bundles: for the record.
        urls: for the record, by what is there.
        artefacts: what is served.
        files: those artefacts' files that are no column's.
        algorithms: of all signatures that were made.
        entry: the first log entry.
    """

    signatures: list[MadeSignature] = field(default_factory=list)
    bundles: list[MadeBundle] = field(default_factory=list)
    urls: dict[str, str] = field(default_factory=dict)
    artefacts: list[Artefact] = field(default_factory=list)
    files: list[WrittenFile] = field(default_factory=list)
    algorithms: list[str] = field(default_factory=list)
    entry: LogEntry | None = None


class _Signed(NamedTuple):
    """What was signed, before it is put into formats."""

    artefacts: list[tuple[ArtefactToSign, SignedWith]]
    statements: list[tuple[StatementToSign, list[SignedWith]]]
    jws: list[SignedWith]
    cms: list[tuple[cms.PreparedSigner, SignedWith]]
    composite: Output | None


class Making:
    """One job on its way.

    Args:
        job: what is wanted.
        base: the path that its artefacts are served below.
        witnesses: of this deployment.
        scratch: where long files are written.
        now: of CMS signatures.
    """

    def __init__(self, job: Job, base: str, witnesses: Witnesses, scratch: Scratch, now: datetime) -> None:
        self._job = job
        self._formats = frozenset(job.profile.formats)
        self._base = base
        self._witnesses = witnesses
        self._scratch = scratch
        self._now = now
        self._made = Made()

    async def sign(self) -> _Signed:
        """Sign all of it.

        Raises:
            SignerError: signer-hsm did not sign.
            UnsupportedError, NotOfferedError: formats that these keys cannot have.
        """
        job = self._job
        wanted = list(job.artefact_signatures())
        artefacts = [partial(one.key.sign_reduced, one.key.algorithm.payload, one.digest) for one in wanted]
        if not job.statements and "cms" not in self._formats:  # raw signatures alone: the quick way
            made = await _together(artefacts)
            return _Signed([(one, _with(one.key, made[n])) for n, one in enumerate(wanted)], [], [], [], None)
        statements = await self._statement_signatures()
        signers = self._cms_signers()
        detached = [partial(one.sign, self._jws_input(one)) for one in (job.keys if "jws" in self._formats else ())]
        attributes = [partial(key.sign, signer.to_sign.message or b"") for key, signer in signers]
        asked: list[Sequence[_Work[bytes]]] = [
            artefacts,
            [one for _, group in statements for one in group],
            detached,
            attributes,
        ]
        made = await _together([one for group in asked for one in group])
        parts = _split(made, [len(group) for group in asked])
        by_statement = _split(parts[1], [len(group) for _, group in statements])
        return _Signed(
            [(one, _with(one.key, signature)) for one, signature in zip(wanted, parts[0], strict=True)],
            [
                (statement, [_with(key, one) for key, one in zip(job.keys, group, strict=True)])
                for (statement, _), group in zip(statements, by_statement, strict=True)
            ],
            [_with(key, one) for key, one in zip(job.keys, parts[2], strict=False)],
            [(signer, _with(key, one)) for (key, signer), one in zip(signers, parts[3], strict=True)],
            await self._composite(),
        )

    async def witness(self, signed: _Signed) -> _Signed:
        """Have the signatures time-stamped and logged, where the profile wants that.

        Raises:
            SignerDownError: a witness cannot do it now.
        """
        artefacts = await _together(
            [partial(self._witnessed, one, found.entry_digest) for found, one in signed.artefacts]
        )
        statements = []
        for statement, group in signed.statements:
            digests = await asyncio.to_thread(_digests, statement, group)
            statements.append((statement, await _together(list(map(partial, repeat(self._witnessed), group, digests)))))
        infos = await _together(
            [partial(self._witnessed, one, _digest(one, signer.to_sign.message or b"")) for signer, one in signed.cms]
        )
        detached = await _together(
            [partial(self._witnessed, one, _digest(one, self._jws_input(one))) for one in signed.jws]
        )
        return signed._replace(
            artefacts=[(found, one) for (found, _), one in zip(signed.artefacts, artefacts, strict=True)],
            statements=statements,
            jws=detached,
            cms=[(signer, one) for (signer, _), one in zip(signed.cms, infos, strict=True)],
        )

    async def deliver(self, signed: _Signed) -> Made:
        """Put everything into its formats.

        Raises:
            OSError: a file cannot be written.
        """
        made = self._made
        for found, one in signed.artefacts:
            await self._deliver_artefact(found, one)
        for statement, group in signed.statements:
            await self._deliver_statement(statement, group)
        for one in signed.jws:
            await self._add_signature(jws.output(one), "jws", "jws", one, None)
        if signed.cms:
            await self._deliver_cms(signed.cms)
        if signed.composite is not None:
            await self._deliver_composite(signed.composite)
        if "jws" in self._formats:
            statement = self._job.statements[0]
            made.urls["statement"] = await self._add(Output(_STATEMENT, IN_TOTO_PAYLOAD, statement.content()))
        await self._deliver_evidence(signed)
        return made

    # signing

    async def _statement_signatures(self) -> list[tuple[StatementToSign, list[_Work[bytes]]]]:
        if not self._formats & {"dsse", "bundle"}:
            return []
        return [(one, await self._statement_by_all(one)) for one in self._job.statements]

    async def _statement_by_all(self, statement: StatementToSign) -> list[_Work[bytes]]:
        keys = self._job.keys
        if not statement.is_long:
            message = _message(statement)
            return [partial(key.sign, message) for key in keys]
        reductions = [await key.reduction() for key in keys]
        await asyncio.to_thread(_feed, reductions, statement)
        return [partial(key.sign_reduced, one.kind, one.payload()) for key, one in zip(keys, reductions, strict=True)]

    def _jws_input(self, key: JobKey | SignedWith) -> bytes:
        return jws.to_sign(key.key_id, key.public_key, self._job.statements[0].content()).message or b""

    def _cms_signers(self) -> list[tuple[JobKey, cms.PreparedSigner]]:
        if "cms" not in self._formats:
            return []
        digests = {name: bytes.fromhex(text) for name, text in self._job.subjects[0].digest.items()}
        chains = self._job.profile.chains
        return [
            (key, cms.prepare(key.key_id, key.chain or chains.get(key.key_id, ()), digests, self._now))
            for key in self._job.keys
        ]

    async def _composite(self) -> Output | None:
        if "composite" not in self._formats:
            return None
        halves = {key.algorithm.family == "mldsa": key for key in self._job.keys}
        if len(halves) != len(self._job.keys) or len(halves) != 2:  # noqa: PLR2004 - a composite has two halves
            raise NotOfferedError("a composite signature is made by one ML-DSA key and one classical key")
        mldsa, classical = halves[True], halves[False]
        prepared = composite.PreparedComposite(
            (mldsa.key_id, mldsa.public_key),
            (classical.key_id, classical.public_key),
            self._job.statements[0].content(),
            algorithm=composite_of(mldsa, classical),
        )
        mu = (prepared.mldsa.digest or {})[raw.MU]
        first, second = await _together(
            [partial(mldsa.sign_reduced, "mu", mu), partial(classical.sign, prepared.traditional.message or b"")]
        )
        return prepared.finish(first, second)

    async def _witnessed(self, signed: SignedWith, digest: bytes | None) -> SignedWith:
        profile = self._job.profile
        return await self._witnesses.witnessed(signed, digest, timestamp=profile.timestamp, log=profile.log)

    # delivering

    async def _deliver_artefact(self, found: ArtefactToSign, signed: SignedWith) -> None:
        if "raw" in self._formats:
            output = raw.output(signed, found.number)
            await self._add_signature(output, "raw", _ENCODINGS[signed.algorithm.family], signed, found.subject.name)
        if "bundle" in self._formats and signed.algorithm.signature_hash is not None:
            output = bundle.message_output(signed, found.digest, found.number)
            await self._add_bundle(output, "message", signed.algorithm.name)

    async def _deliver_statement(self, statement: StatementToSign, signed: Sequence[SignedWith]) -> None:
        algorithm = HYBRID if len(signed) > 1 else signed[0].algorithm.name
        kind = statement.kind
        if statement.is_long:
            await self._deliver_long(statement, signed, algorithm)
            return
        payload = statement.content()
        if "dsse" in self._formats:
            first, *singles = dsse.outputs(kind, signed, payload)
            await self._add_bundle(first, kind, algorithm)
            for output, one in zip(singles, signed, strict=False):
                await self._add_bundle(output, kind, one.algorithm.name)
        if "bundle" in self._formats:
            for one in signed:
                await self._add_bundle(bundle.dsse_output(kind, one, payload), kind, one.algorithm.name)

    async def _deliver_long(self, statement: StatementToSign, signed: Sequence[SignedWith], algorithm: str) -> None:
        """One envelope with all signatures; each of them alone is a bundle, where these are wanted."""
        kind = statement.kind
        if "dsse" in self._formats:
            pieces = dsse.envelope_chunks(signed, statement.pieces())
            url = await self._add_file(f"{kind}.dsse.json", dsse.MEDIA_TYPE, pieces)
            self._made.bundles.append(MadeBundle(kind, algorithm, dsse.MEDIA_TYPE, url))
        if "bundle" in self._formats:
            for one in signed:
                name = f"{kind}-{short_name(one.algorithm)}.sigstore.json"
                url = await self._add_file(name, bundle.MEDIA_TYPE, bundle.dsse_chunks(one, statement.pieces()))
                self._made.bundles.append(MadeBundle(kind, one.algorithm.name, bundle.MEDIA_TYPE, url))

    async def _deliver_cms(self, signed: Sequence[tuple[cms.PreparedSigner, SignedWith]]) -> None:
        outputs = cms.outputs([signer for signer, _ in signed], [one for _, one in signed])
        subject = self._job.subjects[0].name
        names = [HYBRID if len(signed) > 1 else signed[0][1].algorithm.name, "classical"]
        self._made.algorithms += [one.algorithm.name for _, one in signed]
        for output, name in zip(outputs, names, strict=False):
            url = await self._add(output)
            keys = "+".join(key.name for key in self._job.keys)
            inline = self._inline(output.content)
            self._made.signatures.append(MadeSignature(keys, name, "cms", "cms", subject, inline, url))

    async def _deliver_composite(self, output: Output) -> None:
        url = await self._add(output)
        keys = "+".join(key.name for key in self._job.keys)
        inline = self._inline(output.content)
        self._made.signatures.append(MadeSignature(keys, "composite", "composite", "dsse", None, inline, url))
        self._made.algorithms.append("composite")

    async def _deliver_evidence(self, signed: _Signed) -> None:
        """What stands beside the formats: the first time-stamp and log entry, and the certificates."""
        urls, made = self._made.urls, [one for _, one in signed.artefacts]
        made += [one for _, group in signed.statements for one in group]
        made += [*signed.jws, *(one for _, one in signed.cms)]
        if made:
            urls["signature"] = self._made.signatures[0].url if self._made.signatures else self._made.bundles[0].url
        stamped = next((one.timestamp for one in made if one.timestamp is not None), None)
        if stamped is not None:
            urls["timestamp"] = await self._add(Output("timestamp.tsr", "application/timestamp-reply", stamped))
        entry = next((one.log_entry for one in made if one.log_entry is not None), None)
        if entry is not None:
            self._made.entry = entry
            urls["log_entry"] = await self._add(Output("log-entry.json", _JSON, orjson.dumps(entry.members())))
        chain = next((key.chain for key in self._job.keys if key.chain), ())
        if chain:
            pem = pem_join("CERTIFICATE", *(one.public_bytes(Encoding.DER) for one in chain))
            urls["certificate_chain"] = await self._add(Output("chain.pem", "application/pem-certificate-chain", pem))

    async def _add_signature(
        self, output: Output, name: str, encoding: str, signed: SignedWith, subject: str | None
    ) -> None:
        url, algorithm = await self._add(output), signed.algorithm.name
        key = next(key for key in self._job.keys if key.key_id == signed.key_id)
        inline = self._inline(output.content)
        self._made.signatures.append(MadeSignature(key.name, algorithm, name, encoding, subject, inline, url))
        self._made.algorithms.append(algorithm)

    async def _add_bundle(self, output: Output, kind: str, algorithm: str) -> None:
        url = await self._add(output)
        self._made.bundles.append(MadeBundle(kind, algorithm, output.media_type, url))
        self._made.algorithms.append(algorithm)

    def _inline(self, content: bytes) -> bytes | None:
        fits = len(content) <= INLINE_SIGNATURE and len(self._made.signatures) < _MOST_INLINE
        return content if fits else None

    async def _add(self, output: Output) -> str:
        if len(output.content) > INLINE_OCTETS:
            return await self._add_file(output.name, output.media_type, [output.content])
        sha256 = hashlib.sha256(output.content).hexdigest()
        self._made.artefacts.append(
            Artefact(output.name, output.media_type, len(output.content), sha256, output.content)
        )
        return f"{self._base}/{output.name}"

    async def _add_file(self, name: str, media_type: str, pieces: Iterable[bytes]) -> str:
        file = await asyncio.to_thread(self._scratch.write, pieces)
        self.keep(name, media_type, file)
        return f"{self._base}/{name}"

    def keep(self, name: str, media_type: str, file: WrittenFile) -> str:
        """Have a file served as it is; answers its path."""
        self._made.artefacts.append(Artefact(name, media_type, file.size, file.sha256, None))
        self._made.files.append(file)
        return f"{self._base}/{name}"


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


def _with(key: JobKey, signature: bytes) -> SignedWith:
    return SignedWith(key.key_id, key.algorithm, key.public_key, signature, key.chain)


def _message(statement: StatementToSign) -> bytes:
    return pae_head(IN_TOTO_PAYLOAD, statement.length) + statement.content()


def _feed(reductions: Sequence[Any], statement: StatementToSign) -> None:
    """Give the PAE of a statement to all of them, in one pass over it; `reductions` may be hashes, too."""
    head = pae_head(IN_TOTO_PAYLOAD, statement.length)
    for one in reductions:
        one.update(head)
    for piece in statement.pieces():
        for one in reductions:
            one.update(piece)


def _digest(signed: SignedWith, message: bytes) -> bytes:
    """Of what was signed, under the hash that the signature's log entry names."""
    return hashlib.new(entry_digest_name(signed.algorithm), message).digest()


def _digests(statement: StatementToSign, signed: Iterable[SignedWith]) -> list[bytes]:
    """Of the PAE, under the hash that each signature's log entry names."""
    names = [entry_digest_name(one.algorithm) for one in signed]
    hashes = {name: hashlib.new(name) for name in names}
    _feed(list(hashes.values()), statement)
    return [hashes[name].digest() for name in names]


def _split(values: Sequence[_Answer], lengths: Iterable[int]) -> list[Sequence[_Answer]]:
    parts, start = [], 0
    for length in lengths:
        parts.append(values[start : start + length])
        start += length
    return parts


async def _together(work: Sequence[_Work[_Answer]]) -> list[_Answer]:
    """All of it at once; the first that fails ends the others, and is what is raised."""
    if len(work) == 1:
        return [await work[0]()]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one()) for one in work]
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    return [task.result() for task in tasks]


def _first(errors: BaseException) -> BaseException:
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors
