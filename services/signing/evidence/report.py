"""The short report of a release: what its evidence shows for SLSA's build track and the Cyber Resilience Act.

It claims nothing that the files beside it do not show. What this service cannot know (whom to tell of vulnerabilities,
how updates reach users, how a build platform is run) is "unknown" here, not "no".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from pkicore.clock import from_unix
from services.signing.retention import kept_until
from services.signing.wire import SignatureRecord

State = Literal["shown", "not shown", "unknown"]
_TEN_YEARS: Final = "10y"
_LISTED: Final = 64  # subjects that the text names


@dataclass(frozen=True, slots=True)
class Finding:
    """What the evidence says about one requirement.

    Attributes:
        reference: where it is demanded.
        requirement: in short.
        state: shown, not shown, unknown.
        detail: why.
    """

    reference: str
    requirement: str
    state: State
    detail: str


@dataclass(frozen=True, slots=True)
class Kept:
    """How long one signature is kept: the rule, the date (None: no date is promised), and whether it is held."""

    signature: str
    rule: str | None
    until: int | None
    held: bool

    def members(self) -> dict[str, Any]:
        """Its JSON members."""
        return {
            "signature": self.signature,
            "rule": self.rule,
            "kept_until": None if self.until is None else _date(self.until),
            "legal_hold": self.held,
        }


def retention_json(kept: Sequence[Kept]) -> bytes:
    """`retention.json`: no signature is removed before its date; where there is no rule, none is removed by one."""
    return _indented({"signatures": [one.members() for one in kept]})


@dataclass(frozen=True, slots=True)
class Report:
    """What is reported of a release."""

    name: str
    records: Sequence[SignatureRecord]
    kept: Sequence[Kept]

    def to_json(self) -> bytes:
        """`report.json`."""
        return _indented(
            {
                "release": self.name,
                "newest_signature": _date(max(record.created for record in self.records)),
                "signatures": [record.id for record in self.records],
                "subjects": [{"name": name, "sha256": sha256} for name, sha256 in self._subjects()],
                "slsa": {"specification": "https://slsa.dev/spec/v1.2", "findings": _members(self.slsa())},
                "cra": {"regulation": "Regulation (EU) 2024/2847", "findings": _members(self.cra())},
                "retention": [one.members() for one in self.kept],
            }
        )

    def to_markdown(self) -> bytes:
        """`report.md`."""
        subjects = list(self._subjects())
        lines = [f"# Evidence of {self.name}", ""]
        lines += [f"- {_quoted(name)}: `sha256:{sha256}`" for name, sha256 in subjects[:_LISTED]]
        if len(subjects) > _LISTED:
            lines.append(f"- and {len(subjects) - _LISTED} more, in report.json")
        lines += ["", f"{len(self.records)} signing requests; VERIFY.md says how to check them.", ""]
        lines += ["## SLSA 1.2, build track", "", *_table(self.slsa())]
        lines += ["", "## Cyber Resilience Act, Regulation (EU) 2024/2847", "", *_table(self.cra())]
        lines += ["", "## How long this is kept", ""]
        lines += [f"- {one.signature}: {_kept_text(one)}" for one in self.kept]
        return ("\n".join(lines) + "\n").encode()

    def slsa(self) -> list[Finding]:
        """What is shown of the build track."""
        without = [record.id for record in self.records if record.provenance is None]
        if not without:
            builders = sorted({str((record.provenance or {}).get("builder_id")) for record in self.records})
            provenance = Finding("Build L1", "provenance exists", "shown", f"builder: {', '.join(builders)[:500]}")
        else:
            detail = f"{len(without)} of {len(self.records)} signing requests came without provenance"
            provenance = Finding("Build L1", "provenance exists", "not shown", detail)
        return [
            provenance,
            Finding("Build L2", "provenance is made by the build platform", "not shown", _ORIGIN),
            Finding("Build L3", "builds are isolated from each other", "not shown", "nothing here speaks of it"),
            Finding("Build", "artefacts are signed by keys that build steps cannot reach", "shown", _CUSTODY),
            Finding("Build", "a policy decided on each signature", "shown", self._policies()),
            self._logged(),
        ]

    def cra(self) -> list[Finding]:
        """What is shown of Annex I, Annex VII and Article 13."""
        return [
            self._sbom(),
            Finding("Annex I Part II (5), Annex VII 2(b)", "policy on coordinated disclosure", "unknown", _UNTOLD),
            Finding("Annex I Part II (6), Annex VII 2(b)", "contact for vulnerabilities", "unknown", _UNTOLD),
            Finding("Annex I Part I (2)(f)", "integrity of software is protected", "shown", _INTEGRITY),
            Finding("Annex I Part II (7), Annex VII 2(b)", "secure distribution of updates", "unknown", _UPDATES),
            Finding("Annex VII 3", "assessment of cybersecurity risks", "unknown", _UNTOLD),
            self._kept_ten_years(),
        ]

    def _subjects(self) -> Iterator[tuple[str, str]]:
        return iter(sorted({(one.name, one.sha256) for record in self.records for one in record.subjects}))

    def _policies(self) -> str:
        return "policy set " + ", ".join(sorted({record.policy.sha256 for record in self.records}))

    def _logged(self) -> Finding:
        logged = [record.log for record in self.records if record.log is not None]
        what, detail = "signatures are in a transparency log", f"{len(logged)} of {len(self.records)} signing requests"
        return Finding("Build", what, "shown" if len(logged) == len(self.records) else "not shown", detail)

    def _sbom(self) -> Finding:
        found = [record.sbom for record in self.records if record.sbom is not None]
        reference, what = "Annex I Part II (1), Annex VII 2(b) and 8", "SBOM in a commonly used format"
        if not found:
            return Finding(reference, what, "not shown", "no SBOM came with any of the signing requests")
        formats = sorted({f"{sbom.get('format')} {sbom.get('version')}" for sbom in found})
        missing = sum(len(sbom.get("bsi", {}).get("findings", ())) for sbom in found)
        guideline = f"; against BSI TR-03183-2 {missing} requirements are not met" if missing else ""
        return Finding(reference, what, "shown", ", ".join(formats) + guideline)

    def _kept_ten_years(self) -> Finding:
        reference, what = "Article 13(13)", "documentation is kept ten years after placing on the market"
        for record, kept in zip(self.records, self.kept, strict=True):
            if kept.until is None:
                return Finding(reference, what, "unknown", f"no date is promised for {kept.signature}")
            if kept.until < kept_until(record.created, _TEN_YEARS):
                return Finding(reference, what, "not shown", f"{kept.signature} is kept until {_date(kept.until)}")
        return Finding(reference, what, "shown", "ten years after signing; when it was placed on the market is unknown")


_ORIGIN: Final = "provenance here was brought by whoever asked for the signature; its own signatures were not checked"
_CUSTODY: Final = "keys are held by signer-hsm, or were made for one signature with a certificate that names the caller"
_UNTOLD: Final = "this service is not told"
_UPDATES: Final = "signatures let receivers check updates; how these are distributed, this service is not told"
_INTEGRITY: Final = "signatures over the digests of all artefacts named above"


def _members(findings: Sequence[Finding]) -> list[dict[str, str]]:
    return [{name: getattr(one, name) for name in Finding.__slots__} for one in findings]


def _table(findings: Sequence[Finding]) -> list[str]:
    rows = [[one.reference, one.requirement, one.state, one.detail] for one in findings]
    lines = ["| where | what | state | detail |", "|---|---|---|---|"]
    return lines + ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _quoted(text: str) -> str:
    """A name of the tenant's, as code: without anything that Markdown or HTML would act on."""
    return "`" + text.replace("`", "'").replace("\n", " ") + "`"


def _kept_text(kept: Kept) -> str:
    held = "; under a legal hold" if kept.held else ""
    if kept.until is None:
        return f"no rule removes it, and no date is promised{held}"
    return f"not removed before {_date(kept.until)} ({kept.rule or 'promised before'}){held}"


def _date(at: int) -> str:
    return f"{from_unix(at):%Y-%m-%dT%H:%M:%SZ}"


def _indented(members: dict[str, Any]) -> bytes:
    return orjson.dumps(members, option=orjson.OPT_INDENT_2) + b"\n"
