"""SBOMs: which format a document is in, whether it keeps that format's rules, and what it says of itself.

CycloneDX JSON 1.4 to 1.7, SPDX 2.2 and 2.3 JSON, SPDX 3.0 JSON-LD. The service uses `SbomChecker`; the rules run in a
process of their own (`check`), so nothing here loads the formats' libraries.
"""

from services.signing.sbom.checker import SbomChecker
from services.signing.sbom.errors import (
    BadSbomError,
    Problem,
    SbomBusyError,
    SbomCheckFailedError,
    SbomError,
    SbomTooCostlyError,
)
from services.signing.sbom.limits import Limits
from services.signing.sbom.record import BsiReport, Description, Finding, Sbom

__all__ = [
    "BadSbomError",
    "BsiReport",
    "Description",
    "Finding",
    "Limits",
    "Problem",
    "Sbom",
    "SbomBusyError",
    "SbomCheckFailedError",
    "SbomChecker",
    "SbomError",
    "SbomTooCostlyError",
]
