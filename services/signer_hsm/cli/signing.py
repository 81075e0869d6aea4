"""`keyctl sign` and `keyctl pubkey`."""

from __future__ import annotations

import base64
import hashlib
from io import BufferedReader
from pathlib import Path
from typing import Final, NamedTuple

import click
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from pkicore.algorithms import Algorithm, Payload, PublicKey, algorithm_of, known_public_key
from pkicore.encoding import write_atomically
from pkicore.keys.remote import reduce_message
from services.chassis.cli.output import json_option, tell
from services.signer_hsm.backends.payloads import verify_payload
from services.signer_hsm.cli.connection import signer_command
from services.signer_hsm.cli.keys import Call
from services.signer_hsm.client import SignerClient
from services.signer_hsm.errors import BadPayloadError
from services.signer_hsm.schemes import MAX_MESSAGE, Scheme, check_payload, scheme_of
from services.signer_hsm.wire import PublicKeyAnswer, SignAnswer, SignRequest, split_key_id

_MAX_MU_MESSAGE: Final = 1 << 30  # octets held in memory


class Sources(NamedTuple):
    """What is to be signed: exactly one of these."""

    digest_of: BufferedReader | None
    digest: str | None
    mu_of: BufferedReader | None
    mu: str | None
    message: BufferedReader | None


@click.command()
@click.argument("key_id", metavar="KEY")
@click.option("--digest-of", type=click.File("rb"), help="File whose digest is signed (ECDSA, RSA); - is the input.")
@click.option("--digest", metavar="HEX", help="The digest itself.")
@click.option("--mu-of", type=click.File("rb"), help="File whose mu is signed (ML-DSA).")
@click.option("--mu", metavar="HEX", help="The mu itself, 64 octets (FIPS 204 §6.2).")
@click.option("--message", type=click.File("rb"), help="File that is sent and signed whole (Ed25519, ML-DSA).")
@click.option("--scheme", help="JOSE name, such as PS256. [default: the usual one of the key]")
@click.option("--version", type=click.IntRange(1), help="Which version. [default: the current one]")
@click.option("--idempotency-key", help="With the same one, a repetition gets the same signature.")
@click.option("--out", type=click.Path(path_type=Path), help="File for the raw signature. [default: base64 is printed]")
@signer_command
@json_option
def sign(
    key_id: str,
    scheme: str | None,
    version: int | None,
    idempotency_key: str | None,
    out: Path | None,
    call: Call,
    as_json: bool,  # noqa: FBT001 - a command-line flag
    **given: BufferedReader | str | None,
) -> None:
    """Have KEY sign, and verify the signature with its public key. Give one of the sources.

    An ECDSA signature is DER, the others are raw. `openssl dgst -sha256 -verify PUBLIC -signature FILE DATA` verifies
    what `--digest-of DATA --out FILE` made with an ECDSA P-256 key.
    """
    split_key_id(key_id)
    if sum(value is not None for value in given.values()) != 1:
        raise click.UsageError("give one of --digest-of, --digest, --mu-of, --mu and --message")
    sources = Sources(**given)  # type: ignore[arg-type]  # click opened the files

    async def act(signer: SignerClient) -> tuple[SignAnswer, Payload]:
        public_key = await signer.public_key_of(key_id, version)
        key = known_public_key(load_der_public_key(public_key.public_key))
        how = scheme_of(algorithm_of(key), scheme)
        kind, payload = _payload(sources, key, how)
        check_payload(how, kind, payload)
        request = SignRequest(
            kind, (payload,), scheme=how.name, version=public_key.version, idempotency_key=idempotency_key
        )
        answer = await signer.sign_request(key_id, request)
        verify_payload(key, how, kind, payload, _only(answer))
        return answer, kind

    answer, kind = call(act)
    signature = _only(answer)
    encoded = base64.b64encode(signature).decode()
    if out is not None:
        write_atomically(out, signature, 0o644)
    value = {"key": answer.key, "version": answer.version, "scheme": answer.scheme, "kind": kind}
    done = f"{out}: {answer.scheme} by {answer.key}/{answer.version}; it verifies."
    tell(as_json, value | {"signature": encoded}, encoded if out is None else done)


def _only(answer: SignAnswer) -> bytes:
    (signature,) = answer.signatures or (b"",)
    return signature if isinstance(signature, bytes) else b""  # which does not verify


def _payload(sources: Sources, key: PublicKey, scheme: Scheme) -> tuple[Payload, bytes]:
    if sources.digest is not None:
        return "digest", _hex(sources.digest, "digest")
    if sources.mu is not None:
        return "mu", _hex(sources.mu, "mu")
    if sources.message is not None:
        return "message", sources.message.read(MAX_MESSAGE + 1)
    algorithm = algorithm_of(key)
    if sources.digest_of is not None:
        if scheme.hash is None:
            raise BadPayloadError(f"{scheme.name} does not sign a digest: give {_instead(algorithm)}")
        return "digest", hashlib.file_digest(sources.digest_of, scheme.hash).digest()
    if sources.mu_of is None or algorithm.family != "mldsa":
        raise BadPayloadError(f"{scheme.name} does not sign a mu: give {_instead(algorithm)}")
    message = sources.mu_of.read(_MAX_MU_MESSAGE + 1)
    if len(message) > _MAX_MU_MESSAGE:
        raise BadPayloadError(f"--mu-of takes {_MAX_MU_MESSAGE} octets at most: compute mu, and give it by --mu")
    return "mu", reduce_message(key, "mu", message)


def _instead(algorithm: Algorithm) -> str:
    return {"digest": "--digest-of", "mu": "--mu-of", "message": "--message"}[algorithm.payload]


def _hex(text: str, name: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise BadPayloadError(f"the {name} must be hexadecimal, as `sha256sum` prints it") from error


@click.command()
@click.argument("key_id", metavar="KEY")
@click.option("--version", type=click.IntRange(1), help="Which version. [default: the current one]")
@signer_command
@json_option
def pubkey(key_id: str, version: int | None, call: Call, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Print the public key of KEY, as PEM (SubjectPublicKeyInfo)."""
    split_key_id(key_id)
    answer: PublicKeyAnswer = call(lambda signer: signer.public_key_of(key_id, version))
    key = known_public_key(load_der_public_key(answer.public_key))
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    value = {"key": answer.key, "version": answer.version, "algorithm": answer.algorithm, "public_key": pem}
    tell(as_json, value | {"kinds": list(answer.kinds), "schemes": list(answer.schemes)}, pem.rstrip())
