"""`pqcsign`: the command line of the signing service, for CI jobs and people."""

from services.signing.cli.main import main

__all__ = ["main"]
