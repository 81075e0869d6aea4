"""`deploy/generate.py`, which is a command and no module of a package."""

import functools
import importlib.util
from types import ModuleType

from tests.support.kustomization import DEPLOY


@functools.cache
def generator() -> ModuleType:
    """The loaded command."""
    spec = importlib.util.spec_from_file_location("deploy_generate", DEPLOY / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
