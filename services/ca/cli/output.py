"""How `ztca` speaks: as every command line of the project, and its own errors are sentences too."""

from functools import partial

from services.ca.client import CaError
from services.ca.errors import CaServiceError
from services.chassis.cli import output
from services.chassis.cli.output import PlainPath, directory_option, json_option, tell

__all__ = ["PlainPath", "directory_option", "failing_cleanly", "json_option", "tell"]

failing_cleanly = partial(output.failing_cleanly, "ztca", CaServiceError, CaError)
