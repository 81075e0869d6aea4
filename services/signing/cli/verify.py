"""`pqcsign verify`: offline; nothing but the files that are named is read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import click
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from pkicore.algorithms import PublicKey, algorithm_of, known_public_key
from pkicore.dsse import Envelope, key_hint, key_id
from pkicore.errors import MalformedError, PkiError
from pkicore.jose.strict import strict_object
from services.chassis.cli.output import json_option, tell
from services.signing.cli.failures import FILES, REFUSED, USAGE, CommandError, failing, plain
from services.signing.cli.hashing import Artefact, hash_file
from services.signing.cli.progress import Progress
from services.signing.formats import raw
from services.signing.formats.unverified_bundle import UnverifiedBundle
from services.signing.statements import VSA_TYPE
from services.signing.trusted_root import MAX_TRUSTED_ROOT, TrustedRoot
from services.signing.verification import (
    Identity,
    NoLogEntryError,
    VerificationError,
    Verified,
    verify_hybrid,
    verify_with_certificate,
    verify_with_key,
)

_MAX_BUNDLE: Final = 128 << 20  # octets; an SBOM of 64 MiB in base64, with what is around it
_MAX_SMALL: Final = 64 << 10
_MAX_DOCUMENTS: Final = 1000
_BUNDLE_SUFFIX: Final = ".sigstore.json"


@dataclass(frozen=True, slots=True)
class Expected:
    """Whose signature is wanted: every one of the keys, or the one identity.

    Attributes:
        keys: with the files that they are from.
        identity: None where there are keys.
        root: what is trusted; needed for an identity.
    """

    keys: Mapping[Path, PublicKey]
    identity: Identity | None
    root: TrustedRoot | None


@dataclass
class Proof:
    """What speaks for one payload.

    Attributes:
        payload: a Statement about the artefact; None for a signature over the artefact itself.
        results: of each verification.
        failures: why others did not verify.
    """

    payload: bytes | None
    results: list[Verified] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    @cached_property
    def statement(self) -> dict[str, Any]:
        """The Statement, empty where it is a signature over the artefact."""
        return {} if self.payload is None else strict_object(self.payload, "the Statement")

    def attempt(self, verification: Callable[[], Verified | list[Verified]]) -> Exception | None:
        """Keep what it proves, or why it does not."""
        try:
            found = verification()
        except (PkiError, VerificationError) as error:
            self.failures.append(error)
            return error
        self.results += found if isinstance(found, list) else [found]
        return None

    def require(self, expected: Expected) -> None:
        """Raises VerificationError unless everybody who is expected has signed."""
        what = "the file" if self.payload is None else "an attestation in the bundle"
        why = f": {self.failures[0]}" if self.failures else ""
        if not self.results:
            raise VerificationError(f"nobody who is expected has signed {what}{why}")
        signed = {key_id(result.public_key) for result in self.results}
        for path, key in expected.keys.items():
            if key_id(key) not in signed:
                raise VerificationError(f"the key in {path} has not signed {what}{why}")
        if expected.root is not None and all(result.log_index is None for result in self.results):
            raise VerificationError(
                f"what was given proves no entry in a trusted log about {what}{why}; envelopes and raw signatures "
                "carry none: add the bundles (--bundle FILE.sigstore.json or FILE.sigstore.jsonl)"
            )


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--bundle", "bundles", type=click.Path(path_type=Path), multiple=True, help="[default: FILE.sigstore.json]"
)
@click.option("--signature", "signatures", type=click.Path(path_type=Path), multiple=True, help="A raw one, FILE.sig.")
@click.option("--key", "keys", type=click.Path(path_type=Path), multiple=True, help="PEM public key; all are demanded.")
@click.option("--trusted-root", type=click.Path(path_type=Path), help="As `pqcsign trusted-root` writes it.")
@click.option("--certificate-identity", help="URI or e-mail address in the certificate, to the letter.")
@click.option("--certificate-oidc-issuer", help="Who vouched for it.")
@click.option("--predicate-type", help="Demand an attestation of this type, such as https://cyclonedx.org/bom.")
@click.option("--policy-sha256", help="Demand a verification summary that passed under this policy.")
@json_option
def verify(file: Path, bundles: tuple[Path, ...], signatures: tuple[Path, ...], as_json: bool, **options: Any) -> None:  # noqa: ANN401, FBT001 - click's way
    """Verify that FILE was signed by whom you expect, without asking anybody.

    By keys that you have: --key for each; with more than one, each must have signed, as hybrid signatures are meant.
    With --trusted-root, an entry in the transparency log is demanded too, by one of them; envelopes carry none, so
    name FILE.sigstore.jsonl beside FILE.intoto.jsonl then.

    By an identity: --certificate-identity, --certificate-oidc-issuer and --trusted-root, all three.

    A bundle file may be a Sigstore bundle, several of them with one per line (.intoto.jsonl), or a DSSE envelope.
    Everything in it must be signed by everyone that is expected.
    """
    with failing():
        try:
            proofs = _verified(file, bundles, signatures, _expected(options))
            _demand(proofs, options["predicate_type"], options["policy_sha256"])
        except VerificationError as error:
            raise CommandError(f"{file}: {error}", REFUSED) from error
        lines = [line for one in proofs for line in _lines(one)]
        tell(as_json, {"file": str(file), "verified": [_members(one) for one in proofs]}, f"{file}: verified", *lines)


def _expected(options: Mapping[str, Any]) -> Expected:
    name, issuer, root_file = (
        options[option] for option in ("certificate_identity", "certificate_oidc_issuer", "trusted_root")
    )
    root = None if root_file is None else TrustedRoot.parse(_read(root_file, MAX_TRUSTED_ROOT))
    keys = {path: _public_key(path) for path in options["keys"]}
    if len({key_id(key) for key in keys.values()}) < len(options["keys"]):
        raise CommandError("the same key is given twice: a hybrid has one of each kind", USAGE)
    if (name is None) != (issuer is None) or bool(keys) == (name is not None):
        raise CommandError("say who must have signed: --key, or both --certificate-…", USAGE)
    if name is None or issuer is None:
        return Expected(keys, None, root)
    if root is None:
        raise CommandError("a certificate is verified with --trusted-root", USAGE, "`pqcsign trusted-root` fetches it")
    return Expected({}, Identity(name, issuer), root)


def _verified(file: Path, bundles: Sequence[Path], signatures: Sequence[Path], expected: Expected) -> list[Proof]:
    if signatures and expected.identity is not None:
        raise CommandError("a raw signature is verified with --key", USAGE)
    artefact = _hashed(file, expected)
    if not bundles and not signatures:
        bundles = [file.with_name(file.name + _BUNDLE_SUFFIX)]
    proofs: dict[bytes | None, Proof] = {}
    for path in bundles:
        for document in _documents(path):
            payload = _payload_of(document)
            _judge(document, artefact, expected, proofs.setdefault(payload, Proof(payload)))
    for path in signatures:
        _judge_raw(_read(path, _MAX_SMALL), artefact, expected, proofs.setdefault(None, Proof(None)))
    for proof in proofs.values():
        proof.require(expected)
    return list(proofs.values())


def _payload_of(document: bytes) -> bytes | None:
    """What a bundle or envelope carries; not to be believed before everybody's signature was."""
    if _is_envelope(document):
        return Envelope.parse(document, max_bytes=_MAX_BUNDLE).payload
    content = UnverifiedBundle.parse(document, max_bytes=_MAX_BUNDLE).content
    return content.payload if isinstance(content, Envelope) else None


def _is_envelope(document: bytes) -> bool:
    return "payloadType" in strict_object(document, "the bundle")


def _judge(document: bytes, artefact: Artefact, expected: Expected, proof: Proof) -> None:
    digests, root, identity = artefact.digests, expected.root, expected.identity
    if identity is not None and root is not None:
        proof.attempt(lambda: verify_with_certificate(document, identity, root, digests, max_bytes=_MAX_BUNDLE))
    elif _is_envelope(document):
        keys = list(expected.keys.values())
        for some in [keys, *([key] for key in keys)]:  # all at once; where that fails, one by one, to say which
            if proof.attempt(partial(_by_envelope, document, some, digests)) is None and len(some) == len(keys):
                break
    else:
        for key in _likely(document, expected.keys.values()):
            verification = partial(verify_with_key, document, key, digests, max_bytes=_MAX_BUNDLE)
            error = proof.attempt(partial(verification, root=root))
            if isinstance(error, NoLogEntryError):  # of what several have signed, one entry in the log is enough
                proof.attempt(verification)


def _likely(document: bytes, keys: Collection[PublicKey]) -> Collection[PublicKey]:
    """The key that the bundle's hint names, if it is one of these; else all, since a hint decides nothing."""
    hint = UnverifiedBundle.parse(document, max_bytes=_MAX_BUNDLE).hint
    return [key for key in keys if key_hint(key) == hint] or keys


def _by_envelope(document: bytes, keys: Sequence[PublicKey], digests: Mapping[str, bytes]) -> list[Verified]:
    envelope = verify_hybrid(document, keys, digests, max_bytes=_MAX_BUNDLE)
    return [Verified(key, None, None, envelope.payload_type, envelope.payload) for key in keys]


def _judge_raw(signature: bytes, artefact: Artefact, expected: Expected, proof: Proof) -> None:
    for key in expected.keys.values():
        proof.attempt(partial(_by_signature, signature, key, artefact))


def _by_signature(signature: bytes, key: PublicKey, artefact: Artefact) -> Verified:
    own = artefact.mu.get(key_id(key))
    raw.verify(key, signature, artefact.digests if own is None else {"mu": own})
    return Verified(key, None, None, None, None)


def _demand(proofs: Sequence[Proof], predicate_type: str | None, policy_sha256: str | None) -> None:
    """Raises VerificationError where an attestation that is demanded is not among those that were verified."""
    statements = [proof.statement for proof in proofs]
    if predicate_type is not None and all(one.get("predicateType") != predicate_type for one in statements):
        raise VerificationError(f"there is no attestation of the type {predicate_type}")
    if policy_sha256 is not None and not any(_passed(one, policy_sha256.lower()) for one in statements):
        raise VerificationError("there is no verification summary that passed under this policy")


def _passed(statement: Mapping[str, Any], policy_sha256: str) -> bool:
    predicate = statement.get("predicate")
    if statement.get("predicateType") != VSA_TYPE or not isinstance(predicate, dict):
        return False
    policy = predicate.get("policy")
    digest = policy.get("digest") if isinstance(policy, dict) else None
    return predicate.get("verificationResult") == "PASSED" and digest == {"sha256": policy_sha256}


def _hashed(file: Path, expected: Expected) -> Artefact:
    """The digests that these keys need; short-lived certificates have ECDSA keys on P-256."""
    algorithms = {key_id(key): algorithm_of(key) for key in expected.keys.values()}
    names = {row.signature_hash.name for row in algorithms.values() if row.signature_hash is not None} | {"sha256"}
    mu_keys = {key_id(key): key for key in expected.keys.values() if algorithm_of(key).family == "mldsa"}
    progress = Progress(f"reading {file.name}", file.stat().st_size, asked=False)
    artefact = hash_file(file, names, mu_keys, progress.advance)
    progress.end()
    return artefact


def _documents(path: Path) -> list[bytes]:
    """One, or one per line."""
    content = _read(path, _MAX_BUNDLE)
    documents = [line for line in content.splitlines() if line.strip()] if path.suffix == ".jsonl" else [content]
    if not 0 < len(documents) <= _MAX_DOCUMENTS:
        raise MalformedError(f"{path} must have 1 to {_MAX_DOCUMENTS} bundles")
    return documents


def _public_key(path: Path) -> PublicKey:
    try:
        key = known_public_key(load_pem_public_key(_read(path, _MAX_SMALL)))
        algorithm_of(key)
    except ValueError as error:
        raise CommandError(f"{path} is no public key in PEM", FILES) from error
    return key


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise CommandError(f"{path} has more than {most} octets", FILES)
    return content


def _members(proof: Proof) -> dict[str, Any]:
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


def _lines(proof: Proof) -> list[str]:
    what = plain(str(proof.statement.get("predicateType") or "the file itself"))
    return [
        f"  {what}: {one['algorithm']} key {one['key_sha256'][:16]}…"
        + ("" if one["signed_before"] is None else f", before {one['signed_before']}")
        + ("" if one["log_index"] is None else f", log entry {one['log_index']}")
        for one in _members(proof)["signatures"]
    ]
