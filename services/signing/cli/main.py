"""The command group of `pqcsign`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import click

from services.chassis.cli.lazy import LazyGroup
from services.chassis.cli.output import log_errors_only

# Command -> the module of this package that has it, and its first sentence for `pqcsign --help`.
_COMMANDS: Final[Mapping[str, tuple[str, str, str]]] = MappingProxyType(
    {
        "sign": ("sign", "sign", "Have files or digests signed, with their SBOM and provenance."),
        "verify": ("verify", "verify", "Verify a file's signature, without asking anybody."),
        "show": ("show", "show", "Show a signature's record, or search for records."),
        "policy": ("policy", "policy", "Show policies in force; test them against their cases."),
        "login": ("login", "login", "Log in at an OIDC issuer, by a browser on any device."),
        "logout": ("login", "logout", "Forget what `login` has stored."),
        "api-keys": ("api_keys", "api_keys", "Create, list and revoke API keys."),
        "webhooks": ("webhooks", "webhooks", "Receivers of events, and what died on its way to them."),
        "evidence": ("evidence", "evidence", "Archives for auditors: create, list, download, verify."),
        "holds": ("holds", "holds", "Legal holds: show what keeps a signature, create, delete."),
        "trusted-root": ("trusted_root", "trusted_root", "Fetch trusted_root.json, which verifiers need."),
    }
)


_HELP: Final = """\
Have artefacts signed, and verify what was signed. A file never leaves the machine; its digests do.

The service is that of the deployment in DIR, or --url with the roots in --ca. The first of these credentials that is
there is shown, and named on standard error:

\b
  1  an option: --api-key-file, --cert with --key-file, --token-file
  2  the variables PQCSIGN_API_KEY_FILE or PQCSIGN_API_KEY,
     PQCSIGN_CERT with PQCSIGN_KEY_FILE, PQCSIGN_TOKEN_FILE
  3  the OIDC token of a GitHub Actions job (permissions: id-token: write)
  4  that of a GitLab job (id_tokens: PQCSIGN_ID_TOKEN or SIGSTORE_ID_TOKEN)
  5  what `pqcsign login` has stored for this service
  6  the operator's certificate, where DIR is the deployment itself

\b
Exit status:
  0  done; verified
  1  refused: by the service or its policy; or it does not verify
  2  wrong usage, or no credential
  3  the service, signer or issuer is away or busy: try again,
     with the same --idempotency-key
  4  a file cannot be read or written
"""


@click.group(
    cls=LazyGroup,
    package=__package__,
    table=_COMMANDS,
    help=_HELP,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="pqcpki", message="pqcpki %(version)s")
def main() -> None:
    """Begin; what the program is for is said above."""
    log_errors_only()
