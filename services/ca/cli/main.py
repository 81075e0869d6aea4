"""The command group. A command's module is imported when it is used, since SQL, TLS and HTTP take a second to load."""

import importlib
import logging
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import click
import structlog

# Command -> the module of this package that has it, and its first sentence for `ztca --help`.
_COMMANDS: Final[Mapping[str, tuple[str, str, str]]] = MappingProxyType(
    {
        "init": ("init", "init", "Make a new PKI: roots, issuing CAs, identities, settings."),
        "up": ("up", "up", "Run every service of a deployment."),
        "endpoints": ("endpoints", "endpoints", "Print where a running deployment answers."),
        "issue": ("certificates", "issue", "Make a client identity for a workload."),
        "revoke": ("certificates", "revoke", "Revoke a certificate."),
        "crl": ("certificates", "crl", "Certificate revocation lists."),
        "ca": ("roots", "ca", "The roots and issuing CAs."),
        "keys": ("keys", "keys", "Move the issuing keys into a back end of signer-hsm, and back."),
        "audit": ("audit", "audit", "Verify or export the audit logs."),
        "probe": ("probe", "probe", "Show what a TLS listener shows."),
    }
)


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"services.ca.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, _, sentence) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pqcpki", message="pqcpki %(version)s")
def main() -> None:
    """Make, run and operate a pqcpki deployment.

    Begin with `ztca init --dir DIR`, then `ztca up --dir DIR`.
    """
    quiet = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=quiet, logger_factory=structlog.PrintLoggerFactory(sys.stderr))
