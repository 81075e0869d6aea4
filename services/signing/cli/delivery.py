"""Which files a record becomes, and how they are written: all of them or none, whole, over nothing that is there.

Beside `app.tar.gz` stand `.sigstore.json` (the name that verifiers look for first), `.sig`, `.jws`, `.p7s`, `.tsr`, and
what speaks for each of these: `.tsr` and `.log-entry.json` are of `.sig`, `.jws.tsr` and `.jws.log-entry.json` of the
JWS. The attestations: `.intoto.jsonl` has an envelope per line with the signatures of all keys, `.sigstore.jsonl` a
bundle per line with one each. Where several keys signed the artefact, the further ones' files have the algorithm in
their names: `app.tar.gz.ml-dsa-65.sig`. What is of all artefacts together is called `multiple`.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from pkicore.algorithms import ALGORITHMS
from pkicore.encoding import sync_directory
from pkicore.errors import MalformedError
from services.signing.cli.failures import FILES, CommandError
from services.signing.client import SigningClient
from services.signing.wire import MadeBundle, MadeSignature, SignatureRecord

SUFFIXES: Final[Mapping[str, str]] = {
    "raw": ".sig",
    "bundle": ".sigstore.json",
    "jws": ".jws",
    "cms": ".p7s",
    "composite": ".composite.dsse.json",
    "dsse": ".intoto.jsonl",
}
_ALONGSIDE: Final[Mapping[str, str]] = {
    "timestamp": ".tsr",
    "certificate_chain": ".chain.pem",
    "statement": ".intoto.json",
}
_LOG_ENTRY: Final = ".log-entry.json"
_BUNDLES: Final = ".sigstore.jsonl"
_BUNDLE: Final = re.compile(r"application/vnd\.dev\.sigstore\.bundle[.+].*", re.ASCII)
_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}", re.ASCII)
_NUMBER: Final = re.compile(r"-([1-9][0-9]{0,3})\.sigstore\.json", re.ASCII)
_TOGETHER: Final = "multiple"
_MAX_NAME: Final = 200  # octets, so that suffixes find room
_ELSEWHERE: Final = "--force writes over it, --out DIR writes elsewhere"

Source = bytes | str
"""Octets that are at hand, or the path of the service where they are."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file to be written; several sources become lines of it."""

    path: Path
    sources: tuple[Source, ...]


class Plan:
    """The files of one record.

    Args:
        record: what the service made.
        directory: where they go; None: beside the artefacts.
        paths: of the artefacts, by name; an artefact without one is called by its name.
    """

    def __init__(self, record: SignatureRecord, directory: Path | None, paths: Mapping[str, Path]) -> None:
        self._record = record
        self._directory = directory
        self._paths = paths
        self._planned: dict[Path, list[Source]] = {}

    def files(self) -> list[PlannedFile]:
        """All of them.

        Raises:
            MalformedError: a name in the record that no file may have.
        """
        self._planned = {}
        for signature in self._record.signatures:
            if signature.format in SUFFIXES:
                self._add_signature(signature)
        for bundle in self._record.bundles:
            self._add_bundle(bundle)
        own_timestamps = any(signature.timestamp is not None for signature in self._record.signatures)
        for name, suffix in _ALONGSIDE.items():
            if name in self._record.urls and not (name == "timestamp" and own_timestamps):
                self._add(None, "", suffix, self._record.urls[name])
        return [PlannedFile(path, tuple(sources)) for path, sources in self._planned.items()]

    def _add_signature(self, signature: MadeSignature) -> None:
        suffix = SUFFIXES[signature.format]
        content = signature.url if signature.signature is None else signature.signature
        path = self._add(signature.subject, signature.algorithm, suffix, content)
        name = path.name.removesuffix(SUFFIXES["raw"])
        for url, ending in ((signature.timestamp, _ALONGSIDE["timestamp"]), (signature.log_entry, _LOG_ENTRY)):
            if url is not None:
                self._put(path.with_name(f"{name}{ending}"), url)

    def _add_bundle(self, bundle: MadeBundle) -> None:
        if bundle.kind == "message":
            self._add(self._subject_of(bundle), bundle.algorithm, SUFFIXES["bundle"], bundle.url)
        elif _BUNDLE.fullmatch(bundle.media_type):
            self._add_line(_BUNDLES, bundle)
        elif PurePosixPath(bundle.url).name == f"{bundle.kind}.dsse.json":
            self._add_line(SUFFIXES["dsse"], bundle)
        else:  # the same with one of the signatures, for verifiers that take no more
            self._add_line(f".{_label(bundle.algorithm)}{SUFFIXES['dsse']}", bundle)

    def _add_line(self, suffix: str, bundle: MadeBundle) -> None:
        self._planned.setdefault(self._path(None, suffix), []).append(bundle.url)

    def _subject_of(self, bundle: MadeBundle) -> str:
        """Files are numbered like the subjects, from 2: message-ALG.sigstore.json, message-ALG-2.sigstore.json."""
        name = PurePosixPath(bundle.url).name
        found = _NUMBER.fullmatch(name.removeprefix(f"message-{_label(bundle.algorithm)}"))
        number = 1 if found is None else int(found[1])
        if number > len(self._record.subjects):
            raise MalformedError("the record has a bundle about an artefact that it does not name")
        return self._record.subjects[number - 1].name

    def _add(self, subject: str | None, algorithm: str, suffix: str, source: Source) -> Path:
        path = self._path(subject, suffix)
        if path in self._planned:
            path = self._path(subject, f".{_label(algorithm)}{suffix}")
        self._put(path, source)
        return path

    def _put(self, path: Path, source: Source) -> None:
        if path in self._planned:
            raise MalformedError(f"the record has two files that would be called {path.name!a}")
        self._planned[path] = [source]

    def _path(self, subject: str | None, suffix: str) -> Path:
        subjects = self._record.subjects
        name = subject or (subjects[0].name if len(subjects) == 1 else None)
        if name is None:
            beside = next(iter(self._paths.values()), Path())
            return (self._directory or beside.parent) / f"{_TOGETHER}{suffix}"
        beside = self._paths.get(name, Path(written_name(name)))
        return (self._directory or beside.parent) / f"{file_name(beside.name)}{suffix}"


def refuse_taken(paths: Sequence[Path], formats: Sequence[str] | None) -> None:
    """See before anything is signed that nothing is in the way of what surely comes.

    Raises:
        CommandError: a file is there.
    """
    for path in paths:
        for suffix in {SUFFIXES[one] for one in formats or ("raw", "bundle") if one != "dsse"}:
            refuse_existing(path.with_name(path.name + suffix))


def refuse_existing(path: Path, advice: str = _ELSEWHERE) -> None:
    """See before something is done that its result can be written.

    Raises:
        CommandError: a file is there; the advice says what to do about it.
    """
    if path.exists():
        raise CommandError(f"{path} is there already", FILES, advice)


async def deliver(service: SigningClient, planned: Sequence[PlannedFile], *, force: bool) -> list[Path]:
    """Fetch and write the files, into directories that are made where they are missing.

    Raises:
        CommandError: a file is there already.
        SigningClientError: the service does not give one.
        OSError: one cannot be written. Nothing of what was not there before stays.
    """
    made = [path for parent in dict.fromkeys(file.path.parent for file in planned) for path in _made(parent)]
    try:
        return await _deliver(service, planned, force=force)
    except BaseException:
        for directory in reversed(made):
            with suppress(OSError):  # somebody else has put something there
                directory.rmdir()
        raise


async def _deliver(service: SigningClient, planned: Sequence[PlannedFile], *, force: bool) -> list[Path]:
    ready: list[tuple[Path, Path]] = []
    try:
        for file in planned:
            ready.append((_temporary(file.path), file.path))
            with ready[-1][0].open("wb") as target:
                await _fill(service, file, target)
                target.flush()
                os.fsync(target.fileno())
        _put_in_place(ready, force=force)
    finally:
        for temporary, _ in ready:
            temporary.unlink(missing_ok=True)
    return [file.path for file in planned]


def _made(directory: Path) -> list[Path]:
    """Make a directory and what is above it; those that were not there, the outer ones first."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


async def _fill(service: SigningClient, file: PlannedFile, target: IO[bytes]) -> None:
    for source in file.sources:
        if isinstance(source, bytes):
            target.write(source)
        else:
            await service.download(source, target)
        if file.path.name.endswith(".jsonl"):
            target.write(b"\n")


def _temporary(path: Path) -> Path:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:_MAX_NAME]}.")
    os.fchmod(descriptor, 0o644)
    os.close(descriptor)
    return Path(name)


def _put_in_place(ready: Sequence[tuple[Path, Path]], *, force: bool) -> None:
    placed: list[Path] = []
    for temporary, path in ready:
        try:
            if force:
                temporary.replace(path)
            else:
                os.link(temporary, path)
        except OSError as error:
            for earlier in () if force else placed:
                earlier.unlink()
            if isinstance(error, FileExistsError):
                raise CommandError(f"{path} is there already", FILES, _ELSEWHERE) from error
            raise
        placed.append(path)
    for directory in {path.parent for path in placed}:
        sync_directory(directory)


def file_name(name: str) -> str:
    """The last part of an artefact's name, if a file may be called that.

    Raises:
        MalformedError: none may.
    """
    last = PurePosixPath(name).name
    if last in {"", "..", "."} or len(last.encode()) > _MAX_NAME or not last.isprintable() or "\\" in last:
        raise MalformedError(f"no file may be called {name[:80]!a}")
    return last


def written_name(name: str) -> str:
    """What files are called that belong to an artefact which is none here, such as the image `example.org/app:1.2`.

    A colon becomes a hyphen: scp and rsync take what is before it for a host, and Windows for a drive.

    Raises:
        MalformedError: no file may be called that.
    """
    return file_name(name).replace(":", "-")


def _label(algorithm: str) -> str:
    """An algorithm in the name of a file, as the service has it there: es256, ml-dsa-65."""
    row = ALGORITHMS.get(algorithm)
    label = algorithm if row is None else row.jws.lower()
    if not _LABEL.fullmatch(label):
        raise MalformedError(f"the record has an algorithm that no file may have in its name: {label[:80]!a}")
    return label
