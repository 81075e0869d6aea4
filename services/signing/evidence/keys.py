"""The public keys of a release, as an archive holds them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import structlog
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pkicore.algorithms import PublicKey
from pkicore.audit import StoredRecord
from pkicore.errors import KeyAccessError
from services.signing.evidence.archive import ArchiveFile
from services.signing.evidence.how_to_verify import key_path
from services.signing.wire import SignatureRecord

PublicKeyOf: TypeAlias = Callable[[str], Awaitable[PublicKey]]
"""The public half of a key as records name it, TENANT.NAME/VERSION; KeyAccessError where there is none."""

_MAX_VERSIONS: Final = 32  # of one key
_log = structlog.get_logger("evidence")


async def key_files(
    public_key: PublicKeyOf, records: Sequence[SignatureRecord], lines: Sequence[StoredRecord]
) -> list[ArchiveFile]:
    """The public keys that records name, and every version of those that decisions in the audit log name.

    A key that signer-hsm no longer tells is left out: the
    archive is wanted all the same.
    """
    named = {name for record in records for one in record.signatures for name in one.key.split("+") if "/" in name}
    named |= {name for record in records for one in record.bundles for name in one.keys if "/" in name}
    decided = {
        f"{line.record.detail['tenant']}.{answer['key']}"
        for line in lines
        for answer in line.record.detail.get("answers", ())
        if answer["key"] is not None
    }
    found = {name: await _pem(public_key, name) for name in named}
    for key_id in decided:
        for version in range(1, _MAX_VERSIONS + 1):
            pem = await _pem(public_key, f"{key_id}/{version}")
            if pem is None:
                break
            found[f"{key_id}/{version}"] = pem
    return [ArchiveFile.of(key_path(name), pem) for name, pem in sorted(found.items()) if pem is not None]


async def _pem(public_key: PublicKeyOf, name: str) -> bytes | None:
    try:
        key = await public_key(name)
    except KeyAccessError as error:
        _log.info("no public key for the evidence", key=name, error=str(error))
        return None
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
