"""The command group of `keyctl`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import click

from services.chassis.cli.lazy import LazyGroup
from services.chassis.cli.output import log_errors_only

# Command -> the module of this package that has it, and its first sentence for `keyctl --help`.
_COMMANDS: Final[Mapping[str, tuple[str, str, str]]] = MappingProxyType(
    {
        "keys": ("keys", "keys", "List, show, create, rotate, disable, enable and destroy keys."),
        "sign": ("signing", "sign", "Have a key sign a digest, a mu or a message, and verify the signature."),
        "pubkey": ("signing", "pubkey", "Print the public key of a key."),
        "attestation": ("attestation", "attestation", "Show what vouches for a key, or hand in a device's statement."),
        "approvals": ("approvals", "approvals", "Approve what others are about to do with a key."),
        "policy": ("policy", "policy", "Check or hash a key policy; show which one is in force."),
        "health": ("health", "health", "Say whether the back ends can sign."),
    }
)


@click.group(
    cls=LazyGroup, package=__package__, table=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="pqcpki", message="pqcpki %(version)s")
def main() -> None:
    """Use and look after the keys behind signer-hsm. A key is called TENANT.NAME, as in ca.issuing-ecdsa.

    Without --cert and --key, commands act as the deployment's operator. Elsewhere than on the deployment's machine, DIR
    holds a copy of its endpoints.json and trust/, and --url says where signer-hsm is.

    Exit status: 0 done, 1 something is wrong here, 2 wrong usage, 3 signer-hsm refuses, 4 it cannot do it now.
    """
    log_errors_only()
