"""Whether a Statement is about an artefact."""

from __future__ import annotations

from collections.abc import Mapping

from pkicore.dsse import IN_TOTO_PAYLOAD
from pkicore.errors import UnsupportedError
from pkicore.jose.strict import strict_object
from services.signing.statements import STATEMENT_TYPE
from services.signing.verification.errors import WrongArtefactError


def check_statement(payload_type: str, payload: bytes, digests: Mapping[str, bytes]) -> None:
    """The Statement names the artefact; matched by SHA-256 alone, as in-toto's verifiers do.

    Raises:
        WrongArtefactError: it does not, or is no Statement.
        UnsupportedError: the artefact's SHA-256 is not given.
        MalformedError: it does not parse.
    """
    if payload_type != IN_TOTO_PAYLOAD:
        raise WrongArtefactError(f"the payload is {payload_type!a}, which names no artefact")
    statement = strict_object(payload, "the Statement")
    subjects = statement.get("subject")
    if statement.get("_type") != STATEMENT_TYPE or not isinstance(subjects, list):
        raise WrongArtefactError("the payload is no in-toto Statement of version 1")
    if "sha256" not in digests:
        raise UnsupportedError("a Statement names artefacts by their sha256, which is not given")
    wanted = digests["sha256"].hex()
    for subject in subjects:
        digest = subject.get("digest") if isinstance(subject, dict) else None
        if isinstance(digest, dict) and digest.get("sha256") == wanted:
            return
    raise WrongArtefactError("the Statement is about other artefacts")
