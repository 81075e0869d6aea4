"""A throw-away PKI for the hour in which signer-hsm must run before the real one can speak for it.

At the ceremony there are no certificates yet; after a long time off, those on disk and the CRLs have expired, and the
key that would renew them is behind signer-hsm. So signer-hsm is started with an identity of this PKI, for one caller of
this PKI, on loopback. Its keys are made anew each time and deleted afterwards; no trust bundle ever names its root.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from pkicore.algorithms import ALGORITHMS, PrivateKey, generate_private_key
from pkicore.clock import Clock
from pkicore.crl import build_crl
from pkicore.encoding import write_atomically, write_new
from pkicore.identity import SpiffeId
from pkicore.keys.file import FileKey
from pkicore.mtls import Credentials, CrlCache, StapleCache
from pkicore.ocsp import CertStatus, OcspRequest, Responder, build_request, build_response
from pkicore.x509.certificate import self_signed_root, sign_certificate, to_pem
from pkicore.x509.names import Names
from pkicore.x509.profiles import Profile, load_profiles
from pkicore.x509.tbs import Issuer, build_tbs, random_serial, validity
from services.ca.hierarchy import make_issuer, make_root_issuer
from services.ca.layout import SIGNER, Layout
from services.ca.plain_keys import plain_pem

LIFE: Final = timedelta(hours=1)
NOWHERE: Final = "http://127.0.0.1:9"  # nobody serves the status of this PKI; it lies in files
_BACKDATE: Final = timedelta(minutes=5)
_ALGORITHM: Final = "ml-dsa-65"
_FAMILY: Final = "mldsa"


@dataclass(frozen=True)
class BootstrapPki:
    """A root, an issuing CA, signer-hsm's identity, the caller's, and their status.

    Attributes:
        root: the trust anchor.
        issuing: issued both identities.
        signer: signer-hsm's certificate and key.
        caller: those of the one who may call it.
        crls: the CRL of root and issuing CA, DER.
        staple: an OCSP response about signer-hsm's certificate, DER.
    """

    root: x509.Certificate
    issuing: x509.Certificate
    signer: Credentials
    caller: Credentials
    crls: Mapping[x509.Certificate, bytes]
    staple: bytes

    def crl_cache(self, directory: Path | None, clock: Clock) -> CrlCache:
        """The CRLs, as a client or listener takes them; in a directory, where one is given."""

        async def fetch(issuer: x509.Certificate) -> bytes:
            return self.crls[issuer]

        return CrlCache(list(self.crls), fetch, directory, clock, LIFE, on_error=_not_taken)

    async def write(self, layout: Layout, clock: Clock) -> None:
        """Lay out trust, identity, CRLs and staple as signer-hsm expects them."""
        write_atomically(layout.trust_bundle, to_pem([self.root]), 0o644)
        write_atomically(layout.issuer_certificate(_FAMILY), to_pem([self.issuing]), 0o644)
        identity = layout.identity(SIGNER)
        write_atomically(identity / "cert.pem", to_pem(self.signer.chain), 0o644)
        write_new(identity / "key.pem", plain_pem(_private(self.signer)), 0o600)
        status = layout.state(SIGNER) / "status"
        await self.crl_cache(status, clock).refresh()

        async def staple(_certificate: x509.Certificate, _issuer: x509.Certificate) -> bytes:
            return self.staple

        await StapleCache(staple, status, clock, on_error=_not_taken).prepare(self.signer.certificate, self.issuing)


async def make_bootstrap_pki(caller: SpiffeId, clock: Clock, pool: Executor, profiles: str) -> BootstrapPki:
    """Make one, valid for an hour.

    Raises:
        PkiError: a part could not be made.
    """
    short = {
        name: replace(profile, validity=2 * LIFE, backdate=_BACKDATE)
        for name, profile in load_profiles(profiles).items()
    }
    now = clock.now()
    root_key = _key(pool)
    root_profile = replace(short["root"], keys=frozenset({_ALGORITHM}))
    root = await self_signed_root(root_profile, root_key, common_name="throw-away root", now=now)
    above = make_root_issuer("root", _FAMILY, root, NOWHERE)
    issuing_key = _key(pool)
    issuing = await _certify(above, root_key, short["issuing-ca"], issuing_key, "throw-away issuing CA", Names(), now)
    issuer = make_issuer("issuing", _FAMILY, issuing, root, NOWHERE)
    service = replace(short["service"], ocsp=False, validity=LIFE)
    signer = await _identity(issuer, issuing_key, service, SpiffeId.service(caller.trust_domain, SIGNER), pool, now)
    return BootstrapPki(
        root=root,
        issuing=issuing,
        signer=signer,
        caller=await _identity(issuer, issuing_key, service, caller, pool, now),
        crls={
            root: await _crl(root, root_key, (), now),
            issuing: await _crl(issuing, issuing_key, (issuer.crl_url,), now),
        },
        staple=await _staple(signer.certificate, issuing, issuing_key, now),
    )


def _key(pool: Executor) -> FileKey:
    return FileKey("throw-away", generate_private_key(ALGORITHMS[_ALGORITHM]), pool)


async def _certify(
    issuer: Issuer, issuer_key: FileKey, profile: Profile, key: FileKey, name: str | None, names: Names, now: datetime
) -> x509.Certificate:
    not_before, not_after = validity(profile, issuer, now)
    tbs = build_tbs(
        profile,
        issuer,
        serial=random_serial(),
        not_before=not_before,
        not_after=not_after,
        public_key=key.public_key,
        common_name=name,
        names=names,
    )
    return await sign_certificate(tbs, issuer_key, issuer.certificate)


async def _identity(
    issuer: Issuer, issuer_key: FileKey, profile: Profile, identity: SpiffeId, pool: Executor, now: datetime
) -> Credentials:
    private_key = await asyncio.to_thread(generate_private_key, ALGORITHMS[_ALGORITHM])
    key = FileKey("throw-away", private_key, pool)
    names = Names.build(uri=[str(identity)])
    leaf = await _certify(issuer, issuer_key, profile, key, None, names, now)
    return Credentials((leaf, issuer.certificate), private_key)


async def _crl(issuer: x509.Certificate, key: FileKey, urls: tuple[str, ...], now: datetime) -> bytes:
    return await build_crl(
        issuer,
        key,
        (),
        number=1,
        this_update=now,
        next_update=now + LIFE,
        distribution_points=urls,
        scope="user" if urls else None,
    )


async def _staple(leaf: x509.Certificate, issuing: x509.Certificate, key: FileKey, now: datetime) -> bytes:
    (cert_id,) = OcspRequest.parse(build_request(leaf, issuing)).cert_ids
    responder = Responder(issuing, key, issuing)
    good = [(cert_id, CertStatus.good())]
    return await build_response(responder, good, this_update=now, next_update=now + LIFE, nonce=None)


def _private(credentials: Credentials) -> PrivateKey:
    key = credentials.private_key
    if not isinstance(key, PrivateKey):
        raise TypeError("a throw-away identity has a key of the table")
    return key


def _not_taken(_about: x509.Certificate, error: Exception) -> None:
    raise RuntimeError("the status of a throw-away PKI is not good") from error
