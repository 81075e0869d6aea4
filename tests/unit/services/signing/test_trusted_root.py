from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
import sigstore
from sigstore_models.trustroot import v1

from pkicore.algorithms import ALGORITHMS, generate_private_key
from pkicore.errors import BadCertificateError, MalformedError, PkiError, UnsupportedError
from pkicore.tlog.keys import NoteKey
from services.signing.trusted_root import (
    MAX_TRUSTED_ROOT,
    Period,
    Service,
    TrustedAuthority,
    TrustedLog,
    TrustedRoot,
    signing_config,
)
from tests.support.sigstore_world import ORIGIN, SigstoreWorld

SINCE = Period(datetime(2030, 1, 1, tzinfo=UTC))
STORE = Path(sigstore.__file__).parent / "_store"
Change = Callable[[dict[str, Any]], object]


def log(algorithm: str, url: str = f"https://{ORIGIN}:7000/v1/log") -> TrustedLog:
    """A log with a fresh key."""
    return TrustedLog(url, generate_private_key(ALGORITHMS[algorithm]).public_key(), SINCE)


def test_what_is_written_is_read_again() -> None:
    """Nothing is lost between writing and reading."""
    root = SigstoreWorld().trusted_root
    assert TrustedRoot.parse(root.to_json()) == root


def test_sigstore_s_models_read_the_file() -> None:
    """The file has the members and forms of Sigstore's protobuf JSON, and no others."""
    world = SigstoreWorld()
    read = v1.TrustedRoot.from_json(world.trusted_root.to_json())
    assert read.tlogs[0].log_id.key_id == world.log.note_key.log_id
    assert read.tlogs[0].public_key.key_details.value == "PKIX_ECDSA_P256_SHA_256"
    assert [len(one.cert_chain.certificates) for one in read.certificate_authorities] == [2]
    assert read.certificate_authorities[0].subject.common_name == "Acme Root"
    assert read.timestamp_authorities[0].valid_for.start == world.clock.now() - timedelta(hours=1)


def test_the_public_instance_s_file_is_read() -> None:
    """Sigstore's own trusted root is read: the id of each log, Ed25519 or ECDSA, is that of its key."""
    data = (STORE / "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev" / "trusted_root.json").read_bytes()
    members, root = orjson.loads(data), TrustedRoot.parse(data)
    assert len(root.logs) == len(members["tlogs"]) > 0
    assert len(root.ct_logs) == len(members["ctlogs"]) > 0
    assert len(root.authorities) == len(members["certificateAuthorities"]) > 0
    again = orjson.loads(root.to_json())
    for name in ("tlogs", "ctlogs"):
        assert [one["logId"] for one in again[name]] == [one["logId"] for one in members[name]]


def test_a_key_under_a_deprecated_name_is_refused() -> None:
    """Sigstore's staging instance has an RSA log of 2022 whose key is said to be PKCS #1: it is not guessed at."""
    data = (STORE / "https%3A%2F%2Ftuf-repo-cdn.sigstage.dev" / "trusted_root.json").read_bytes()
    with pytest.raises(UnsupportedError, match="another kind than it says"):
        TrustedRoot.parse(data)


def test_the_origin_is_the_host_alone() -> None:
    """Sigstore's verifiers take the host of the URL, without port and path, for the checkpoint's origin."""
    found = log("ecdsa-p256")
    assert found.origin == ORIGIN
    assert found.note_key.name == ORIGIN
    with pytest.raises(MalformedError):
        _ = log("ecdsa-p256", "no url").note_key


def test_ids_are_those_of_c2sp() -> None:
    """An Ed25519 key's id binds the name; an ECDSA key's is the hash of the key."""
    for algorithm in ("ecdsa-p256", "ed25519"):
        found = log(algorithm)
        assert isinstance(found.note_key, NoteKey)
        assert found.log_id == found.note_key.log_id
    with pytest.raises(UnsupportedError):
        _ = log("rsa-2048").note_key
    assert len(log("rsa-2048").log_id) == 32


@pytest.mark.parametrize(
    ("moment", "covered"),
    [
        (datetime(2029, 12, 31, 23, 59, 59, tzinfo=UTC), False),
        (datetime(2030, 1, 1, tzinfo=UTC), True),
        (datetime(2031, 1, 1, tzinfo=UTC), True),
        (datetime(2031, 1, 1, 0, 0, 1, tzinfo=UTC), False),
    ],
)
def test_a_period_includes_both_ends(moment: datetime, *, covered: bool) -> None:
    """As TimeRange has it; without an end it lasts."""
    assert Period(SINCE.start, datetime(2031, 1, 1, tzinfo=UTC)).covers(moment) is covered
    assert Period(SINCE.start).covers(datetime(9999, 1, 1, tzinfo=UTC))


def test_chains_that_verifiers_would_not_take_are_refused() -> None:
    """A time-stamping chain has two certificates at least, and each chain ends in a root."""
    world = SigstoreWorld()
    certificate, *_, root = world.timestamps.chain
    with pytest.raises(BadCertificateError, match="a root at least"):
        TrustedRoot(timestamp_authorities=(TrustedAuthority("tsa", (root,), SINCE),))
    for chain in ((), (certificate,), (root, certificate)):
        with pytest.raises(BadCertificateError, match="does not end in a root"):
            TrustedRoot(authorities=(TrustedAuthority("ca", chain, SINCE),))


def first(members: dict[str, Any], name: str) -> dict[str, Any]:
    """The first of a list."""
    found: dict[str, Any] = members[name][0]
    return found


CHANGES: list[tuple[str, Change]] = [
    ("another media type", lambda m: m.update(mediaType="application/json")),
    ("no list", lambda m: m.update(tlogs={})),
    ("too many", lambda m: m.update(tlogs=m["tlogs"] * 65)),
    ("no key", lambda m: first(m, "tlogs").pop("publicKey")),
    ("a key that is none", lambda m: first(m, "tlogs")["publicKey"].update(rawBytes="AAAA")),
    ("another key's id", lambda m: first(m, "tlogs")["logId"].update(keyId="A" * 43 + "=")),
    ("another key's id of a certificate log", lambda m: first(m, "ctlogs").update(logId=first(m, "tlogs")["logId"])),
    ("another kind of key", lambda m: first(m, "tlogs")["publicKey"].update(keyDetails="PKIX_ED25519")),
    ("no period", lambda m: first(m, "tlogs")["publicKey"].pop("validFor")),
    ("a period without start", lambda m: first(m, "tlogs")["publicKey"].update(validFor={})),
    ("a start that is none", lambda m: first(m, "certificateAuthorities").update(validFor={"start": "today"})),
    ("a start of no zone", lambda m: first(m, "ctlogs")["publicKey"].update(validFor={"start": "2030-01-01T00:00:00"})),
    ("no chain", lambda m: first(m, "certificateAuthorities").pop("certChain")),
    ("an empty chain", lambda m: first(m, "certificateAuthorities")["certChain"].update(certificates=[])),
    ("a certificate that is none", lambda m: first(m, "timestampAuthorities")["certChain"]["certificates"].append({})),
]


@pytest.mark.parametrize("change", [one[1] for one in CHANGES], ids=[one[0] for one in CHANGES])
def test_what_makes_no_sense_is_refused(change: Change) -> None:
    """What is trusted is read strictly: nothing is passed over that would be missed later."""
    members = orjson.loads(SigstoreWorld().trusted_root.to_json())
    change(members)
    with pytest.raises(PkiError):
        TrustedRoot.parse(orjson.dumps(members))


def test_the_file_has_a_size_bound() -> None:
    """Nothing larger than a mebibyte is parsed."""
    with pytest.raises(MalformedError, match="larger"):
        TrustedRoot.parse(b" " * (MAX_TRUSTED_ROOT + 1))


def test_an_empty_root_trusts_nobody() -> None:
    """A deployment without logs and authorities has a file all the same."""
    assert TrustedRoot.parse(TrustedRoot().to_json()) == TrustedRoot()


def test_sigstore_s_models_read_the_signing_configuration() -> None:
    """Clients are told of our time-stamps and issuers, and sent to nobody else."""
    stamps = Service("https://sign.acme.test/v1/timestamp", SINCE)
    issuers = (Service("https://token.actions.githubusercontent.com", Period(SINCE.start, SINCE.start)),)
    read = v1.SigningConfig.from_json(signing_config("acme.test", timestamps=(stamps,), issuers=issuers))
    assert read.media_type == "application/vnd.dev.sigstore.signingconfig.v0.2+json"
    assert [(one.url, one.major_api_version, one.operator) for one in read.tsa_urls] == [(stamps.url, 1, "acme.test")]
    assert [one.url for one in read.oidc_urls] == [issuers[0].url]
    assert (read.ca_urls, read.rekor_tlog_urls) == ([], [])
