"""Names of tenants, as signer-hsm has them."""

from typing import Annotated

from pydantic import Field

TenantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
