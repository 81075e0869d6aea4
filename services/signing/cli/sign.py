"""`pqcsign sign`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

import click
import orjson
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pkicore.algorithms import PublicKey, algorithm_of, known_public_key
from pkicore.errors import MalformedError
from services.chassis.cli.output import json_option, tell
from services.signing.ci import ci_provenance
from services.signing.cli.connection import Route, service_command
from services.signing.cli.delivery import Plan, deliver, refuse_taken
from services.signing.cli.failures import FILES, REFUSED, UNAVAILABLE, USAGE, CommandError
from services.signing.cli.hashing import Artefact, hash_file
from services.signing.cli.progress import Progress
from services.signing.cli.service import Service
from services.signing.provenance import MAX_PROVENANCE_BYTES
from services.signing.wire import (
    FORMATS,
    MAX_DOCUMENT,
    Format,
    SignatureRecord,
    SignatureRequest,
    checked_idempotency_key,
)

_DEFAULT_PROFILE: Final = "default"
_JSON: Final = "application/json"
_MAX_FILES: Final = 1000
_HASHES: Final = ("sha256", "sha512")


@dataclass(frozen=True, slots=True)
class SignOptions:
    """What the command line says; None: not given."""

    sbom: Path | None
    provenance: Path | None
    provenance_from_ci: bool
    key: str | None
    profile: str | None
    oidc: bool
    formats: tuple[str, ...]
    prepare_for: tuple[str, ...]
    context: tuple[str, ...]
    idempotency_key: str | None
    out: Path | None
    force: bool
    progress: bool

    def checked(self, files: Sequence[Path]) -> None:
        """Raises CommandError where options do not go together."""
        if sum((self.key is not None, self.profile is not None, self.oidc)) > 1:
            raise CommandError("give one of --key, --profile and --oidc", USAGE)
        if self.provenance is not None and self.provenance_from_ci:
            raise CommandError("give one of --provenance and --provenance-from-ci", USAGE)
        if len(files) > _MAX_FILES or len({file.name for file in files}) < len(files):
            raise CommandError(f"at most {_MAX_FILES} files are signed at once, and no two of the same name", USAGE)
        if self.idempotency_key is not None:
            try:
                checked_idempotency_key(self.idempotency_key)
            except MalformedError as error:
                raise CommandError(str(error), USAGE) from error

    @property
    def wanted_formats(self) -> tuple[Format, ...] | None:
        """None: those of the profile."""
        return cast("tuple[Format, ...]", tuple(dict.fromkeys(self.formats))) or None


class Signed(NamedTuple):
    """What came of it."""

    record: SignatureRecord
    files: list[Path]


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--sbom", type=click.Path(path_type=Path), help="SBOM of the files: CycloneDX JSON or SPDX JSON.")
@click.option("--provenance", type=click.Path(path_type=Path), help="SLSA provenance v1: predicate, Statement, DSSE.")
@click.option("--provenance-from-ci", is_flag=True, help="Make it of the environment of this CI job; it will say so.")
@click.option("--key", metavar="TENANT.NAME", help="Sign with this key alone.")
@click.option("--profile", help=f"Sign with the keys of this profile. [default: {_DEFAULT_PROFILE}]")
@click.option("--oidc", is_flag=True, help="Sign as the OIDC identity, with a key and certificate of this moment.")
@click.option("--format", "formats", multiple=True, type=click.Choice(FORMATS), help="[default: those of the profile]")
@click.option("--prepare-for", metavar="TENANT.NAME", multiple=True, help="Key of the profile that needs more.")
@click.option("--context", metavar="NAME=VALUE", multiple=True, help="Ticket or reason, kept with the record.")
@click.option("--idempotency-key", help="With the same one, a repetition gets the same record. [default: random]")
@click.option("--out", type=click.Path(path_type=Path), help="Directory for what is made. [default: beside each FILE]")
@click.option("--force", is_flag=True, help="Write over files that are there.")
@click.option("--progress", is_flag=True, help="Say how far it is, also elsewhere than on a terminal.")
@service_command
@json_option
def sign(files: tuple[Path, ...], route: Route, as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001 - click's way
    """Have FILEs signed together, and write signatures and attestations beside them.

    Only digests of the files are sent; the SBOM and the provenance are sent whole, checked, and attested. Beside
    app.tar.gz come app.tar.gz.sigstore.json (for cosign and sigstore), .sig (for openssl), .intoto.jsonl (attestations)
    and whatever the formats say.

    SHA-256 and SHA-512 are sent. A raw signature by a key of ECDSA P-384 needs SHA-384, and one by ML-DSA a value that
    is computed from the file with the key, for one FILE at a time: --key sees to both, and for a key of a profile
    --prepare-for does.
    """
    wanted = SignOptions(**options)
    wanted.checked(files)
    signed: Signed = route.run(
        lambda service: _sign(service, files, wanted, route.around.environment), oidc_only=wanted.oidc
    )
    value = {"record": orjson.loads(signed.record.to_json()), "files": [str(file) for file in signed.files]}
    tell(as_json, value, f"Signed: {signed.record.id}", *map(str, signed.files))


async def _sign(service: Service, files: Sequence[Path], wanted: SignOptions, environment: Mapping[str, str]) -> Signed:
    targets = [file if wanted.out is None else wanted.out / file.name for file in files]
    if wanted.out is not None:
        wanted.out.mkdir(parents=True, exist_ok=True)
    if not wanted.force:
        refuse_taken(targets, wanted.wanted_formats)
    artefacts = _hashed(files, await _needs(service, wanted, len(files)), asked=wanted.progress)
    request = SignatureRequest(
        tuple(artefact.subject for artefact in artefacts),
        profile=wanted.profile or (None if wanted.key or wanted.oidc else _DEFAULT_PROFILE),
        key=wanted.key,
        formats=wanted.wanted_formats,
        identity=wanted.oidc,
        context=dict(map(_pair, wanted.context)),
        mu=artefacts[0].mu,
    )
    record = await _sent(service, request, wanted, environment)
    if record.subjects != request.subjects:
        raise CommandError("the service signed other digests than those that were sent", REFUSED)
    plan = Plan(record, wanted.out, {artefact.name: artefact.path for artefact in artefacts})
    try:
        return Signed(record, await deliver(service, plan.files(), force=wanted.force))
    except CommandError as error:
        again = f"it is signed; `pqcsign show {record.id} --out DIR` fetches the files, which needs the action read"
        raise CommandError(str(error), error.status, again) from error


async def _sent(
    service: Service, request: SignatureRequest, wanted: SignOptions, environment: Mapping[str, str]
) -> SignatureRecord:
    """The request and its documents, which stay open while they are sent."""
    idempotency_key = wanted.idempotency_key or f"pqcsign-{secrets.token_hex(16)}"
    with ExitStack() as opened:
        documents: dict[str, tuple[str | None, IO[bytes] | bytes, str]] = {}
        if wanted.sbom is not None:
            file = opened.enter_context(_open(wanted.sbom, MAX_DOCUMENT))
            documents["sbom"] = (wanted.sbom.name, cast("IO[bytes]", _Metered(file, asked=wanted.progress)), _JSON)
        if wanted.provenance is not None:
            file = opened.enter_context(_open(wanted.provenance, MAX_PROVENANCE_BYTES))
            documents["provenance"] = (wanted.provenance.name, file, _JSON)
        elif wanted.provenance_from_ci:
            documents["provenance"] = ("provenance.json", ci_provenance(environment), _JSON)
        try:
            return await service.sign(request, documents, idempotency_key)
        except CommandError as error:
            if error.status != UNAVAILABLE:
                raise
            again = f"{error.advice}, with --idempotency-key {idempotency_key}"
            raise CommandError(str(error), UNAVAILABLE, again) from error


class _Needs(NamedTuple):
    """What the keys need of the files."""

    hashes: tuple[str, ...]
    mu_keys: dict[str, PublicKey]


async def _needs(service: Service, wanted: SignOptions, files: int) -> _Needs:
    names = {*wanted.prepare_for, *(() if wanted.key is None else (wanted.key,))}
    keys = {name: _public_key(await service.public_key(name)) for name in sorted(names)}
    algorithms = {name: algorithm_of(key) for name, key in keys.items()}
    own = {row.signature_hash.name for row in algorithms.values() if row.signature_hash is not None}
    raw = wanted.formats == () or "raw" in wanted.formats
    mu_keys = {name: key for name, key in keys.items() if raw and algorithms[name].family == "mldsa"}
    if mu_keys and files > 1:
        raise CommandError("raw signatures by ML-DSA are made of one file at a time", USAGE, "or give other --format")
    return _Needs((*_HASHES, *sorted(own - set(_HASHES))), mu_keys)


def _public_key(pem: bytes) -> PublicKey:
    try:
        return known_public_key(load_pem_public_key(pem))
    except ValueError as error:
        raise MalformedError("what the service says is a public key is none") from error


def _hashed(files: Sequence[Path], needs: _Needs, *, asked: bool) -> list[Artefact]:
    artefacts = []
    for file in files:
        progress = Progress(f"reading {file.name}", file.stat().st_size, asked=asked)
        artefacts.append(hash_file(file, needs.hashes, needs.mu_keys, progress.advance))
        progress.end()
    return artefacts


def _open(path: Path, most: int) -> IO[bytes]:
    file = path.open("rb")
    if (size := path.stat().st_size) > most:
        file.close()
        raise CommandError(f"{path} has {size} octets; {most} are taken at most", FILES)
    return file


class _Metered:
    """A file that says how far it has been read."""

    def __init__(self, file: IO[bytes], *, asked: bool) -> None:
        self._file = file
        size = Path(file.name).stat().st_size
        self._progress = Progress(f"sending {Path(file.name).name}", size, asked=asked)
        self.fileno = file.fileno
        self.seek: Callable[..., int] = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        """As the file does."""
        content = self._file.read(size)
        if content:
            self._progress.advance(len(content))
        else:
            self._progress.end()
        return content


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise CommandError("--context is NAME=VALUE, as in ticket=REL-7", USAGE)
    return name, value
