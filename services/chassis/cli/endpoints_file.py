"""`endpoints.json` as commands read it; by itself, since scripts ask for it often and TLS takes long to load."""

from pathlib import Path
from typing import Any

import orjson

from services.chassis.errors import DeploymentError


def read_endpoints(directory: Path) -> dict[str, Any]:
    """What runs below a state directory.

    Raises:
        DeploymentError: nothing does; the sentence says how to start it.
    """
    root = directory.absolute()
    if not root.is_dir():
        raise DeploymentError(f"there is no PKI in {root}: make one with `ztca init --dir {directory}`")
    file = root / "endpoints.json"
    try:
        endpoints = orjson.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise DeploymentError(f"nothing runs in {root}: start it with `ztca up --dir {directory}`") from error
    except orjson.JSONDecodeError as error:
        raise DeploymentError(f"{file} is not JSON: stop `ztca up`, and start it again") from error
    if not isinstance(endpoints, dict):
        raise DeploymentError(f"{file} is not an object: stop `ztca up`, and start it again")
    return endpoints
