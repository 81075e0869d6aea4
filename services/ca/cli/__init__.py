"""`ztca`: the command line of the CA. Each command says what it did, or in one sentence what to do next."""

from services.ca.cli.main import main

__all__ = ["main"]
