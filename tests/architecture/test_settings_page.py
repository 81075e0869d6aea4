from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from services.acme.settings import AcmeSettings
from services.ca.settings import CaSettings
from services.chassis.settings import ServiceSettings
from services.signer_hsm.settings import SignerSettings
from services.signing.settings import SigningSettings
from tests.support.console import ROOT

PAGE = ROOT / "docs/operations/settings.md"
TABLES = {
    "issuers",
    "roots",
    "identities",
    "backends",
    "oidc_issuers",
    "profiles",
    "mtls_callers",
    "quota",
    "tenant_quotas",
    "webhooks",
    "retention",
}
"""What stands in the TOML file alone, and is no variable."""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(written by `ztca init`)"
    value = field.default
    text = ",".join(str(part) for part in value) if isinstance(value, tuple) else str(value)
    return f"`{text}`" if text else "(empty)"


def rows(settings: type[ServiceSettings]) -> list[str]:
    """The lines of the page for one service, a setting each."""
    prefix = settings.model_config.get("env_prefix", "")
    return [
        f"| `{prefix}{name.upper()}` | {_default(field)} | {(field.description or '').rstrip('.')} |"
        for name, field in settings.model_fields.items()
        if name not in TABLES
    ]


@pytest.mark.parametrize(
    "settings",
    [CaSettings, AcmeSettings, SignerSettings, SigningSettings],
    ids=["ca", "acme", "signer-hsm", "signing"],
)
def test_the_settings_page_is_complete_and_true(settings: type[ServiceSettings]) -> None:
    """Every setting stands in docs/operations/settings.md with its default and its meaning."""
    page = Path(PAGE).read_text().splitlines()
    assert [row for row in rows(settings) if row not in page] == []
