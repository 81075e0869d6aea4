"""What bounds clients, and whose word on their addresses is believed."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from services.acme.client_address import ProxyHeader
from services.acme.rate_limits.rate_limits import Limit, Limits
from services.acme.validation_settings import Networks
from services.chassis.settings import ProcessSettings


def _limit(text: str) -> str:
    Limit.parse(text)
    return text


def _lower(text: object) -> object:
    return text.lower() if isinstance(text, str) else text


LimitText = Annotated[str, AfterValidator(_limit)]
"""BURST/PERIOD, or off."""


class LimitSettings(ProcessSettings):
    """Rate limits and trusted proxies; generous, since a whole company may share one address or one account."""

    limit_accounts_per_address: LimitText = Field(
        "500/3h", description="new accounts from one IPv4 address or IPv6 /64: BURST/PERIOD (s, m, h, d), or off"
    )
    limit_orders_per_account: LimitText = Field("5000/3h", description="new orders of one account, or off")
    limit_renewals_per_account: LimitText = Field(
        "20000/3h", description="new orders of one account that renewal information exempts from limits, or off"
    )
    limit_orders_per_account_and_name: LimitText = Field(
        "200/1d", description="new orders of one account for one name, or off"
    )
    limit_certificates_per_name: LimitText = Field(
        "200/1d", description="certificates for one name, of all accounts that have proven control of it, or off"
    )
    limit_failed_validations: LimitText = Field(
        "60/1h", description="failed validations of one account and name before it may order the name again, or off"
    )
    limit_failed_validations_per_account: LimitText = Field(
        "2000/1h",
        description="failed validations of one account, whatever the names, before it may order again, or off",
    )
    trusted_proxies: Networks = Field(
        (), description="reverse proxies (CIDR, comma separated) whose proxy_header names the client; empty: none"
    )
    proxy_header: Annotated[ProxyHeader, BeforeValidator(_lower)] = Field(
        "x-forwarded-for", description="what trusted proxies write: x-forwarded-for or forwarded (RFC 7239)"
    )

    @property
    def limits(self) -> Limits:
        """The limits of those who have no other."""
        return Limits(
            accounts_per_address=Limit.parse(self.limit_accounts_per_address),
            orders_per_account=Limit.parse(self.limit_orders_per_account),
            renewals_per_account=Limit.parse(self.limit_renewals_per_account),
            orders_per_account_and_name=Limit.parse(self.limit_orders_per_account_and_name),
            certificates_per_name=Limit.parse(self.limit_certificates_per_name),
            failed_validations=Limit.parse(self.limit_failed_validations),
            failed_validations_per_account=Limit.parse(self.limit_failed_validations_per_account),
        )
