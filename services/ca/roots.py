"""What the roots sign: the issuing CAs' certificates and their own CRLs. Only commands open their keys."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from cryptography import x509

from pkicore.clock import Clock, unix
from pkicore.crl import build_crl
from pkicore.identity import SpiffeId
from pkicore.keys import SigningKey
from pkicore.x509.profiles import Profile
from services.ca.authorization import Authorizer
from services.ca.client.csr import make_csr
from services.ca.issuance import Issuance, IssuingCa, SerialPool
from services.ca.revocation_store import StoredCrl
from services.ca.store import CaStore
from services.ca.wire import CertificateRequest
from services.chassis.database import AuditEvent

ROOT_CRL_LIFETIME: Final = timedelta(days=365)
CEREMONY: Final = "ceremony"
ISSUING: Final = "issuing-ca"
"""Profile of our own issuing CAs."""
CROSS: Final = "cross-ca"
"""Profile of a root's certificate by another root, in the ledger."""
_PATH: Final = "/operator/ceremony"


@dataclass(frozen=True)
class RootOffice:
    """The one place where anybody may ask for a CA certificate; through the nine steps and the CA's own ledger.

    Attributes:
        issuance: the nine steps.
        caller: who asks.
        profile: of the certificates: issuing CAs', or that of cross-certificates.
    """

    issuance: Issuance
    caller: SpiffeId
    profile: str

    @classmethod
    def of(
        cls, store: CaStore, roots: Mapping[str, IssuingCa], profile: Profile, trust_domain: str, clock: Clock
    ) -> "RootOffice":
        """Over opened roots, by family, and the profile of issuing CAs."""
        open_profile = replace(profile, callers=(_PATH,))
        authorizer = Authorizer(
            trust_domain=trust_domain,
            profiles={profile.name: open_profile},
            issuers={family: root.issuer for family, root in roots.items()},
            clock=clock,
        )
        issuance = Issuance(
            store=store,
            authorizer=authorizer,
            serials=SerialPool(store, clock),
            cas={root.issuer.id: root for root in roots.values()},
            clock=clock,
            for_cas=True,
        )
        return cls(issuance, SpiffeId(trust_domain, _PATH), profile.name)

    async def certify(self, key: SigningKey, common_name: str) -> x509.Certificate:
        """The certificate of a CA of ours, by the root of its key's family.

        Raises:
            PkiError, CaServiceError, DatabaseError: it could not be issued.
        """
        csr = await make_csr(key, common_name=common_name)
        token = f"ceremony-{secrets.token_hex(8)}"
        wanted = CertificateRequest(csr, self.profile, (), token, requester={"ceremony": common_name})
        return (await self.answer(wanted))[0]

    async def answer(self, wanted: CertificateRequest) -> tuple[x509.Certificate, bool]:
        """The certificate that a request for a CA comes to, and whether it is new.

        Raises:
            PkiError, CaServiceError, DatabaseError: it could not be issued.
        """
        outcome = await self.issuance.issue(self.caller, wanted)
        return x509.load_pem_x509_certificate(outcome.answer.certificate.encode()), outcome.created


def cross_profile(profiles: Mapping[str, Profile]) -> Profile:
    """Cross-certificates are those of issuing CAs with one CA more below them; they end when those end."""
    return replace(profiles[ISSUING], name=CROSS, path_length=1)


async def sign_root_crl(
    name: str,
    certificate: x509.Certificate,
    key: SigningKey,
    previous: StoredCrl | None,
    entries: list[bytes],
    clock: Clock,
) -> tuple[StoredCrl, AuditEvent]:
    """The next CRL of a root. It names no distribution point: verifiers hold it against the root itself, too."""
    number = 1 if previous is None else previous.number + 1
    this_update = clock.now()
    next_update = this_update + ROOT_CRL_LIFETIME
    der = await build_crl(
        certificate,
        key,
        entries,
        number=number,
        this_update=this_update,
        next_update=next_update,
        distribution_points=(),
        scope=None,
    )
    event = AuditEvent("crl.published", CEREMONY, {"issuer": name, "number": number, "entries": len(entries)})
    return StoredCrl(name, number, unix(this_update), unix(next_update), der), event
