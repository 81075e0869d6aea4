"""`keyctl`: the command line of signer-hsm, over the same mutual TLS and under the same policies as every caller."""

from services.signer_hsm.cli.main import main

__all__ = ["main"]
