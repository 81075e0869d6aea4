"""`pqcsign policy`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from pkicore.encoding import write_new
from services.chassis.cli.output import directory_option, json_option, tell
from services.signing.callers.errors import CallerError
from services.signing.cli.connection import Route, service_command
from services.signing.cli.delivery import file_name
from services.signing.cli.failures import FILES, REFUSED, CommandError, failing, plain_lines
from services.signing.cli.moments import utc
from services.signing.policy import CaseResult, PolicySchema, PolicySet, read_cases, run_cases, run_directory_cases
from services.signing.policy.errors import SigningPolicyError

_MAX_FILE: Final = 4 << 20
_POLICIES: Final = Path("config") / "signing-policies"


@click.group()
def policy() -> None:
    """Signing policies, which say in Cedar who may have what signed."""


@policy.command()
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--policies", type=click.Path(path_type=Path), help="Directory of *.cedar. [default: DIR/config/signing-policies]"
)
@click.option("--claim", "claims", metavar="NAME", multiple=True, help="Further claim, as more_claims has it.")
@directory_option
@json_option
def test(
    files: tuple[Path, ...],
    policies: Path | None,
    claims: tuple[str, ...],
    directory: Path,
    as_json: bool,  # noqa: FBT001 - a command-line flag
) -> None:
    """Ask policies the questions in FILEs, or in the *.test.toml and *.test.json beside the policies.

    Nothing is asked of the service, and nothing comes into force. Exit status 1 where a policy makes no sense or an
    answer is not the expected one.
    """
    with failing():
        try:
            found = PolicySet.load(policies or directory / _POLICIES, PolicySchema(claims))
            results = _results(files, found, policies or directory / _POLICIES)
        except (SigningPolicyError, CallerError) as error:
            raise CommandError(str(error), REFUSED) from error
        count = sum(len(cases) for cases in results.values())
        failed = [(file, case) for file, cases in results.items() for case in cases if not case.passed]
        if not count:
            raise CommandError("there is no case: nothing was tested", REFUSED, "write one into a file NAME.test.toml")
        value = {
            "sha256": found.sha256,
            "passed": count - len(failed),
            "failed": len(failed),
            "cases": [
                {"file": file, "name": case.name, "passed": case.passed, "message": case.message}
                for file, cases in results.items()
                for case in cases
            ],
        }
        lines = [f"{file}: {case.name}: {case.message}" for file, case in failed]
        tell(as_json, value, *lines, f"{count - len(failed)} of {count} cases passed; policies sha256 {found.sha256}")
        if failed:
            raise click.exceptions.Exit(REFUSED)


@policy.command()
@click.argument("sha256", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Write its files into this new directory.")
@service_command
@json_option
def show(sha256: str | None, out: Path | None, route: Route, as_json: bool) -> None:  # noqa: FBT001 - a command-line flag
    """Show the policies in force, or the set with this SHA-256, which a record or a summary names."""
    found = route.run(lambda service: service.policies(sha256))
    names = [file_name(name) for name in found.files]
    if out is not None:
        out.mkdir(parents=True)
        for name, text in zip(names, found.files.values(), strict=True):
            write_new(out / name, text.encode(), 0o644)
    head = f"version {found.version}, sha256 {found.sha256}, in force since {utc(found.at)}"
    texts = [f"\n// {name}\n{plain_lines(text)}" for name, text in found.files.items()]
    tell(as_json, found.members(), head, *(map(str, sorted(out.iterdir())) if out is not None else texts))


def _results(files: tuple[Path, ...], policies: PolicySet, directory: Path) -> Mapping[str, tuple[CaseResult, ...]]:
    if not files:
        return run_directory_cases(directory, policies)
    return {str(file): run_cases(policies, read_cases(str(file), _text(file))) for file in files}


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MAX_FILE)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not UTF-8 text", FILES) from error
