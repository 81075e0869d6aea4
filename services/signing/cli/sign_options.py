"""What `pqcsign sign` was told: checked as far as that needs neither a file nor the service, and made a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from pkicore.errors import MalformedError
from services.signing.cli.delivery import written_name
from services.signing.cli.failures import FILES, USAGE, CommandError
from services.signing.cli.hashing import Artefact, read_digests
from services.signing.statements import Subject
from services.signing.wire import Format, SignatureRequest, checked_idempotency_key

DEFAULT_PROFILE: Final = "default"
_MAX_SUBJECTS: Final = 1000
_SOMETHING: Final = (Subject("artefact", {"sha256": "0" * 64}),)


@dataclass(frozen=True, slots=True)
class SignOptions:
    """The command line; None: not given."""

    files: tuple[Path, ...]
    digests: tuple[str, ...]
    names: tuple[str, ...]
    sbom: Path | None
    provenance: Path | None
    provenance_from_ci: bool
    key: str | None
    profile: str | None
    oidc: bool
    formats: tuple[str, ...]
    prepare_for: tuple[str, ...]
    context: tuple[str, ...]
    idempotency_key: str | None
    out: Path | None
    force: bool
    progress: bool

    def check(self) -> None:
        """Raises CommandError where options do not go together, or one makes no sense."""
        if sum((self.key is not None, self.profile is not None, self.oidc)) > 1:
            raise CommandError("give one of --key, --profile and --oidc", USAGE)
        if self.provenance is not None and self.provenance_from_ci:
            raise CommandError("give one of --provenance and --provenance-from-ci", USAGE)
        self._check_artefacts()
        try:
            if self.idempotency_key is not None:
                checked_idempotency_key(self.idempotency_key)
            SignatureRequest.from_json(self._request(_SOMETHING, {}).to_json())
        except MalformedError as error:
            raise CommandError(str(error), USAGE) from error
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise CommandError(f"{self.out} is no directory", FILES)

    @property
    def described(self) -> list[Artefact]:
        """The artefacts of which only digests are given."""
        pairs = zip(self.names, map(read_digests, self.digests), strict=True)
        return [Artefact(None, name, digests) for name, digests in pairs]

    @property
    def targets(self) -> list[Path]:
        """What the names of the files to be written begin with, one for each artefact."""
        beside = [*self.files, *(Path(written_name(name)) for name in self.names)]
        return [path if self.out is None else self.out / path.name for path in beside]

    @property
    def wanted_formats(self) -> tuple[Format, ...] | None:
        """None: those of the profile."""
        return cast("tuple[Format, ...]", tuple(dict.fromkeys(self.formats))) or None

    def request(self, artefacts: Sequence[Artefact]) -> SignatureRequest:
        """What the service is asked."""
        return self._request(tuple(artefact.subject for artefact in artefacts), artefacts[0].mu)

    def _check_artefacts(self) -> None:
        if len(self.digests) != len(self.names):
            raise CommandError("each --digest needs a --name, in the same order, and each --name a --digest", USAGE)
        if not 0 < len(self.files) + len(self.digests) <= _MAX_SUBJECTS:
            raise CommandError(f"give 1 to {_MAX_SUBJECTS} artefacts: FILEs, or --digest and --name", USAGE)
        try:
            names = {*(file.name for file in self.files), *map(written_name, self.names)}
        except MalformedError as error:
            raise CommandError(f"--name: {error}", USAGE) from error
        if len(names) < len(self.files) + len(self.names):
            raise CommandError("no two artefacts may have the same name: what is written is called by it", USAGE)
        for artefact in self.described:
            if "sha256" not in artefact.digests:
                raise CommandError(
                    f"the digests of {artefact.name} lack sha256", USAGE, "give --digest sha256:HEX,sha512:HEX"
                )
        if "cms" in self.formats and len(self.files) + len(self.names) > 1:
            raise CommandError("a CMS signature is about one artefact", USAGE, "sign one at a time with --format cms")
        if self.names and self.prepare_for:
            raise CommandError("what --prepare-for needs is computed from a FILE; a digest does not do", USAGE)

    def _request(self, subjects: tuple[Subject, ...], mu: Mapping[str, bytes]) -> SignatureRequest:
        return SignatureRequest(
            subjects,
            profile=self.profile if self.key or self.oidc else self.profile or DEFAULT_PROFILE,
            key=self.key,
            formats=self.wanted_formats,
            identity=self.oidc,
            context=dict(map(_pair, self.context)),
            mu=mu,
        )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise CommandError("--context is NAME=VALUE, as in ticket=REL-7", USAGE)
    return name, value
