"""What orders are made of, put together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pkicore.clock import Clock
from services.acme.authorizations.authorizations import Authorizations
from services.acme.authorizations.pre_authorizations import PreAuthorizations
from services.acme.authorizations.reuse import Reuse
from services.acme.orders.caa_again import CaaAgain
from services.acme.orders.certificates import Certificates
from services.acme.orders.documents import OrderDocuments
from services.acme.orders.finalization import Finalization
from services.acme.orders.issuance import Issuance
from services.acme.orders.orders import Orders
from services.acme.orders.rules import Admission, OrderRules
from services.acme.store import Store
from services.acme.urls import Urls


@dataclass(frozen=True)
class Ordering:
    """The resources around an order; no newAuthz where later orders do not take up what was proven."""

    orders: Orders
    finalization: Finalization
    certificates: Certificates
    pre_authorizations: PreAuthorizations | None

    @classmethod
    def assemble(
        cls,
        *,
        store: Store,
        issuance: Issuance,
        authorizations: Authorizations,
        admission: Admission,
        caa: CaaAgain | None,
        rules: OrderRules,
        urls: Urls,
        clock: Clock,
    ) -> Self:
        """Put them together."""
        documents = OrderDocuments(store, urls, clock)
        reuse = Reuse(store, admission.profiles, rules.reuse_seconds, rules.lifetime)
        return cls(
            Orders(store, admission, reuse, documents, urls, rules, clock),
            Finalization(store, issuance, documents, admission, caa, clock),
            Certificates(store, urls),
            PreAuthorizations(store, admission, reuse, authorizations, urls, rules, clock)
            if rules.reuse_seconds
            else None,
        )
