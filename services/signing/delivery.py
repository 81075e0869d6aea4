"""From the signatures of a job to what is kept of them: each is put into its formats, and what witnesses it beside it.

What is small is a column, what is not a file, written piece by piece beside the event loop. Where a format has no place
for the time-stamp and log entry of a signature, they are served beside it: `timestamp.tsr` and `log-entry.json` for the
first signature, `timestamp-2.tsr` and so on for the others.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import orjson
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.dsse import IN_TOTO_PAYLOAD
from pkicore.encoding import pem_join
from services.signing.formats import LogEntry, Output, SignedWith, bundle, cms, dsse, jws, raw, short_name
from services.signing.jobs import ArtefactToSign, Job, StatementToSign
from services.signing.keys import JobKey
from services.signing.making import Plan
from services.signing.objects import Scratch, WrittenFile
from services.signing.store import INLINE_OCTETS, Artefact
from services.signing.wire import INLINE_SIGNATURE, MadeBundle, MadeSignature

HYBRID: Final = "hybrid"
_MOST_INLINE: Final = 64  # signatures that stand in the record itself
_ENCODINGS: Final = {"ecdsa": "der", "rsa": "pkcs1", "eddsa": "raw", "mldsa": "raw"}
_STATEMENT: Final = "statement.intoto.json"
_JSON: Final = "application/json"
_TIMESTAMP: Final = "application/timestamp-reply"


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


class Delivery:
    """One job's signatures on their way into formats.

    Args:
        job: what was wanted.
        base: the path that its artefacts are served below.
        scratch: where long files are written.
    """

    def __init__(self, job: Job, base: str, scratch: Scratch) -> None:
        self._job = job
        self._keys = (*job.keys, *job.attestation_keys)
        self._formats = frozenset(job.profile.formats)
        self._base = base
        self._scratch = scratch
        self._made = Made()
        self._timestamps: dict[bytes, str] = {}  # URLs, by signature
        self._log_entries: dict[bytes, str] = {}

    async def deliver(self, plan: Plan) -> Made:
        """Put everything into its formats.

        Raises:
            OSError: a file cannot be written.
        """
        made = self._made
        for found, one in plan.artefacts:
            await self._artefact(found, one.made)
        for statement, group in plan.statements:
            await self._statement(statement, [one.made for one in group])
        for one in plan.jws:
            await self._signature(jws.output(one.made), "jws", "jws", one.made, None)
        if plan.cms:
            await self._cms(plan)
        if plan.composite is not None:
            await self._composite(plan.composite)
        if plan.jws:
            statement = self._job.statements[0]
            made.urls["statement"] = await self._add(Output(_STATEMENT, IN_TOTO_PAYLOAD, statement.content()))
        await self._evidence([one.made for one in plan.signatures()])
        return made

    def keep(self, name: str, media_type: str, file: WrittenFile) -> str:
        """Have a file served as it is; answers its path."""
        self._made.artefacts.append(Artefact(name, media_type, file.size, file.sha256, None))
        self._made.files.append(file)
        return f"{self._base}/{name}"

    async def _artefact(self, found: ArtefactToSign, signed: SignedWith) -> None:
        if "raw" in self._formats:
            output = raw.output(signed, found.number)
            await self._signature(output, "raw", _ENCODINGS[signed.algorithm.family], signed, found.subject.name)
        if "bundle" in self._formats and signed.algorithm.signature_hash is not None:
            output = bundle.message_output(signed, found.digest, found.number)
            await self._bundle(output, "message", [signed])

    async def _statement(self, statement: StatementToSign, signed: Sequence[SignedWith]) -> None:
        if statement.is_long:
            await self._long_statement(statement, signed)
            return
        kind, payload = statement.kind, statement.content()
        if "dsse" in self._formats:
            first, *singles = dsse.outputs(kind, signed, payload)
            await self._bundle(first, kind, signed)
            for output, one in zip(singles, signed, strict=False):
                await self._bundle(output, kind, [one])
        if "bundle" in self._formats:
            for one in signed:
                await self._bundle(bundle.dsse_output(kind, one, payload), kind, [one])

    async def _long_statement(self, statement: StatementToSign, signed: Sequence[SignedWith]) -> None:
        """One envelope with all signatures; each of them alone is a bundle, where these are wanted."""
        kind = statement.kind
        if "dsse" in self._formats:
            pieces = dsse.envelope_chunks(signed, statement.pieces())
            url = await self._add_file(f"{kind}.dsse.json", dsse.MEDIA_TYPE, pieces)
            await self._named_bundle(kind, dsse.MEDIA_TYPE, url, signed)
        if "bundle" in self._formats:
            for one in signed:
                name = f"{kind}-{short_name(one.algorithm)}.sigstore.json"
                url = await self._add_file(name, bundle.MEDIA_TYPE, bundle.dsse_chunks(one, statement.pieces()))
                await self._named_bundle(kind, bundle.MEDIA_TYPE, url, [one])

    async def _cms(self, plan: Plan) -> None:
        """All signers in one file; their time-stamps are in it."""
        signed = [one.made for _, one in plan.cms]
        outputs = cms.outputs([signer for signer, _ in plan.cms], signed)
        subject = self._job.subjects[0].name
        names = [HYBRID if len(signed) > 1 else signed[0].algorithm.name, "classical"]
        entry = await self._log_entry(signed[0])
        for output, name in zip(outputs, names, strict=False):
            url = await self._add(output)
            keys, inline = _named(self._job.keys), self._inline(output.content)
            self._made.signatures.append(MadeSignature(keys, name, "cms", "cms", subject, inline, url, None, entry))

    async def _composite(self, output: Output) -> None:
        url = await self._add(output)
        keys, inline = _named(self._job.attestation_keys), self._inline(output.content)
        self._made.signatures.append(MadeSignature(keys, "composite", "composite", "dsse", None, inline, url))
        self._made.algorithms.append("composite")

    async def _evidence(self, signed: Sequence[SignedWith]) -> None:
        """What stands beside the formats: the first time-stamp and log entry, and the certificates."""
        made, urls = self._made, self._made.urls
        made.algorithms += [one.algorithm.name for one in signed]
        if signed:
            urls["signature"] = made.signatures[0].url if made.signatures else made.bundles[0].url
        for one in signed:
            if "timestamp" not in urls and (url := await self._timestamp(one)) is not None:
                urls["timestamp"] = url
            if made.entry is None and (url := await self._log_entry(one)) is not None:
                made.entry, urls["log_entry"] = one.log_entry, url
        chain = next((key.chain for key in self._keys if key.chain), ())
        if chain:
            pem = pem_join("CERTIFICATE", *(one.public_bytes(Encoding.DER) for one in chain))
            urls["certificate_chain"] = await self._add(Output("chain.pem", "application/pem-certificate-chain", pem))

    async def _signature(
        self, output: Output, name: str, encoding: str, signed: SignedWith, subject: str | None
    ) -> None:
        url, inline = await self._add(output), self._inline(output.content)
        timestamp, entry = await self._timestamp(signed), await self._log_entry(signed)
        algorithm = signed.algorithm.name
        made = MadeSignature(self._name(signed), algorithm, name, encoding, subject, inline, url, timestamp, entry)
        self._made.signatures.append(made)

    async def _bundle(self, output: Output, kind: str, signed: Sequence[SignedWith]) -> None:
        await self._named_bundle(kind, output.media_type, await self._add(output), signed)

    async def _named_bundle(self, kind: str, media_type: str, url: str, signed: Sequence[SignedWith]) -> None:
        """Name it in the record; an envelope has no place for the witnesses of its signatures."""
        timestamps: list[str] = []
        entries: list[str] = []
        if media_type == dsse.MEDIA_TYPE:
            timestamps = [found for one in signed if (found := await self._timestamp(one)) is not None]
            entries = [found for one in signed if (found := await self._log_entry(one)) is not None]
        algorithm = HYBRID if len(signed) > 1 else signed[0].algorithm.name
        keys = tuple(map(self._name, signed))
        made = MadeBundle(kind, algorithm, media_type, url, keys, tuple(timestamps), tuple(entries))
        self._made.bundles.append(made)

    def _name(self, signed: SignedWith) -> str:
        return next(key.name for key in self._keys if key.key_id == signed.key_id)

    async def _timestamp(self, signed: SignedWith) -> str | None:
        """The path of a signature's time-stamp, which is served from now on; None where there is none."""
        if signed.timestamp is None:
            return None
        found = self._timestamps.get(signed.signature)
        if found is None:
            name = _numbered("timestamp", len(self._timestamps), "tsr")
            found = await self._add(Output(name, _TIMESTAMP, signed.timestamp))
            self._timestamps[signed.signature] = found
        return found

    async def _log_entry(self, signed: SignedWith) -> str | None:
        """The path of a signature's log entry, which is served from now on; None where there is none."""
        if signed.log_entry is None:
            return None
        found = self._log_entries.get(signed.signature)
        if found is None:
            name = _numbered("log-entry", len(self._log_entries), "json")
            found = await self._add(Output(name, _JSON, orjson.dumps(signed.log_entry.members())))
            self._log_entries[signed.signature] = found
        return found

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
        return self.keep(name, media_type, await asyncio.to_thread(self._scratch.write, pieces))


def _named(keys: Sequence[JobKey]) -> str:
    return "+".join(key.name for key in keys)


def _numbered(name: str, before: int, ending: str) -> str:
    return f"{name}.{ending}" if before == 0 else f"{name}-{before + 1}.{ending}"
