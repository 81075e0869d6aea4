"""`VERIFY.md`: the commands that check an archive, with nothing but what an auditor's machine has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pkicore.dsse import IN_TOTO_PAYLOAD
from services.signing.evidence.manifest import CHECKSUMS, EVIDENCE_TYPE, MANIFEST
from services.signing.evidence.trust import TSA_CHAIN, TSA_ROOTS
from services.signing.formats.dsse import MEDIA_TYPE
from services.signing.wire import MadeSignature, SignatureRecord

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
        _section("2. The manifest was signed, as evidence", _manifest(manifest_signature)),
        _section(
            "3. The artefacts were signed: put each here, by its name, or its SHA-256 if that is unusual",
            _artefacts(places),
        ),
        _section(
            "4. The signatures are as old as they say: their time-stamps, checked as of their time",
            _timestamps([manifest_signature, *places]),
        ),
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


def _manifest(place: SignedPlace) -> Iterator[str]:
    """A DSSE envelope's signature is over its PAE, which is put together of the payload."""
    for one in place.record.bundles:
        if one.media_type != MEDIA_TYPE or not one.algorithm.startswith(_CLASSICAL):
            continue
        path, pae = _path(place, one.url), f"DSSEv1 {len(IN_TOTO_PAYLOAD)} {IN_TOTO_PAYLOAD}"
        signature = _envelope_signature(path, 1)
        yield f"""statement() {{ grep -o '"payload":"[^"]*"' {path} | cut -d'"' -f4 | openssl base64 -d -A; }}"""
        yield f"""statement | grep -q '"predicateType":"{EVIDENCE_TYPE}"'"""
        yield f"""statement | grep -q "$(sha256sum {MANIFEST} | cut -d' ' -f1)\""""
        yield (
            f"""{{ printf '{pae} %d ' "$(statement | wc -c)"; statement; }} | """
            f"openssl dgst {_hash(one.algorithm)} -verify {key_path(one.keys[0])} -signature {signature}"
        )


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
    signature = _path(place, one.url)
    key = key_path(one.key)
    if "/" not in one.key:  # made for this signature: its public half is in the certificate
        key = f"<(openssl x509 -in {place.directory}/chain.pem -pubkey -noout)"
    return f"openssl dgst {_hash(one.algorithm)} -verify {key} -signature {signature} {file}"


def _hash(algorithm: str) -> str:
    return {"ecdsa-p384": "-sha384", "ecdsa-p521": "-sha512"}.get(algorithm, "-sha256")


def _timestamps(places: Iterable[SignedPlace]) -> Iterator[str]:
    """Those that stand beside a signature; those within a bundle or CMS are verified with it."""
    for place in places:
        record = place.record
        for one in record.signatures:
            if one.format == "raw" and one.timestamp is not None:
                yield _ts(place, one.timestamp, _path(place, one.url))
        for bundle in record.bundles:
            for number, url in enumerate(bundle.timestamps, 1):
                yield _ts(place, url, _envelope_signature(_path(place, bundle.url), number))


def _ts(place: SignedPlace, timestamp: str, data: str) -> str:
    trusted = f"-CAfile {TSA_ROOTS} -untrusted {TSA_CHAIN} -attime {place.record.created}"
    return f"openssl ts -verify -in {_path(place, timestamp)} -data {data} {trusted}"


def _envelope_signature(path: str, number: int) -> str:
    """The octets of an envelope's signature, which openssl reads from a pipe."""
    sig = f"""grep -o '"sig":"[^"]*"' {path} | sed -n {number}p | cut -d'"' -f4"""
    return f"<({sig} | openssl base64 -d -A)"


def _path(place: SignedPlace, url: str) -> str:
    return f"{place.directory}/{url.rpartition('/')[2]}"


_HEAD: Final = """# How to verify this

Run these in the directory that this file is in, with bash. Whose keys these are is nothing that an archive can prove:
compare `keys/` and `tsa/roots.pem` with what you have from another source first.
"""
_AUDIT: Final = """## 6. The lines of the audit log

`audit.jsonl` has one line per record, with the hash that it is chained to: a line fixes everything before it, and none
can be changed. Whoever has the whole log (`PKI` is the state directory of the deployment) checks that it is unbroken,
and that these are lines of it:

```sh
ztca audit export --dir "${PKI:-./pki}" --service signing > whole.jsonl
ztca audit verify whole.jsonl
test "$(grep --count --fixed-strings --line-regexp --file audit.jsonl whole.jsonl)" -eq "$(wc -l < audit.jsonl)"
```
"""
_MORE: Final = """## 7. Everything else

`pqcsign verify FILE --bundle …` and cosign check the Sigstore bundles with `trusted_root.json`, time-stamps, log
entries and certificates included; envelopes with two signatures are verified with both keys (`--key … --key …`).
"""
