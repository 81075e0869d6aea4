"""When did this digest exist, on whose word (RFC 3161 §2.2)?

1 the content is TSTInfo · 2 one signer and no other · 3 the signature verifies and binds the certificate · 4 the
certificate is for time-stamping alone and was in force · 5 the imprint is the digest asked about · 6 nonce, policy and
authority are those expected.
Whether the certificate leads to a trusted root, and was not revoked at that time, is the caller's question.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from pkicore.cms import UnverifiedSignedData, VerifiedSigner, all_digests, verify_signed_data
from pkicore.cms.signed_data import MAX_CMS_BYTES
from pkicore.errors import BadSignatureError, BadTimestampError
from pkicore.tsp.request import MessageImprint, TimeStampRequest
from pkicore.tsp.response import token_of
from pkicore.tsp.token import TST_INFO, TstInfo, check_authority


@dataclass(frozen=True, slots=True)
class VerifiedTimestamp:
    """What the holder of an authority's certificate vouches for.

    Attributes:
        imprint: the digest.
        gen_time: when it existed at the latest, give or take `accuracy`.
        accuracy: None where the authority does not say.
        serial: of the token.
        policy: dotted object identifier.
        nonce: of the request; None where it had none.
        certificate: the authority's.
        certificates: all that came with the token, for building a chain.
    """

    imprint: MessageImprint
    gen_time: datetime
    accuracy: timedelta | None
    serial: int
    policy: str
    nonce: int | None
    certificate: x509.Certificate
    certificates: tuple[x509.Certificate, ...]


def verify_response(
    response: bytes, request: TimeStampRequest, *, authority: x509.Certificate | None = None
) -> VerifiedTimestamp:
    """Believe an answer to this very request, or raise.

    Raises:
        TimestampRefusedError: the authority refuses.
        BadTimestampError: it answers another request, or does not bring the certificate that was asked for.
        BadSignatureError: it is not signed as it must be.
        BadCertificateError: the signer is no time-stamping authority, or its certificate is not there.
        MalformedError: it does not parse.
        UnsupportedError: a form or algorithm that is not offered.
    """
    token = token_of(response)
    policies = () if request.policy is None else (request.policy,)
    verified = verify_token(token, request.imprint, authority=authority, policies=policies)
    if verified.nonce != request.nonce:
        raise BadTimestampError("the token answers another request: its nonce differs")
    if request.certificates and verified.certificate not in verified.certificates:
        raise BadTimestampError("the token does not bring the authority's certificate")
    return verified


def verify_token(
    token: bytes,
    imprint: MessageImprint,
    *,
    authority: x509.Certificate | None = None,
    policies: Collection[str] = (),
    max_bytes: int = MAX_CMS_BYTES,
) -> VerifiedTimestamp:
    """Believe that a digest existed at a time, or raise; see the numbered rules above.

    Args:
        token: ContentInfo in DER.
        imprint: the digest asked about.
        authority: certificate that must have signed; needed where the token brings none.
        policies: dotted object identifiers, one of which must be the token's; any where there are none.
        max_bytes: the most that is looked at.

    Raises:
        BadTimestampError: about another digest, under another policy, by several signers, or in another's name.
        BadSignatureError: the signature does not verify, or does not bind the certificate.
        BadCertificateError: the signer is no time-stamping authority, or its certificate is not there.
        MalformedError: it does not parse.
        UnsupportedError: a form or algorithm that is not offered.
    """
    signed_data = UnverifiedSignedData.parse(token, max_bytes=max_bytes)
    content = _content(signed_data)
    info = TstInfo.parse(content)
    signer = _only_signer(signed_data, content, authority)
    check_authority(signer.certificate, info.gen_time)
    if info.imprint.hash_name != imprint.hash_name or not hmac.compare_digest(info.imprint.digest, imprint.digest):
        raise BadTimestampError("the token is about another digest")
    if policies and info.policy not in policies:
        raise BadTimestampError(f"the token is under the policy {info.policy}, which is not accepted")
    if info.authority is not None and info.authority != signer.certificate.subject.public_bytes():
        raise BadTimestampError("the token names another authority than its signer")
    return VerifiedTimestamp(
        imprint=info.imprint,
        gen_time=info.gen_time,
        accuracy=info.accuracy,
        serial=info.serial,
        policy=info.policy,
        nonce=info.nonce,
        certificate=signer.certificate,
        certificates=signed_data.certificates,
    )


def _content(signed_data: UnverifiedSignedData) -> bytes:
    if signed_data.content_type != TST_INFO or signed_data.content is None:
        raise BadTimestampError("the SignedData holds no TSTInfo")
    return signed_data.content


def _only_signer(
    signed_data: UnverifiedSignedData, content: bytes, authority: x509.Certificate | None
) -> VerifiedSigner:
    if len(signed_data.signers) != 1:
        raise BadTimestampError("a token has the signature of its authority and no other")
    expected = () if authority is None else (authority,)
    (signer,) = verify_signed_data(signed_data, all_digests(content), content_type=TST_INFO, signers=expected)
    if not signer.certificate_is_signed:
        raise BadSignatureError("the signature does not bind the authority's certificate")
    return signer
