"""The operators' endpoints of the mTLS listener, by FastAPI: what need not be quick, and is described by OpenAPI.

| endpoint                       | what                      |
|--------------------------------|---------------------------|
| GET  /v1/certificates/{serial} | what the ledger knows     |
| POST /v1/crls                  | publish every CRL now     |
| GET  /v1/issuers               | the issuing CAs           |
| GET  /v1/openapi.json          | this API, as OpenAPI      |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import fastapi
from cryptography.hazmat.primitives.serialization import Encoding

from pkicore.clock import Clock, unix
from pkicore.encoding import pem_join
from services.ca.errors import UnknownCertificateError
from services.ca.issuance import IssuingCa
from services.ca.publication import CrlPublisher
from services.ca.store import CaStore, Ledgered
from services.ca.wire import CertificateStatus, format_serial, parse_serial
from services.chassis.admin import admin_api
from services.chassis.peer import CallerPolicy


@dataclass(frozen=True)
class PublishedCrl:
    """The number of an issuer's newest CRL."""

    issuer: str
    number: int


@dataclass(frozen=True)
class PublishedCrls:
    """What `POST /v1/crls` has published."""

    crls: list[PublishedCrl]


@dataclass(frozen=True)
class IssuerDescription:
    """An issuing CA: prepared, active or retired; its certificate (PEM) and where its status is found."""

    id: str
    family: str
    state: str
    certificate: str
    crl: str | None
    ocsp: str | None
    aia: str | None


@dataclass(frozen=True)
class Issuers:
    """Every issuing CA of this process."""

    issuers: list[IssuerDescription]


def ca_admin(
    *,
    store: CaStore,
    publisher: CrlPublisher,
    cas: Mapping[str, IssuingCa],
    policy: CallerPolicy,
    clock: Clock,
) -> fastapi.FastAPI:
    """The admin API of a CA; every path is behind the caller policy."""
    router = fastapi.APIRouter(prefix="/v1")

    @router.get("/certificates/{serial}")
    async def certificate(serial: str) -> CertificateStatus:
        """What the ledger knows of a serial (hex)."""
        ledgered = await store.by_serial(parse_serial(serial))
        if ledgered is None:
            raise UnknownCertificateError("this CA never used that serial")
        return _status(ledgered, unix(clock.now()))

    @router.post("/crls")
    async def publish() -> PublishedCrls:
        """Publish the CRL of every issuing CA now; answers when it is done."""
        numbers = await publisher.publish_all()
        return PublishedCrls([PublishedCrl(name, number) for name, number in numbers.items()])

    @router.get("/issuers")
    async def issuers() -> Issuers:
        """The issuing CAs, and where their status is found."""
        return Issuers([_described(ca) for ca in cas.values()])

    async def guard(request: fastapi.Request) -> None:
        peer = request.scope.get("state", {}).get("peer")
        policy.authorize(peer, "ca", request.method, request.scope["path"])

    return admin_api("pqcpki CA", "What operators ask of the CA, over mutual TLS.", router, guard)


def _status(ledgered: Ledgered, now: int) -> CertificateStatus:
    intent, der = ledgered.intent, ledgered.certificate
    status: Literal["good", "revoked", "expired", "pending"]
    if ledgered.revoked_at is not None:
        status = "revoked"
    elif der is None:
        status = "pending"
    else:
        status = "good" if now <= intent.not_after else "expired"
    return CertificateStatus(
        serial=format_serial(intent.serial),
        status=status,
        issuer=intent.issuer,
        profile=intent.profile,
        not_before=intent.not_before,
        not_after=intent.not_after,
        certificate=None if der is None else pem_join("CERTIFICATE", der).decode(),
        revoked_at=ledgered.revoked_at,
        reason=ledgered.reason,
    )


def _described(ca: IssuingCa) -> IssuerDescription:
    issuer = ca.issuer
    return IssuerDescription(
        id=issuer.id,
        family=issuer.family,
        state=ca.state,
        certificate=issuer.certificate.public_bytes(Encoding.PEM).decode(),
        crl=issuer.crl_url,
        ocsp=issuer.ocsp_url,
        aia=issuer.aia_url,
    )
