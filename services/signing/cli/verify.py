"""`pqcsign verify`: offline; nothing but the files that are named is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pkicore.algorithms import ALGORITHMS, PublicKey, algorithm_of, known_public_key
from pkicore.dsse import key_id
from pkicore.errors import MalformedError
from services.chassis.cli.output import json_option, tell
from services.signing.cli.delivery import SUFFIXES
from services.signing.cli.failures import FILES, REFUSED, USAGE, CommandError, failing, plain
from services.signing.cli.hashing import Artefact, hash_file, read_digests
from services.signing.cli.progress import Progress
from services.signing.cli.proofs import MAX_BUNDLE, Expected, Proof, Proofs, demand
from services.signing.formats.unverified_bundle import MAX_LOG_ENTRY, UnverifiedLogEntry
from services.signing.trusted_root import MAX_TRUSTED_ROOT, TrustedRoot
from services.signing.verification import Identity, VerificationError
from services.signing.verification.detached import Beside, is_cms

_MAX_SMALL: Final = 256 << 10
_MAX_DOCUMENTS: Final = 1000
_LABELS: Final = tuple(f".{row.jws.lower()}" for row in ALGORITHMS.values())
_PATH: Final = click.Path(path_type=Path)
_EXIT: Final = """\b
Exit status:
  0  verified
  1  not verified: by nobody, by somebody else, of something else
  2  wrong usage: what is expected is not said, or not whole
  4  a file cannot be read
"""


@click.command(epilog=_EXIT)
@click.argument("file", required=False, type=_PATH)
@click.option("--digest", metavar="sha256:HEX", help="Of what is no file here, such as an image; instead of FILE.")
@click.option("--bundle", "bundles", type=_PATH, multiple=True, help="[default: FILE.sigstore.json]")
@click.option("--signature", "signatures", type=_PATH, multiple=True, help="FILE.sig, FILE.jws or FILE.p7s.")
@click.option("--statement", type=_PATH, help="What a JWS is over. [default: the .intoto.json beside it]")
@click.option("--timestamp", "timestamps", type=_PATH, multiple=True, help="FILE.tsr, of one of the signatures.")
@click.option("--log-entry", "entries", type=_PATH, multiple=True, help="FILE.log-entry.json, likewise.")
@click.option("--certificate-chain", type=_PATH, help="FILE.chain.pem, of raw and JWS signatures by an identity.")
@click.option("--key", "keys", type=_PATH, multiple=True, help="PEM public key; all are demanded.")
@click.option("--trusted-root", type=_PATH, help="As `pqcsign trusted-root` writes it.")
@click.option("--certificate-identity", help="URI or e-mail address in the certificate, to the letter.")
@click.option("--certificate-oidc-issuer", help="Who vouched for it.")
@click.option("--predicate-type", help="Demand an attestation of this type, such as https://cyclonedx.org/bom.")
@click.option("--policy-sha256", help="Demand a verification summary that passed under this policy.")
@json_option
def verify(file: Path | None, digest: str | None, as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001 - click's way
    """Verify that FILE was signed by whom you expect, without asking anybody.

    By keys that you have: --key for each; with more than one, each must have signed, as hybrid signatures are meant.
    What several keys have signed together, in one envelope, CMS or composite signature, is verified with all of them.
    With --trusted-root, an entry in the transparency log is demanded too, by one of them; envelopes and detached
    signatures carry none, so name FILE.sigstore.json (of the file) or FILE.sigstore.jsonl (of attestations) beside
    them, or --log-entry.

    By an identity: --certificate-identity, --certificate-oidc-issuer and --trusted-root, all three. Detached
    signatures then need --timestamp too, and raw ones and JWS --certificate-chain.

    A --bundle may be a Sigstore bundle, several of them with one per line (.sigstore.jsonl), or DSSE envelopes
    (.intoto.jsonl, .composite.dsse.json). Everything that is given must be signed by everyone that is expected.
    """
    with failing():
        name = _checked_name(file, digest, options)
        try:
            proofs = _verified(file, digest, _expected(options), options)
            demand(proofs, options["predicate_type"], options["policy_sha256"])
        except VerificationError as error:
            raise CommandError(f"{name}: {error}", REFUSED) from error
        lines = [line for one in proofs for line in lines_of(one)]
        subject = {"file": name} if digest is None else {"digest": digest}
        tell(as_json, {**subject, "verified": [members_of(one) for one in proofs]}, f"{name}: verified", *lines)


def _checked_name(file: Path | None, digest: str | None, options: Mapping[str, Any]) -> str:
    if (file is None) == (digest is None):
        raise CommandError("give a FILE, or --digest sha256:HEX", USAGE)
    if digest is not None and not options["bundles"] and not options["signatures"]:
        raise CommandError("with --digest, say what is to be verified: --bundle or --signature", USAGE)
    beside = [name for name in ("statement", "timestamps", "entries", "certificate_chain") if options[name]]
    if beside and not options["signatures"]:
        raise CommandError("what stands beside a detached signature is given with --signature", USAGE)
    if (options["timestamps"] or options["entries"]) and options["trusted_root"] is None:
        raise CommandError("time-stamps and log entries are verified with --trusted-root", USAGE)
    if options["certificate_chain"] is not None and options["certificate_identity"] is None:
        raise CommandError("--certificate-chain goes with --certificate-identity", USAGE)
    return str(file or digest)


def expected_keys(paths: Sequence[Path]) -> Mapping[Path, PublicKey]:
    """The keys in these files, every one another.

    Raises:
        CommandError: one is none, or there twice.
        OSError: one cannot be read.
    """
    keys = {path: _public_key(path) for path in paths}
    if len({key_id(key) for key in keys.values()}) < len(paths):
        raise CommandError("the same key is given twice: a hybrid has one of each kind", USAGE)
    return keys


def read_trusted_root(path: Path) -> TrustedRoot:
    """The trusted root in a file.

    Raises:
        PkiError: it is none.
        CommandError, OSError: it cannot be read.
    """
    return TrustedRoot.parse(read_whole(path, MAX_TRUSTED_ROOT))


def _expected(options: Mapping[str, Any]) -> Expected:
    name, issuer, root_file = (
        options[option] for option in ("certificate_identity", "certificate_oidc_issuer", "trusted_root")
    )
    root = None if root_file is None else read_trusted_root(root_file)
    keys = expected_keys(options["keys"])
    if (name is None) != (issuer is None) or bool(keys) == (name is not None):
        raise CommandError("say who must have signed: --key, or both --certificate-…", USAGE)
    if name is None or issuer is None:
        return Expected(keys, None, root)
    if root is None:
        raise CommandError("a certificate is verified with --trusted-root", USAGE, "`pqcsign trusted-root` fetches it")
    return Expected({}, Identity(name, issuer), root)


def _verified(file: Path | None, digest: str | None, expected: Expected, options: Mapping[str, Any]) -> list[Proof]:
    signatures = {path: read_whole(path, _MAX_SMALL) for path in options["signatures"]}
    if file is None:
        artefact = Artefact(None, str(digest), read_digests(str(digest)))
    else:
        artefact = hashed(file, expected, all_hashes=any(map(is_cms, signatures.values())))
    bundles: Sequence[Path] = options["bundles"]
    if file is not None and not bundles and not signatures:
        bundles = [file.with_name(file.name + SUFFIXES["bundle"])]
    proofs = Proofs(artefact, expected, _beside(options))
    for path in bundles:
        for document in _documents(path):
            proofs.add_bundle(document)
    for path, content in signatures.items():
        proofs.add_signature(content, _statement_reader(path, options["statement"]))
    return proofs.require()


def _beside(options: Mapping[str, Any]) -> Beside:
    timestamps = {str(path): read_whole(path, _MAX_SMALL) for path in options["timestamps"]}
    entries = {str(path): UnverifiedLogEntry.parse(read_whole(path, MAX_LOG_ENTRY)) for path in options["entries"]}
    chain = options["certificate_chain"]
    return Beside(timestamps, entries, None if chain is None else _leaf(chain))


def _leaf(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificates(read_whole(path, _MAX_SMALL))[0]
    except ValueError as error:
        raise CommandError(f"{path} has no certificates in PEM", FILES) from error


def _statement_reader(signature: Path, statement: Path | None) -> Callable[[], bytes]:
    """Reads the Statement that a JWS is over: app.intoto.json, for app.jws and app.ml-dsa-65.jws."""

    def read() -> bytes:
        if statement is not None:
            return read_whole(statement, MAX_BUNDLE)
        name = signature.name.removesuffix(SUFFIXES["jws"])
        label = next((label for label in _LABELS if name.endswith(label)), "")
        return read_whole(signature.with_name(f"{name.removesuffix(label)}.intoto.json"), MAX_BUNDLE)

    return read


def hashed(file: Path, expected: Expected, *, all_hashes: bool = False) -> Artefact:
    """The digests that these keys need; short-lived certificates have ECDSA keys on P-256, CMS has its own choice."""
    algorithms = {key_id(key): algorithm_of(key) for key in expected.keys.values()}
    names = {row.signature_hash.name for row in algorithms.values() if row.signature_hash is not None} | {"sha256"}
    if all_hashes:
        names |= {"sha384", "sha512"}
    mu_keys = {key_id(key): key for key in expected.keys.values() if algorithm_of(key).family == "mldsa"}
    progress = Progress(f"reading {file.name}", file.stat().st_size, asked=False)
    artefact = hash_file(file, names, mu_keys, progress.advance)
    progress.end()
    return artefact


def _documents(path: Path) -> list[bytes]:
    """One, or one per line."""
    content = read_whole(path, MAX_BUNDLE)
    documents = [line for line in content.splitlines() if line.strip()] if path.suffix == ".jsonl" else [content]
    if not 0 < len(documents) <= _MAX_DOCUMENTS:
        raise MalformedError(f"{path} must have 1 to {_MAX_DOCUMENTS} bundles")
    return documents


def _public_key(path: Path) -> PublicKey:
    try:
        key = known_public_key(load_pem_public_key(read_whole(path, _MAX_SMALL)))
        algorithm_of(key)
    except ValueError as error:
        raise CommandError(f"{path} is no public key in PEM", FILES) from error
    return key


def read_whole(path: Path, most: int) -> bytes:
    """A file of so many octets at most.

    Raises:
        CommandError: it is longer.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise CommandError(f"{path} has more than {most} octets", FILES)
    return content


def members_of(proof: Proof) -> dict[str, Any]:
    """What a proof came to, for programs."""
    return {
        "predicate_type": proof.statement.get("predicateType"),
        "signatures": [
            {
                "algorithm": algorithm_of(result.public_key).name,
                "key_sha256": key_id(result.public_key),
                "signed_before": None if result.signed_before is None else f"{result.signed_before:%Y-%m-%dT%H:%M:%SZ}",
                "log_index": result.log_index,
            }
            for result in proof.results
        ],
    }


def lines_of(proof: Proof) -> list[str]:
    """What a proof came to, for people."""
    what = plain(str(proof.statement.get("predicateType") or "the artefact itself"))
    return [
        f"  {what}: {one['algorithm']} key {one['key_sha256'][:16]}…"
        + ("" if one["signed_before"] is None else f", before {one['signed_before']}")
        + ("" if one["log_index"] is None else f", log entry {one['log_index']}")
        for one in members_of(proof)["signatures"]
    ]
