"""`VERIFY.md`: the commands that check an archive, with nothing but what an auditor's machine has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from services.signing.evidence.manifest import CHECKSUMS, MANIFEST
from services.signing.wire import MadeSignature, SignatureRecord

SIGNATURE_DIRECTORY: Final = "manifest-signature"
_CLASSICAL: Final = ("ecdsa", "rsa")
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]{0,199}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SignedPlace:
    """A record, and the directory that its files are in."""

    directory: str
    record: SignatureRecord


def key_path(key: str) -> str:
    """Where the public key of TENANT.NAME/VERSION is."""
    return f"keys/{key.replace('/', '.')}.pem"


def verify_text(manifest_signature: SignedPlace, places: Iterable[SignedPlace], policies: Iterable[str]) -> bytes:
    """The text.

    Args:
        manifest_signature: the signature over the manifest.
        places: the release's signatures.
        policies: hashes of the policy sets.
    """
    sections = [
        _HEAD,
        _section("1. The files are those of the manifest", [f"sha256sum --check --quiet {CHECKSUMS}"]),
        _section("2. The manifest was signed", _openssl(manifest_signature, MANIFEST)),
        _section(
            "3. The artefacts were signed: put each here, by its name, or its SHA-256 if that is unusual",
            _artefacts(places),
        ),
        _section("4. Time-stamps, where there are some", _timestamps(places)),
        _section(
            "5. The policies are those that the records name: the sum must be the directory's name",
            [f"(cd policies/{one} && LC_ALL=C sha256sum *.cedar | sha256sum)" for one in policies],
        ),
        _AUDIT,
        _MORE,
    ]
    return "\n".join(sections).encode()


def _section(title: str, commands: Iterable[str]) -> str:
    lines = list(commands) or ["# nothing of this kind is here"]
    return "\n".join([f"## {title}", "", "```sh", *lines, "```", ""])


def _openssl(place: SignedPlace, file: str) -> Iterator[str]:
    for one in place.record.signatures:
        if one.format == "raw" and one.algorithm.startswith(_CLASSICAL) and one.subject == file:
            yield _dgst(place, one, file)


def _artefacts(places: Iterable[SignedPlace]) -> Iterator[str]:
    for place in places:
        for one in place.record.signatures:
            if one.format == "raw" and one.algorithm.startswith(_CLASSICAL) and one.subject is not None:
                yield _dgst(place, one, _file(place.record, one.subject))


def _file(record: SignatureRecord, subject: str) -> str:
    """The artefact's name, or its digest where a shell or this text would read the name as something else."""
    if _PLAIN.fullmatch(subject):
        return subject
    return next(one.sha256 for one in record.subjects if one.name == subject)


def _dgst(place: SignedPlace, one: MadeSignature, file: str) -> str:
    digest = "-sha384" if one.algorithm == "ecdsa-p384" else "-sha512" if one.algorithm == "ecdsa-p521" else "-sha256"
    signature = f"{place.directory}/{one.url.rpartition('/')[2]}"
    key = key_path(one.key)
    if "/" not in one.key:  # made for this signature: its public half is in the certificate
        key = f"<(openssl x509 -in {place.directory}/chain.pem -pubkey -noout)"
    return f"openssl dgst {digest} -verify {key} -signature {signature} {file}"


def _timestamps(places: Iterable[SignedPlace]) -> Iterator[str]:
    for place in places:
        if "timestamp" in place.record.urls:
            yield f"openssl ts -reply -text -in {place.directory}/timestamp.tsr"


_HEAD: Final = """# How to verify this

Run these in the directory that this file is in, with bash. Whose keys these are is nothing that an archive can prove:
compare `keys/` with keys from another source first.
"""
_AUDIT: Final = """## 6. The lines of the audit log

`audit.jsonl` has one line per record; each carries the hash that it is chained to. Whoever has the whole log checks
that nothing is missing, and that these are its lines:

```sh
ztca audit export --service signing > whole.jsonl
ztca audit verify whole.jsonl
grep --count --fixed-strings --line-regexp --file audit.jsonl whole.jsonl
```

The count is that of the lines in `audit.jsonl`.
"""
_MORE: Final = """## 7. Everything else

`pqcsign verify FILE --bundle …` and cosign check the Sigstore bundles with `trusted_root.json`, time-stamps, log
entries and certificates included; envelopes with two signatures are verified with both keys (`--key … --key …`).
"""
