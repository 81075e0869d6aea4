"""finalize (RFC 8555 §7.4): from a CSR to an order that is processing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pkicore.clock import Clock, unix
from pkicore.encoding import base64url_decode
from pkicore.errors import MalformedError, PkiError
from pkicore.jose.jwk import thumbprint
from pkicore.x509.csr import UnverifiedCsr, VerifiedCsr
from services.acme.errors import AcmeError
from services.acme.identifiers import Identifier
from services.acme.orders.caa_again import CAA_SECONDS, CaaAgain
from services.acme.orders.documents import OrderDocuments
from services.acme.orders.issuance import Issuance
from services.acme.orders.rules import Admission
from services.acme.requests import AccountRequest
from services.acme.store import OrderRow, Store
from services.chassis.asgi import Response
from services.chassis.database import AuditEvent
from services.chassis.errors import ConflictError

_DER_SEQUENCE: Final = b"\x30"


class Finalization:
    """The resource finalize."""

    def __init__(
        self,
        store: Store,
        issuance: Issuance,
        documents: OrderDocuments,
        admission: Admission,
        caa: CaaAgain | None,
        clock: Clock,
    ) -> None:
        self._store = store
        self._issuance = issuance
        self._documents = documents
        self._admission = admission
        self._caa = caa
        self._clock = clock

    async def post(self, request: AccountRequest, order_id: str) -> Response:
        """Take the CSR of a ready order, and wait a little for the certificate.

        1 the order is the account's · 2 the CSR proves a key that the profile takes, and asks for exactly the order's
        names · 3 CAA records still allow it, where they were looked at long ago · 4 ready becomes processing, committed
        with the CSR and what it costs of the limits, if every authorization still holds · 5 the CA is asked, under an
        idempotency key made of the order's id · 6 processing becomes valid, committed with the certificate.
        Repeating the request with the same CSR after a lost answer is harmless; after a refusal the order stays ready.

        Raises:
            AcmeError: malformed, badCSR, caa, dns, orderNotReady, rateLimited, or unauthorized (a revoked external
                account).
        """
        order = await self._documents.own(request, order_id)
        csr = _parse_csr(request.members().get("csr"))
        if not _is_finalized_with(order, csr):
            order = await self._accept(request, order, csr)
        return await self._documents.answer(await self._issued(order))

    async def _accept(self, request: AccountRequest, order: OrderRow, csr: UnverifiedCsr) -> OrderRow:
        """The order as it is processing."""
        if self._documents.status(order) != "ready":
            raise AcmeError("orderNotReady", f"the order is {self._documents.status(order)}, not ready")
        profile = self._admission.profiles.of_order(order.profile)
        await self._admission.external.admit(request.account.row, order.identifiers, order.profile)
        verified = _verify_csr(csr)
        check_names(verified, order.identifiers)
        profile.check_key(verified.algorithm)
        key = thumbprint(verified.public_key)
        await self._check_caa(order)
        now = unix(self._clock.now())
        audit = AuditEvent("order.finalized", f"account:{order.account_id}", {"order": order.id, "key": key})
        limits, free = self._admission.limits, await self._admission.renewals.free_names(order, now)
        charges = limits.issuance(request.account.row, order.identifiers, free)
        end = order.not_after if order.not_after is not None else profile.own_end(now)
        try:
            await self._store.start_processing(order, csr.der, key, now, audit, end, limits.writes(charges))
        except ConflictError as error:
            order = await self._documents.own(request, order.id)
            if not _is_finalized_with(order, csr):  # else a repetition of this request was quicker
                if error.write < len(charges):
                    await limits.refuse(charges, error)
                await self._refuse_account_key(key)
                raise AcmeError("orderNotReady", "the order is no longer ready") from error
            return order
        return replace(order, status="processing", csr=csr.der, not_after=end)

    async def _refuse_account_key(self, key: str) -> None:
        if await self._store.account_by_thumbprint(key) is not None:
            raise AcmeError("badCSR", "the key of the CSR is the key of an account; a certificate needs its own")

    async def _check_caa(self, order: OrderRow) -> None:
        """Look again where a name was validated long ago: its owner may have forbidden it since.

        A young order can still have an old proof, that of an authorization it took up.
        """
        if self._caa is None:
            return
        before = unix(self._clock.now()) - CAA_SECONDS
        old = [proof for proof in await self._store.proofs(order.id) if proof.validated_at < before]
        await self._caa.require(old, order.account_id)

    async def _issued(self, order: OrderRow) -> OrderRow:
        """The order as it stands once the CA has answered, or after as long as a client is kept waiting."""
        if order.status != "processing":
            return order
        return await self._issuance.wait(order) or await self._store.order_by_id(order.id) or order


def _is_finalized_with(order: OrderRow, csr: UnverifiedCsr) -> bool:
    return order.status in {"processing", "valid"} and order.csr == csr.der


def _parse_csr(value: object) -> UnverifiedCsr:
    if not isinstance(value, str):
        raise AcmeError("malformed", "the payload must have csr, a base64url string")
    try:
        der = base64url_decode(value)
    except MalformedError as error:
        raise AcmeError("malformed", "csr must be base64url of DER, not PEM") from error
    if not der.startswith(_DER_SEQUENCE):  # the parser would take PEM as well
        raise AcmeError("badCSR", "csr must be base64url of DER, not PEM")
    try:
        return UnverifiedCsr.parse(der)
    except PkiError as error:
        raise AcmeError("badCSR", str(error)) from error


def _verify_csr(csr: UnverifiedCsr) -> VerifiedCsr:
    try:
        return csr.verify()
    except PkiError as error:
        raise AcmeError("badCSR", str(error)) from error


def check_names(csr: VerifiedCsr, identifiers: Sequence[Identifier]) -> None:
    """The CSR asks for exactly the names of the order (RFC 8555 §7.4); a name beyond them was never validated.

    Raises:
        AcmeError: badCSR.
    """
    if csr.names.uri or csr.names.email:
        raise AcmeError("badCSR", "the CSR asks for names that are neither DNS names nor IP addresses")
    asked = {("dns", name) for name in csr.names.dns} | {("ip", str(address)) for address in csr.names.ip}
    if asked != {(name.type, name.value) for name in identifiers}:
        raise AcmeError("badCSR", "the names of the CSR are not exactly those of the order")
    common_name = csr.common_name
    if common_name is not None and common_name.lower() not in {name.value for name in identifiers}:
        raise AcmeError("badCSR", "the common name of the CSR is not a name of the order")
