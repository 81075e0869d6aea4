import re
import tomllib

from tests.support.console import ROOT, blocks, pages


def test_every_console_block_says_who_runs_it() -> None:
    """A command in the documentation is run by a named test, or says why not."""
    for page in pages():
        for block in blocks(page):
            assert block.commands, f"{page}: a console block without a command"
            runner = re.fullmatch(r"run by: (tests/\S+\.py)|not run: .{10,}", block.marker)
            assert runner, f"{page}: {block.commands[0]!r} has no marker 'run by: TEST' or 'not run: REASON'"
            assert runner[1] is None or (ROOT / runner[1]).exists(), f"{page}: {runner[1]} does not exist"


def test_every_relative_link_leads_somewhere() -> None:
    """Links between pages of the documentation do not rot."""
    for page in pages():
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_every_dependency_is_explained() -> None:
    """Each dependency, of the product and of its tests, stands in the decision that says why it was taken."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [
        *project["dependencies"],
        *(entry for extra in project["optional-dependencies"].values() for entry in extra),
    ]
    explained = (ROOT / "docs/adr/0002-dependencies.md").read_text().lower()
    for requirement in named:
        name = re.split(r"[<>=\[ ]", requirement)[0].lower()
        assert name == project["name"] or name in explained, f"{name} is not named in docs/adr/0002-dependencies.md"
