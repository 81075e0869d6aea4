"""`pqcsign sign`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
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
from services.signing.cli.failures import FILES, REFUSED, UNAVAILABLE, USAGE, CommandError, advice_of, status_of
from services.signing.cli.hashing import Artefact, hash_file
from services.signing.cli.progress import Progress
from services.signing.cli.sign_options import DEFAULT_PROFILE, SignOptions
from services.signing.client import SigningClient, SigningClientError, SigningUnavailableError
from services.signing.provenance import MAX_PROVENANCE_BYTES
from services.signing.wire import FORMATS, MAX_DOCUMENT, SignatureRecord, SignatureRequest

_JSON: Final = "application/json"
_HASHES: Final = ("sha256", "sha512")


class Signed(NamedTuple):
    """What came of it."""

    record: SignatureRecord
    files: list[Path]


@click.command()
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--digest", "digests", metavar="sha256:HEX", multiple=True, help="Sign what has this digest, as --name.")
@click.option("--name", "names", metavar="NAME", multiple=True, help="What the --digest is of, such as an image.")
@click.option("--sbom", type=click.Path(path_type=Path), help="SBOM of the files: CycloneDX JSON or SPDX JSON.")
@click.option("--provenance", type=click.Path(path_type=Path), help="SLSA provenance v1: predicate, Statement, DSSE.")
@click.option("--provenance-from-ci", is_flag=True, help="Make it of the environment of this CI job; it will say so.")
@click.option("--key", metavar="TENANT.NAME", help="Sign with this key alone.")
@click.option("--profile", help=f"Sign with the keys of this profile. [default: {DEFAULT_PROFILE}]")
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
def sign(route: Route, as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001 - click's way
    """Have FILEs signed together, and write signatures and attestations beside them.

    Only digests of the files are sent; the SBOM and the provenance are sent whole, checked, and attested. Beside
    app.tar.gz come app.tar.gz.sigstore.json (for cosign and sigstore), .sig (for openssl), .intoto.jsonl (attestations)
    and whatever the formats say.

    What is no file here, such as a container image, is signed by --digest and --name, once for each; the files are
    called by the last part of NAME. Several hashes of one artefact have commas between: sha256:HEX,sha384:HEX.

    SHA-256 and SHA-512 are sent. A raw signature by a key of ECDSA P-384 needs SHA-384, and one by ML-DSA a value that
    is computed from the file with the key, for one FILE at a time: --key sees to both, and for a key of a profile
    --prepare-for does.
    """
    wanted = SignOptions(**options)
    wanted.check()
    signed: Signed = route.run(lambda service: _sign(service, wanted, route.around.environment), oidc_only=wanted.oidc)
    value = {"record": orjson.loads(signed.record.to_json()), "files": [str(file) for file in signed.files]}
    tell(as_json, value, f"Signed: {signed.record.id}", *map(str, signed.files))


async def _sign(service: SigningClient, wanted: SignOptions, environment: Mapping[str, str]) -> Signed:
    if not wanted.force:
        refuse_taken(wanted.targets, wanted.wanted_formats)
    needs = await _needs(service, wanted)
    artefacts = [*_hashed(wanted.files, needs, asked=wanted.progress), *wanted.described]
    request = wanted.request(artefacts)
    record = await _sent(service, request, wanted, environment)
    if record.subjects != request.subjects:
        raise CommandError("the service signed other digests than those that were sent", REFUSED)
    paths = {artefact.name: artefact.path for artefact in artefacts if artefact.path is not None}
    try:
        return Signed(record, await deliver(service, Plan(record, wanted.out, paths).files(), force=wanted.force))
    except (CommandError, SigningClientError) as error:
        again = f"it is signed; `pqcsign show {record.id} --out DIR` fetches the files"
        raise CommandError(str(error), status_of(error), again) from error


async def _sent(
    service: SigningClient, request: SignatureRequest, wanted: SignOptions, environment: Mapping[str, str]
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
        except SigningUnavailableError as error:
            again = f"{advice_of(error)}, with --idempotency-key {idempotency_key}"
            raise CommandError(str(error), UNAVAILABLE, again) from error


class _Needs(NamedTuple):
    """What the keys need of the files."""

    hashes: tuple[str, ...]
    mu_keys: dict[str, PublicKey]


async def _needs(service: SigningClient, wanted: SignOptions) -> _Needs:
    names = {*wanted.prepare_for, *(() if wanted.key is None else (wanted.key,))}
    keys = {name: _public_key(await service.public_key(name)) for name in sorted(names)}
    algorithms = {name: algorithm_of(key) for name, key in keys.items()}
    own = {row.signature_hash.name for row in algorithms.values() if row.signature_hash is not None}
    raw = wanted.formats == () or "raw" in wanted.formats
    mu_keys = {name: key for name, key in keys.items() if raw and algorithms[name].family == "mldsa"}
    if mu_keys and wanted.digests:
        raise CommandError(
            "raw signatures by ML-DSA are made of a FILE, not of a digest", USAGE, "or give other --format"
        )
    if mu_keys and len(wanted.files) > 1:
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
