"""The command group of `ztca`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import click

from services.chassis.cli.lazy import LazyGroup
from services.chassis.cli.output import log_errors_only

# Command -> its module (of this package, or by its full name), and its first sentence for `ztca --help`.
_COMMANDS: Final[Mapping[str, tuple[str, str, str]]] = MappingProxyType(
    {
        "init": ("init", "init", "Make a new PKI: roots, issuing CAs, identities, settings."),
        "up": ("up", "up", "Run every service of a deployment."),
        "warm-up": ("up", "warm_up", "Renew what ran out, before others start the services."),
        "endpoints": ("endpoints", "endpoints", "Print where a running deployment answers."),
        "issue": ("certificates", "issue", "Make a client identity for a workload."),
        "certify": ("certify", "certify", "Have a certificate request certified, as its operator."),
        "revoke": ("revocation", "revoke", "Revoke certificates, for good."),
        "hold": ("revocation", "hold", "Hold certificates: revoked until they are released."),
        "release": ("revocation", "release", "Release certificates that are held."),
        "block": ("block", "block", "Keys that are never certified again."),
        "profiles": ("profiles", "profiles", "Check and show the certificate profiles."),
        "debian-keys": ("debian_keys", "debian_keys", "Make the list of Debian's weak keys."),
        "crl": ("certificates", "crl", "Certificate revocation lists."),
        "list": ("ledger", "list_command", "List what was issued, or refused."),
        "search": ("ledger", "search", "Find certificates by name, account, key, end, profile, status."),
        "show": ("ledger", "show", "Show all that is known of a certificate."),
        "export": ("ledger", "export", "Write the ledger, or a search of it, to a file."),
        "ca": ("ca", "ca", "Roots and issuing CAs: list, prepare, activate, retire."),
        "perspective": ("perspective", "perspective", "Remote perspectives of the ACME server: make one."),
        "keys": ("keys", "keys", "Move the issuing keys into a back end of signer-hsm, and back."),
        "acme": ("services.acme.cli.main", "acme", "The ACME server's accounts and limits; and a client."),
        "eab": ("services.acme.cli.eab", "eab", "External accounts: who may make ACME accounts, for which names."),
        "incident": ("services.acme.cli.incident", "incident", "Have clients renew certificates at once (ARI)."),
        "audit": ("audit", "audit", "Verify or export the audit logs."),
        "pqc": ("pqc", "pqc", "List what is still classical."),
        "probe": ("probe", "probe", "Show what a TLS listener shows."),
    }
)


@click.group(
    cls=LazyGroup, package=__package__, table=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="pqcpki", message="pqcpki %(version)s")
def main() -> None:
    """Make, run and operate a pqcpki deployment.

    Begin with `ztca init --dir DIR`, then `ztca up --dir DIR`.
    """
    log_errors_only()
