"""Time-stamps believed and refused: ours by foreign verifiers, foreign ones by us, and everything that is forged."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import rfc3161_client
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from pkicore.algorithms import sign_with
from pkicore.clock import SystemClock
from pkicore.cms import SignerInfo, all_digests, assemble, signed_attributes, verify_detached
from pkicore.encoding import explicit, object_identifier, octet_string, tlv
from pkicore.errors import (
    BadCertificateError,
    BadSignatureError,
    BadTimestampError,
    MalformedError,
    PkiError,
    TimestampRefusedError,
)
from pkicore.tsp import (
    MessageImprint,
    TimeStampRequest,
    TstInfo,
    granted,
    prepare_token,
    rejection,
    token_of,
    verify_response,
    verify_token,
)
from tests.support.cms_forgery import attributes_of, certificate_binding, der_of, signed_data, signer_info
from tests.support.openssl import openssl
from tests.support.signing_pki import CODE_SIGNING, TIME_STAMPING, Holder, SigningPki

DATA = b"the signature\n"
PKI = SigningPki.make("ecdsa-p256", SystemClock().now())
AUTHORITY = PKI.issue("ecdsa-p256", TIME_STAMPING)
IMPRINT = MessageImprint.of("sha256", hashlib.sha256(DATA).digest())
REQUEST = TimeStampRequest(IMPRINT, None, 0x9955DCA63DFFABB3, certificates=True)
INFO = TstInfo("1.2.3.4", IMPRINT, 5, PKI.now, timedelta(seconds=1), REQUEST.nonce)
TST_INFO = "1.2.840.113549.1.9.16.1.4"


def stamp(info: TstInfo = INFO, authority: Holder = AUTHORITY, *, certificates: bool = True) -> bytes:
    """A token as the authority makes it."""
    prepared = prepare_token(info, authority.certificate)
    signature = sign_with(authority.private_key, prepared.message)
    return prepared.finish(signature, [authority.certificate] if certificates else [])


GOOD = stamp()


def enclosing(content: bytes, *infos: bytes, holders: tuple[Holder, ...] = (AUTHORITY,), kind: str = TST_INFO) -> bytes:
    """SignedData around a content of whatever type."""
    encapsulated = object_identifier(kind) + explicit(0, octet_string(content))
    return signed_data(infos, der_of(*holders), encapsulated=encapsulated, version=3)


def honest_info(content: bytes, holder: Holder = AUTHORITY) -> bytes:
    """SignerInfo with all that a token needs."""
    return signer_info(holder, [*attributes_of(content, TST_INFO), certificate_binding(holder)])


def test_the_forger_can_make_good_ones() -> None:
    """Otherwise the tests below would show nothing."""
    content = INFO.to_der()
    assert verify_token(enclosing(content, honest_info(content)), IMPRINT).serial == 5


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "ecdsa-p384", "rsa-2048"])
@pytest.mark.parametrize("hash_name", ["sha256", "sha512"])
def test_openssl_asks_and_believes(algorithm: str, hash_name: str, tmp_path: Path) -> None:
    """`openssl ts -query`, our answer, `openssl ts -verify` with the query; and with the data of another file not."""
    (tmp_path / "data").write_bytes(DATA)
    (tmp_path / "other").write_bytes(b"other")
    query, reply, root = tmp_path / "query", tmp_path / "reply", PKI.write_root(tmp_path)
    openssl("ts", "-query", "-data", tmp_path / "data", f"-{hash_name}", "-cert", "-tspolicy", "1.2.3.4", "-out", query)
    request = TimeStampRequest.parse(query.read_bytes())
    info = TstInfo("1.2.3.4", request.imprint, 77, PKI.now, timedelta(seconds=1), request.nonce)
    reply.write_bytes(granted(stamp(info, PKI.issue(algorithm, TIME_STAMPING))))
    arguments: list[str | Path] = ["-in", reply, "-CAfile", root]
    assert "Verification: OK" in openssl("ts", "-verify", "-queryfile", query, *arguments)
    assert "Verification: OK" in openssl("ts", "-verify", "-data", tmp_path / "data", *arguments)
    assert "message imprint mismatch" in openssl("ts", "-verify", "-data", tmp_path / "other", *arguments, check=False)


def test_openssl_believes_a_token_without_certificates(tmp_path: Path) -> None:
    """Where they were not asked for; it must be given them."""
    (tmp_path / "data").write_bytes(DATA)
    certificate, _ = AUTHORITY.write(tmp_path, "authority")
    (tmp_path / "reply").write_bytes(granted(stamp(certificates=False)))
    files: list[str | Path] = [
        "-in",
        tmp_path / "reply",
        "-CAfile",
        PKI.write_root(tmp_path),
        "-untrusted",
        certificate,
    ]
    assert "Verification: OK" in openssl("ts", "-verify", "-data", tmp_path / "data", *files)


def test_sigstores_client_believes() -> None:
    """rfc3161-client, with nonce, policy, authority and root; and not another message."""
    theirs = rfc3161_client.TimestampRequestBuilder().data(DATA).nonce(nonce=True).build()
    request = TimeStampRequest.parse(theirs.as_bytes())
    info = TstInfo("1.2.3.4", request.imprint, 5, PKI.now, nonce=request.nonce)
    response = rfc3161_client.decode_timestamp_response(granted(stamp(info)))
    verifier = (
        rfc3161_client.VerifierBuilder.from_request(theirs)
        .policy_id(x509.ObjectIdentifier("1.2.3.4"))
        .tsa_certificate(AUTHORITY.certificate)
        .add_root_certificate(PKI.root.certificate)
        .build()
    )
    assert verifier.verify_message(response, DATA)
    with pytest.raises(rfc3161_client.VerificationError):
        verifier.verify_message(response, b"other")


OPENSSL_TSA = """
[tsa]
serial = {directory}/serial
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256, sha512
accuracy = secs:1, millisecs:500, microsecs:100
ordering = {flag}
tsa_name = {flag}
ess_cert_id_chain = no
ess_cert_id_alg = {ess}
clock_precision_digits = 3
"""


def openssl_reply(directory: Path, *, flag: str = "yes", ess: str = "sha256") -> tuple[bytes, TimeStampRequest]:
    """What `openssl ts -reply` answers, and to what."""
    (directory / "data").write_bytes(DATA)
    (directory / "serial").write_text("2A\n")
    (directory / "tsa.cnf").write_text(OPENSSL_TSA.format(directory=directory, flag=flag, ess=ess))
    certificate, key = AUTHORITY.write(directory, "authority")
    query, reply = directory / "query", directory / "reply"
    openssl("ts", "-query", "-data", directory / "data", "-sha256", "-cert", "-out", query)
    files: list[str | Path] = ["-queryfile", query, "-signer", certificate, "-inkey", key, "-out", reply]
    openssl("ts", "-reply", "-config", directory / "tsa.cnf", "-section", "tsa", *files)
    return reply.read_bytes(), TimeStampRequest.parse(query.read_bytes())


@pytest.mark.parametrize("flag", ["yes", "no"])
def test_tokens_of_openssl_are_believed(flag: str, tmp_path: Path) -> None:
    """With fractions of a second, accuracy, ordering and the authority's name, or without."""
    response, request = openssl_reply(tmp_path, flag=flag)
    found = verify_response(response, request, authority=AUTHORITY.certificate)
    assert (found.serial, found.policy, found.nonce) == (0x2B, "1.2.3.4", request.nonce)
    assert found.accuracy == timedelta(seconds=1, milliseconds=500, microseconds=100)
    assert abs(found.gen_time - PKI.now) < timedelta(hours=1)


def test_a_certificate_bound_by_sha1_alone_is_not_bound(tmp_path: Path) -> None:
    """The first edition of the binding (RFC 2634) is what RFC 5816 replaced."""
    response, request = openssl_reply(tmp_path, ess="sha1")
    with pytest.raises(BadSignatureError, match="does not bind"):
        verify_response(response, request)


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "ed25519", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"])
def test_every_algorithm_stamps(algorithm: str) -> None:
    """What is believed is what was said, on whose word."""
    authority = PKI.issue(algorithm, TIME_STAMPING)
    found = verify_response(granted(stamp(INFO, authority)), REQUEST)
    assert (found.imprint, found.gen_time, found.accuracy) == (IMPRINT, PKI.now, timedelta(seconds=1))
    assert (found.serial, found.policy, found.nonce) == (5, "1.2.3.4", REQUEST.nonce)
    assert (found.certificate, found.certificates) == (authority.certificate, (authority.certificate,))


def test_a_token_without_certificates_needs_the_authority() -> None:
    """Whoever knows it names it."""
    bare = stamp(certificates=False)
    assert verify_token(bare, IMPRINT, authority=AUTHORITY.certificate).certificates == ()
    with pytest.raises(BadCertificateError, match="not there"):
        verify_token(bare, IMPRINT)
    with pytest.raises(BadTimestampError, match="does not bring"):
        verify_response(granted(bare), REQUEST, authority=AUTHORITY.certificate)


def test_another_authority_is_not_the_one_named() -> None:
    """However well it stamps."""
    other = PKI.issue("ecdsa-p256", TIME_STAMPING)
    with pytest.raises(BadSignatureError, match="no signature by"):
        verify_token(stamp(INFO, other), IMPRINT, authority=AUTHORITY.certificate)


@pytest.mark.parametrize(
    "asked",
    [
        replace(REQUEST, nonce=1),
        replace(REQUEST, nonce=None),
        replace(REQUEST, policy="1.2.3.5"),
        replace(REQUEST, imprint=MessageImprint.of("sha256", bytes(32))),
        replace(REQUEST, imprint=MessageImprint.of("sha512", hashlib.sha512(DATA).digest())),
    ],
    ids=["nonce", "nonce unasked", "policy", "digest", "hash"],
)
def test_an_answer_to_another_request_is_refused(asked: TimeStampRequest) -> None:
    """Replayed or mixed up: nonce, policy, digest and hash are those that were asked."""
    with pytest.raises(BadTimestampError):
        verify_response(granted(GOOD), asked)


def test_a_missing_nonce_is_noticed() -> None:
    """An answer without the nonce that was sent may be an old one."""
    with pytest.raises(BadTimestampError, match="nonce"):
        verify_response(granted(stamp(replace(INFO, nonce=None))), REQUEST)


def test_a_refusal_is_the_authoritys() -> None:
    """It comes out with its reason."""
    with pytest.raises(TimestampRefusedError) as caught:
        verify_response(rejection("timeNotAvailable", "the clock stands"), REQUEST)
    assert caught.value.failure == "timeNotAvailable"


def test_policies_can_be_demanded() -> None:
    """One of several, or none of them."""
    assert verify_token(GOOD, IMPRINT, policies=["1.2.3", "1.2.3.4"]).policy == "1.2.3.4"
    with pytest.raises(BadTimestampError, match="policy"):
        verify_token(GOOD, IMPRINT, policies=["1.2.3"])


BOTH = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING, ExtendedKeyUsageOID.CODE_SIGNING])


@pytest.mark.parametrize(
    ("usage", "critical"), [(None, True), (TIME_STAMPING, False), (BOTH, True), (CODE_SIGNING, True)]
)
def test_a_signer_who_is_no_authority_is_refused(usage: x509.ExtendedKeyUsage | None, *, critical: bool) -> None:
    """A code-signing certificate of the same root must not stamp its own past."""
    with pytest.raises(BadCertificateError):
        verify_token(stamp(INFO, PKI.issue("ecdsa-p256", usage, critical=critical)), IMPRINT)


@pytest.mark.parametrize("shift", [timedelta(days=-1), timedelta(days=31)])
def test_the_certificate_was_in_force(shift: timedelta) -> None:
    """At the time of the token, not at that of reading it."""
    with pytest.raises(BadCertificateError, match="not in force"):
        verify_token(stamp(replace(INFO, gen_time=PKI.now + shift)), IMPRINT)


def test_the_certificate_must_be_bound() -> None:
    """Missing, or of another certificate of the same key (RFC 5816 §2.2)."""
    content = INFO.to_der()
    unbound = signer_info(AUTHORITY, attributes_of(content, TST_INFO))
    wrong = signer_info(
        AUTHORITY, [*attributes_of(content, TST_INFO), certificate_binding(AUTHORITY, digest=bytes(32))]
    )
    for info in (unbound, wrong):
        with pytest.raises(BadSignatureError):
            verify_token(enclosing(content, info), IMPRINT)


def test_one_signer_and_no_other() -> None:
    """RFC 3161 §2.4.2: the authority's signature alone; twice is once too often."""
    content, other = INFO.to_der(), PKI.issue("ecdsa-p256", TIME_STAMPING)
    token = enclosing(content, honest_info(content), honest_info(content, other), holders=(AUTHORITY, other))
    with pytest.raises(BadTimestampError, match="no other"):
        verify_token(token, IMPRINT)
    with pytest.raises(BadTimestampError, match="no other"):
        verify_token(enclosing(content, honest_info(content), honest_info(content)), IMPRINT)


def test_two_tst_infos_are_none() -> None:
    """One behind the other, signed as one content: which of them counts?"""
    content = INFO.to_der() + replace(INFO, serial=6).to_der()
    with pytest.raises(MalformedError):
        verify_token(enclosing(content, honest_info(content)), IMPRINT)


def test_a_swapped_tst_info_is_not_believed() -> None:
    """An earlier time in the same signature."""
    backdated = replace(INFO, gen_time=PKI.now - timedelta(minutes=30)).to_der()
    token = enclosing(backdated, honest_info(INFO.to_der()))
    with pytest.raises(BadSignatureError, match="another content"):
        verify_token(token, IMPRINT)


def test_other_contents_are_no_tokens() -> None:
    """Signed data of the authority that happens to look like TSTInfo, detached tokens, another declared type."""
    content = INFO.to_der()
    attributes = signed_attributes(AUTHORITY.certificate, all_digests(content), signing_time=PKI.now)
    signer = SignerInfo(attributes, sign_with(AUTHORITY.private_key, attributes.message))
    with pytest.raises(BadTimestampError, match="no TSTInfo"):
        verify_token(assemble([signer], content=content), IMPRINT)
    detached = signed_data(
        [honest_info(content)], der_of(AUTHORITY), encapsulated=object_identifier(TST_INFO), version=3
    )
    with pytest.raises(BadTimestampError, match="no TSTInfo"):
        verify_token(detached, IMPRINT)
    as_data = signer_info(AUTHORITY, [*attributes_of(content), certificate_binding(AUTHORITY)])
    with pytest.raises(BadSignatureError, match="is of type"):
        verify_token(enclosing(content, as_data), IMPRINT)


def test_a_token_is_no_signature_of_an_artefact() -> None:
    """The other way round: a token is not taken for a detached signature of its own content."""
    with pytest.raises(MalformedError):
        verify_detached(GOOD, INFO.to_der())


def test_another_name_is_refused() -> None:
    """An authority that signs in the name of another one."""
    content = INFO.to_der()
    named = tlv(0x30, content[2:] + explicit(0, tlv(0xA4, PKI.root.certificate.subject.public_bytes())))
    with pytest.raises(BadTimestampError, match="another authority"):
        verify_token(enclosing(named, honest_info(named)), IMPRINT)


def test_responses_are_bounded() -> None:
    """A token of the largest size that is looked at, and one octet more."""
    with pytest.raises(MalformedError, match="larger"):
        verify_token(GOOD, IMPRINT, max_bytes=len(GOOD) - 1)
    assert verify_token(GOOD, IMPRINT, max_bytes=len(GOOD)).serial == 5
    with pytest.raises(MalformedError, match="larger"):
        verify_response(bytes(10_000_000), REQUEST)


def test_a_prepared_token_takes_its_own_signature_only() -> None:
    """Whatever else a far key answers does not leave as a token."""
    prepared = prepare_token(INFO, AUTHORITY.certificate)
    other = PKI.issue("ecdsa-p256", TIME_STAMPING)
    for signature in (b"", sign_with(AUTHORITY.private_key, b"x"), sign_with(other.private_key, prepared.message)):
        with pytest.raises(BadSignatureError):
            prepared.finish(signature)


# cryptography warns of some altered certificates, as of a negative serial number, before they are refused here.
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(st.data())
def test_an_altered_byte_is_refused_or_harmless(data: st.DataObject) -> None:
    """Nothing but our own errors; and what is still believed says the same."""
    index = data.draw(st.integers(0, len(GOOD) - 1))
    altered = GOOD[:index] + bytes([GOOD[index] ^ data.draw(st.integers(1, 255))]) + GOOD[index + 1 :]
    try:
        found = verify_token(altered, IMPRINT)
    except PkiError:
        return
    assert (found.gen_time, found.serial, found.certificate) == (PKI.now, 5, AUTHORITY.certificate)


def test_the_token_of_a_response_is_what_was_made() -> None:
    """It is stored as it is."""
    assert token_of(granted(GOOD)) == GOOD
